"""Initial match of a query in another frame: global correlation, tested by matching back and by its neighbours.

A query's descriptor is compared with every cell of a frame at once, so a track need not walk from the query's pixel.
Starts that match back to the query vote on a local affinity. Where enough neighbours in the query frame
agree, the query is looked for once more near the place they point to, and the votes are counted again. A start is
believed when it agrees with what its neighbours did; one that disagrees with a clear majority is lent theirs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.tracking.features import STRIDE

SEARCH_AT_ONCE = 512
"""Descriptors compared with a frame together: their scores fit the processor's cache, and are not allocated anew."""


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Settings of the search for starts."""

    way_back_px: float = 12.0  # largest distance from the query after matching back, network pixels
    min_similarity: float = 0.5  # cosine below this is no start at all
    temperature: float = 0.05  # of the soft maximum around the peak
    neighbours: int = 12  # how many neighbours vote on the local affinity
    affinity_px: float = 6.0  # network pixels by which a start may miss what its neighbours say
    min_support: float = 3.0  # neighbours that must agree
    guided_cells: int = 0  # how far around the neighbours' place the second look goes; 0 for no second look
    guided_spread: float = 1.0  # deviation, in cells, of the second look's trust in that place


@dataclass(frozen=True, kw_only=True, eq=False)
class Starts:
    """Starts of Q queries of one frame in one other frame.

    Attributes:
        xy: network pixels.
        affinity: local map from offsets in the query frame to offsets in this frame, network pixels.
        similarity: cosine of the descriptors at the peak.
        support: share of the neighbours in the query frame whose starts agree with the affinity.
        way_back_px: how far from the query its best cell's own search ends, network pixels.
        believed: whether to refine this start at all.
    """

    xy: Float[Tensor, "Q 2"]
    affinity: Float[Tensor, "Q 2 2"]
    similarity: Float[Tensor, " Q"]
    support: Float[Tensor, " Q"]
    way_back_px: Float[Tensor, " Q"]
    believed: Bool[Tensor, " Q"]


def peaks(
    descriptors: Float[Tensor, "Q C"], target: Float[Tensor, "C h w"], config: StartConfig
) -> tuple[Float[Tensor, "Q 2"], Float[Tensor, " Q"], Int[Tensor, " Q"]]:
    """Best match of each descriptor anywhere in a frame.

    Returns:
        xy: network pixels, moved inside the cell by a soft maximum over the 3 x 3 neighbourhood.
        similarity: at the best cell.
        cell: index of the best cell.
    """
    height, width = target.shape[-2:]
    offsets = torch.arange(-1, 2, device=target.device)
    flat = target.flatten(1)
    found = []
    for piece in descriptors.split(SEARCH_AT_ONCE):
        scores = piece @ flat
        similarity, cell = _largest(scores.unflatten(1, (height, width)))
        rows = (cell[:, None, None] // width + offsets[:, None]).expand(-1, 3, 3).flatten(1)
        columns = (cell[:, None, None] % width + offsets).expand(-1, 3, 3).flatten(1)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        window = scores.gather(1, index).masked_fill(~inside, -torch.inf)
        found.append((similarity, cell, window, torch.stack([columns, rows], -1)))
    similarity, cell, window, place = (torch.cat(part) for part in zip(*found, strict=True))
    weight = (window / config.temperature).softmax(-1)
    return (weight[..., None] * (place.to(target.dtype) + 0.5)).sum(1) * STRIDE, similarity, cell


def _largest(scores: Float[Tensor, "Q h w"]) -> tuple[Float[Tensor, " Q"], Int[Tensor, " Q"]]:
    """Largest score and its cell; row by row first, since a maximum without its index is much faster."""
    similarity, row = scores.amax(-1).max(-1)
    width = scores.shape[-1]
    column = scores.gather(1, row[:, None, None].expand(-1, 1, width))[:, 0].argmax(-1)
    return similarity, row * width + column


def find_starts(
    xy: Float[Tensor, "Q 2"],
    query_map: Float[Tensor, "C h w"],
    target_map: Float[Tensor, "C h w"],
    neighbours: Int[Tensor, "Q k"],
    config: StartConfig,
) -> Starts:
    """Start positions of the queries ``xy`` of one frame in another frame.

    Args:
        xy: network pixels in the query frame.
        query_map: descriptors of the query frame.
        target_map: descriptors of the other frame.
        neighbours: for each query, others near it in the query frame.
        config: settings.
    """
    descriptors = functional.normalize(sample(query_map[None], xy[None] / STRIDE)[0], dim=-1)
    position, similarity, cell = peaks(descriptors, target_map, config)
    back, _, _ = peaks(target_map.flatten(1).T[cell], query_map, config)
    way_back = (back - xy).norm(dim=-1)
    mutual = (way_back < config.way_back_px) & (similarity > config.min_similarity)
    predicted, affinity, support = local_affinity(xy, position, mutual, neighbours, config)
    if config.guided_cells:
        guided = support >= config.min_support
        near, near_similarity = look_near(predicted, descriptors, target_map, config)
        position = torch.where(guided[:, None], near, position)
        similarity = torch.where(guided, near_similarity, similarity)
        trusted = torch.where(guided, near_similarity > config.min_similarity, mutual)
        predicted, affinity, support = local_affinity(xy, position, trusted, neighbours, config)
    miss = (position - predicted).norm(dim=-1)
    agrees = (miss < config.affinity_px) & (support >= config.min_support)
    lent = ~agrees & (support >= 2 * config.min_support)
    return Starts(
        xy=torch.where(lent[:, None], predicted, position),
        affinity=affinity,
        similarity=similarity,
        support=support / neighbours.shape[-1],
        way_back_px=way_back,
        believed=agrees | lent,
    )


def look_near(
    predicted: Float[Tensor, "Q 2"],
    descriptors: Float[Tensor, "Q C"],
    target: Float[Tensor, "C h w"],
    config: StartConfig,
) -> tuple[Float[Tensor, "Q 2"], Float[Tensor, " Q"]]:
    """Each descriptor's place among the cells around ``predicted``, by a soft maximum that trusts near cells more.

    Returns:
        xy: network pixels.
        similarity: mean cosine under the weights of that soft maximum.
    """
    height, width = target.shape[-2:]
    line = torch.arange(-config.guided_cells, config.guided_cells + 1, device=target.device)
    offsets = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    centre = predicted / STRIDE
    cells = centre.floor().long()[:, None] + offsets
    column, row = cells.unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    scores = (target.flatten(1).T[index] * descriptors[:, None]).sum(-1).masked_fill(~inside, -1.0)
    far = (cells + 0.5 - centre[:, None]).square().sum(-1) / config.guided_spread**2
    weight = (scores / config.temperature - 0.5 * far).softmax(-1)
    return ((weight[..., None] * (cells + 0.5)).sum(1) * STRIDE), (weight * scores).sum(-1)


def nearest(xy: Float[Tensor, "Q 2"], count: int) -> Int[Tensor, "Q k"]:
    """Indices of the ``count`` nearest other positions of each position, whatever order the positions come in.

    Key points lie on whole pixels, so many are equally far; a share of their coordinates settles who comes first.
    """
    distance = torch.cdist(xy, xy, compute_mode="donot_use_mm_for_euclid_dist")
    turn = (xy @ xy.new_tensor([0.7548777, 0.5698403])) % 1
    order = (distance + 1e-3 * turn).fill_diagonal_(torch.inf)
    return order.topk(min(count, max(len(xy) - 1, 1)), largest=False).indices


def local_affinity(
    source: Float[Tensor, "Q 2"],
    target: Float[Tensor, "Q 2"],
    trusted: Bool[Tensor, " Q"],
    neighbours: Int[Tensor, "Q k"],
    config: StartConfig,
    rounds: int = 4,
) -> tuple[Float[Tensor, "Q 2"], Float[Tensor, "Q 2 2"], Float[Tensor, " Q"]]:
    """Affine map around each query from what its trusted neighbours did, by reweighted least squares.

    A weak pull towards the identity keeps the map defined with few neighbours.

    Returns:
        predicted: where the neighbours put the query, in the target frame.
        affinity: linear part.
        support: number of neighbours that agree with the map.
    """
    offset = source[neighbours] - source[:, None]
    scale = offset.square().sum(-1).mean(-1, keepdim=True).sqrt().clamp(min=1)
    design = torch.cat([offset / scale[..., None], torch.ones_like(offset[..., :1])], -1)
    moved = target[neighbours]
    weight = trusted[neighbours].to(source.dtype)
    # start of the reweighting: the neighbour displacement that most others are close to
    displacement = moved - source[neighbours]
    spread = torch.cdist(displacement, displacement)
    tolerance = 2 * config.affinity_px + 0.5 * scale[..., None]
    votes = (weight[:, None] * (spread < tolerance)).sum(-1) * weight
    chosen = votes.argmax(-1)
    reach = spread.gather(1, chosen[:, None, None].expand(-1, 1, spread.shape[-1])).squeeze(1)
    current = weight / (1 + (reach / tolerance[..., 0]).square())
    pull = torch.tensor([0.3, 0.3, 1e-4], dtype=source.dtype, device=source.device).diag()
    prior = torch.zeros(len(source), 3, 2, dtype=source.dtype, device=source.device)
    prior[:, 0, 0] = scale[:, 0]
    prior[:, 1, 1] = scale[:, 0]
    error = torch.zeros_like(current)
    solution = prior
    for _ in range(rounds):
        weighted = design * current[..., None]
        normal = weighted.mT @ design + pull
        centre = (moved * current[..., None]).sum(1) / current.sum(1, keepdim=True).clamp(min=1e-6)
        prior[:, 2] = centre
        solution = torch.linalg.solve(normal, weighted.mT @ moved + pull @ prior)
        error = (design @ solution - moved).norm(dim=-1)
        current = weight / (1 + (error / config.affinity_px).square())
    support = (weight * (error < config.affinity_px)).sum(-1)
    return solution[:, 2], (solution[:, :2] / scale[..., None]).mT, support
