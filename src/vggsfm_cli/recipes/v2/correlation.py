"""How well a feature fits around a position: windows of a correlation pyramid, computed where they are read."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

DENSE_CELLS = 4096
"""Maps up to this size are multiplied whole: reading scattered cells costs more than twenty products in a row."""

CELLS_READ_AT_ONCE = 65536
"""Cells copied out of a map together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """Features of M maps at one resolution, cell after cell."""

    cells: Float[Tensor, "M P C"]
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class CorrelationPyramid:
    """Feature maps at several resolutions, ready to be correlated.

    Attributes:
        levels: finest first, each half the one before.
        radius: windows are 2 radius + 1 cells wide at every level.
        pairs_at_once: windows computed together; bounds the memory, changes nothing else.
    """

    levels: tuple[Level, ...]
    radius: int
    pairs_at_once: int

    def windows(self, features: Float[Tensor, "M n C"], xy: Float[Tensor, "M n 2"]) -> Float[Tensor, "M n K"]:
        """Correlation of each feature with the cells around its position, in every level.

        The product over channels divided by the root of their number, read bilinearly; zero outside the map. Positions
        are in cells of the finest level, the centre of the first at (0, 0), and are halved from level to level. Within
        a window the offset along y runs fastest.
        """
        size = max(1, self.pairs_at_once // len(features))
        parts = zip(features.split(size, 1), xy.split(size, 1), strict=True)
        return torch.cat([torch.cat(list(self._part(*part)), -1) for part in parts], 1)

    def _part(self, features: Float[Tensor, "M n C"], xy: Float[Tensor, "M n 2"]) -> Iterator[Float[Tensor, "M n k"]]:
        for i, level in enumerate(self.levels):
            yield _window(level, features, xy / 2**i, self.radius)


def make_pyramid(maps: Float[Tensor, "M C h w"], levels: int, radius: int, pairs_at_once: int) -> CorrelationPyramid:
    """The pyramid of M feature maps; in the precision of autocast where that is on.

    Raises:
        ValueError: the maps are too small for so many levels.
    """
    if min(maps.shape[-2:]) < 2 ** (levels - 1):
        raise ValueError(f"Maps of {tuple(maps.shape[-2:])} cells are too small for a pyramid of {levels} levels.")
    kind = maps.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else maps.dtype
    made = []
    for i in range(levels):
        maps = functional.avg_pool2d(maps, 2) if i else maps
        cells = maps.flatten(2).mT.to(dtype).contiguous()
        made.append(Level(cells=cells, rows=maps.shape[2], columns=maps.shape[3]))
    return CorrelationPyramid(levels=tuple(made), radius=radius, pairs_at_once=pairs_at_once)


def _window(
    level: Level, features: Float[Tensor, "M n C"], xy: Float[Tensor, "M n 2"], radius: int
) -> Float[Tensor, "M n k"]:
    """Every sample of a window lies equally far between cells: whole cells first, then one blend for all."""
    limit = torch.tensor([level.columns, level.rows], dtype=xy.dtype, device=xy.device) + (radius + 1)
    xy = xy.clamp(min=-(radius + 2.0)).minimum(limit)  # beyond, a window is empty
    first = xy.floor()
    index, inside = _cells_around(level, first.long(), radius)
    side = 2 * radius + 2
    if level.rows * level.columns <= min(DENSE_CELLS, features.shape[1] * side**2):
        products = (features.to(level.cells.dtype) @ level.cells.mT).gather(-1, index)
    else:
        products = _at(level, features.to(level.cells.dtype), index)
    around = (products.float() * inside / features.shape[-1] ** 0.5).unflatten(-1, (side, side))
    share_x, share_y = (xy - first)[..., None, None].unbind(-3)
    around = around[..., :-1, :] + share_x * (around[..., 1:, :] - around[..., :-1, :])
    around = around[..., :-1] + share_y * (around[..., 1:] - around[..., :-1])
    return around.flatten(-2)


def _cells_around(
    level: Level, first: Int[Tensor, "M n 2"], radius: int
) -> tuple[Int[Tensor, "M n k"], Bool[Tensor, "M n k"]]:
    """Indices of the cells that a window touches, and which of them exist."""
    offset = torch.arange(-radius, radius + 2, device=first.device)
    x, y = first[..., :1] + offset, first[..., 1:] + offset
    in_x, in_y = (x >= 0) & (x < level.columns), (y >= 0) & (y < level.rows)
    x, y = x.clamp(0, level.columns - 1), y.clamp(0, level.rows - 1)
    index = y[..., None, :] * level.columns + x[..., :, None]
    return index.flatten(-2), (in_x[..., :, None] & in_y[..., None, :]).flatten(-2)


def _at(level: Level, features: Float[Tensor, "M n C"], index: Int[Tensor, "M n k"]) -> Float[Tensor, "M n k"]:
    """Products with the cells of ``index`` alone."""
    maps, cells, channels = level.cells.shape
    all_cells = level.cells.flatten(0, 1)
    index = index + cells * torch.arange(maps, device=index.device)[:, None, None]
    size = max(1, CELLS_READ_AT_ONCE // index.shape[-1])
    parts = zip(index.flatten(0, 1).split(size), features.flatten(0, 1).split(size), strict=True)
    products = [
        (all_cells.index_select(0, cell.flatten()).view(*cell.shape, channels) @ feature[..., None]).squeeze(-1)
        for cell, feature in parts
    ]
    return torch.cat(products).view(index.shape)
