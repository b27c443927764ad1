"""Which patch a ray meets first, for rays that share a projection: a camera's, or those of a distant light.

In such a view a patch is a set of functions that are linear in the homogeneous position on the plane z = 1 (Olano &
Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997): the ray hits where all of them are positive,
and the largest nearness wins. Patches are listed by square tiles of the picture first, so that a ray looks at the few
that may be in its tile only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

TILE = 8
"""Side of a tile in pixels."""

BRANCH = 4
"""Each tile of a coarser grid is this many tiles of the next finer one across."""

BORDER = {torch.float32: 1e-5, torch.float64: 1e-10}
"""By how much of itself a patch is enlarged, so that no ray slips through between two of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Facets:
    """Patches of several views as linear functions: four to be positive within the patch, and the nearness.

    Attributes:
        functions: coefficients of (x, y, 1).
        view: which view each belongs to, in ascending order.
        patch: which patch of the view's scene it is.
    """

    functions: Float[Tensor, "M 5 3"]
    view: Int[Tensor, " M"]
    patch: Int[Tensor, " M"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TileLists:
    """Facets by tile: those of tile t are ``facet[start[t] : start[t] + count[t]]``, tiles numbered through all views.

    Attributes:
        facet: row of ``Facets``.
        start, count: of each tile.
        rows, columns: tiles of one view.
    """

    facet: Int[Tensor, " K"]
    start: Int[Tensor, " T"]
    count: Int[Tensor, " T"]
    rows: int
    columns: int

    def tile_of(self, view: Int[Tensor, "*r"], xy: Float[Tensor, "*r 2"]) -> Int[Tensor, "*r"]:
        """The tile of pixels, which are held within the picture."""
        cell = (xy / TILE).floor().long()
        column, row = cell[..., 0].clamp(0, self.columns - 1), cell[..., 1].clamp(0, self.rows - 1)
        return (view * self.rows + row) * self.columns + column


def perspective_facets(
    corner: Float[Tensor, "V P 3"],
    edge_u: Float[Tensor, "V P 3"],
    edge_v: Float[Tensor, "V P 3"],
    triangle: Bool[Tensor, "V P"],
    valid: Bool[Tensor, "V P"],
) -> Facets:
    """Facets seen by cameras, from patches in camera coordinates; nearness is the inverse depth.

    With t the depth of the ray d = (x, y, 1): t d = corner + u edge_u + v edge_v, solved by Cramer's rule.
    """
    normal = torch.linalg.cross(edge_u, edge_v)
    distance = (normal * corner).sum(-1)
    seen = valid & (distance < -1e-12)  # noqa: PLR2004 (turned to the camera, and not a line)
    scale = 1 / torch.where(seen, distance, -torch.ones_like(distance))[..., None]
    u = torch.linalg.cross(edge_v, corner) * scale
    v = torch.linalg.cross(corner, edge_u) * scale
    return _facets(u, v, normal * scale, normal * scale, triangle, seen)


def parallel_facets(
    corner: Float[Tensor, "V P 3"],
    edge_u: Float[Tensor, "V P 3"],
    edge_v: Float[Tensor, "V P 3"],
    triangle: Bool[Tensor, "V P"],
    valid: Bool[Tensor, "V P"],
    far: Float[Tensor, " V"],
) -> Facets:
    """Facets seen along z by parallel rays through (x, y); nearness is 1 at z = -far and 0 at z = far."""
    determinant = edge_u[..., 0] * edge_v[..., 1] - edge_u[..., 1] * edge_v[..., 0]
    seen = valid & (determinant < -1e-12)  # noqa: PLR2004
    scale = 1 / torch.where(seen, determinant, -torch.ones_like(determinant))
    (ax, ay, az), (bx, by, bz), (px, py, pz) = edge_u.unbind(-1), edge_v.unbind(-1), corner.unbind(-1)
    u = torch.stack([by, -bx, bx * py - by * px], -1) * scale[..., None]
    v = torch.stack([-ay, ax, ay * px - ax * py], -1) * scale[..., None]
    one = torch.zeros_like(u)
    one[..., 2] = 1
    z = u * az[..., None] + v * bz[..., None] + one * pz[..., None]
    nearness = 0.5 * (one - z / far[:, None, None])
    return _facets(u, v, one, nearness, triangle, seen)


def _facets(u: Tensor, v: Tensor, whole: Tensor, nearness: Tensor, triangle: Tensor, seen: Tensor) -> Facets:
    half = triangle[..., None]
    third = torch.where(half, whole - u - v, whole - u)
    fourth = torch.where(half, whole, whole - v)
    view, patch = seen.nonzero(as_tuple=True)
    return Facets(functions=torch.stack([u, v, third, fourth, nearness], -2)[view, patch], view=view, patch=patch)


def tile_boxes(xy: Float[Tensor, "V H W 2"]) -> Float[Tensor, "V rows columns 4"]:
    """Bounds (low x, low y, high x, high y) of the rays of each tile, with a pixel to spare.

    Args:
        xy: position on the z = 1 plane of every pixel; H and W are multiples of ``TILE``.
    """
    views, height, width, _ = xy.shape
    blocks = xy.reshape(views, height // TILE, TILE, width // TILE, TILE, 2)
    low, high = blocks.amin((2, 4)), blocks.amax((2, 4))
    spare = (high - low) / (TILE - 1)
    return torch.cat([low - spare, high + spare], -1)


def to_tiles(planes: Float[Tensor, "V C H W"]) -> Float[Tensor, "T C R"]:
    """Maps cut into tiles, in the order of ``TileLists``; H and W are multiples of ``TILE``."""
    views, channels, height, width = planes.shape
    blocks = planes.reshape(views, channels, height // TILE, TILE, width // TILE, TILE)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, TILE * TILE)


def from_tiles(tiles: Tensor, views: int, height: int, width: int) -> Tensor:
    """The inverse of ``to_tiles``."""
    blocks = tiles.reshape(views, height // TILE, width // TILE, -1, TILE, TILE)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(views, -1, height, width)


def list_by_tile(facets: Facets, boxes: Float[Tensor, "V rows columns 4"]) -> TileLists:
    """Find for each tile the facets that may be in it, from coarse tiles to fine ones."""
    views, rows, columns, _ = boxes.shape
    levels = [boxes.permute(3, 0, 1, 2)]
    while max(levels[-1].shape[2:]) > 1:
        levels.append(_coarser(levels[-1]))
    # single precision will do: the boxes have a pixel to spare
    planes = facets.functions.float().permute(1, 2, 0).contiguous()
    facet = torch.arange(len(facets.view), device=boxes.device)
    row = column = torch.zeros_like(facet)
    child = torch.arange(BRANCH**2, device=boxes.device)
    for depth in range(len(levels) - 1, -1, -1):
        height, width = levels[depth].shape[2:]
        inside = ((row < height) & (column < width)).nonzero().squeeze(-1)
        facet, row, column = (part.index_select(0, inside) for part in (facet, row, column))
        tile = (facets.view.index_select(0, facet) * height + row) * width + column
        keep = _may_meet(planes, facet, levels[depth].flatten(1).index_select(1, tile)).nonzero().squeeze(-1)
        facet, row, column, tile = (part.index_select(0, keep) for part in (facet, row, column, tile))
        if depth > 0:
            facet = facet.repeat_interleave(BRANCH**2)
            row = (BRANCH * row[:, None] + child // BRANCH).flatten()
            column = (BRANCH * column[:, None] + child % BRANCH).flatten()
    order = tile.argsort(stable=True)
    count = torch.bincount(tile, minlength=views * rows * columns)
    return TileLists(facet=facet[order], start=count.cumsum(0) - count, count=count, rows=rows, columns=columns)


def _coarser(boxes: Tensor) -> Tensor:
    rows, columns = boxes.shape[2:]
    padded = functional.pad(boxes, (0, -columns % BRANCH, 0, -rows % BRANCH), mode="replicate")
    low = -functional.max_pool2d(-padded[:2], BRANCH)
    return torch.cat([low, functional.max_pool2d(padded[2:], BRANCH)])


def _may_meet(planes: Tensor, facet: Tensor, box: Tensor) -> Tensor:
    """Whether each function of a facet is positive somewhere in its box."""
    low_x, low_y, high_x, high_y = box
    least = torch.full_like(low_x, torch.inf)
    for function in planes:
        a, b, c = function.index_select(1, facet)
        c += torch.maximum(a * low_x, a * high_x)
        c += torch.maximum(b * low_y, b * high_y)
        torch.minimum(least, c, out=least)
    return least >= 0


def first_hits(
    facets: Facets, lists: TileLists, rays: Float[Tensor, "T 2 R"]
) -> tuple[Float[Tensor, "T R"], Int[Tensor, "T R"]]:
    """The facet each ray of each tile meets first.

    Args:
        facets: of all views.
        lists: facets by tile.
        rays: position on the z = 1 plane of the rays of each tile.

    Returns:
        nearness: of the hit, 0 where there is none.
        facet: row of ``facets``, -1 where there is none.
    """
    order = lists.count.argsort(descending=True, stable=True)
    start, count = lists.start[order], lists.count[order]
    rays = torch.cat([rays, torch.ones_like(rays[:, :1])], 1)[order]
    best = rays.new_zeros(rays.shape[0], rays.shape[2])
    place = torch.zeros_like(best)
    deepest = int(count[0]) if len(count) else 0
    # tiles with more than k facets are the first ones in this order: the k-th facets of all tiles are met at once
    reached = (len(count) - torch.bincount(count, minlength=deepest + 1).cumsum(0)).tolist()
    for k in range(deepest):
        n = reached[k]
        functions = facets.functions.index_select(0, lists.facet.index_select(0, start[:n] + k))
        values = torch.bmm(functions, rays[:n])
        nearness = values[:, 4]
        within = torch.minimum(torch.minimum(values[:, 0], values[:, 1]), torch.minimum(values[:, 2], values[:, 3]))
        # cheaper than a choice by a mask: negative outside, the nearness inside
        within = within.add_(nearness, alpha=BORDER[rays.dtype]).mul_(1e20)
        nearness = torch.minimum(nearness, within)
        closer = (nearness > best[:n]).to(best.dtype).mul_(k + 1)
        torch.maximum(best[:n], nearness, out=best[:n])
        torch.maximum(place[:n], closer, out=place[:n])
    place = place.long()
    row = lists.facet[(start[:, None] + place - 1).clamp(0, max(len(lists.facet) - 1, 0))] if deepest else place
    row = torch.where(place > 0, row, torch.full_like(row, -1))
    nearness_out, facet_out = torch.empty_like(best), torch.empty_like(row)
    nearness_out[order], facet_out[order] = best, row
    return nearness_out, facet_out


def first_hits_of(
    facets: Facets, lists: TileLists, tile: Int[Tensor, " R"], xy: Float[Tensor, "R 2"]
) -> tuple[Float[Tensor, " R"], Int[Tensor, " R"]]:
    """As ``first_hits``, for single rays anywhere in their tiles."""
    count = lists.count[tile]
    ray = torch.arange(len(tile), device=tile.device).repeat_interleave(count)
    before = count.cumsum(0) - count
    facet = lists.facet[lists.start[tile][ray] + torch.arange(len(ray), device=tile.device) - before[ray]]
    point = torch.cat([xy, torch.ones_like(xy[:, :1])], -1)[ray]
    values = (facets.functions[facet] @ point[..., None]).squeeze(-1)
    nearness = values[:, 4]
    hit = (values[:, :4].amin(-1) + BORDER[xy.dtype] * nearness >= 0) & (nearness > 0)
    nearness = torch.where(hit, nearness, torch.zeros_like(nearness))
    best = xy.new_zeros(len(tile)).scatter_reduce(0, ray, nearness, "amax")
    winner = hit & (nearness == best[ray])
    row = torch.full_like(tile, -1).scatter_reduce(0, ray, torch.where(winner, facet, -1), "amax")
    return best, row
