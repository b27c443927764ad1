"""Pictures that surfaces wear, with their mip levels, and reading them at any scale."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.scene import TensorRecord
from vggsfm_cli.synthetic import patterns

SMALLEST = 4
"""Side of the coarsest mip level, or up to twice that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Textures(TensorRecord):
    """Square pictures of one size with their mip levels, in one table of colours.

    Attributes:
        texels: colours in [0, 1], level after level, picture after picture, row after row.
        count: number of pictures.
        sides: side of each level, finest first.
    """

    texels: Float[Tensor, "N 3"]
    count: int
    sides: tuple[int, ...]

    @property
    def levels(self) -> tuple[Float[Tensor, "T 3 h w"], ...]:
        """The mip levels as pictures, finest first."""
        parts = self.texels.split([self.count * side * side for side in self.sides])
        return tuple(
            part.reshape(self.count, side, side, 3).permute(0, 3, 1, 2)
            for part, side in zip(parts, self.sides, strict=True)
        )


def make_textures(images: Float[Tensor, "T 3 side side"]) -> Textures:
    """Textures from square pictures with values in [0, 1]."""
    levels = [images]
    while levels[-1].shape[-1] >= 2 * SMALLEST and levels[-1].shape[-1] % 2 == 0:
        levels.append(functional.avg_pool2d(levels[-1], 2))
    texels = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, 3) for level in levels])
    return Textures(texels=texels, count=len(images), sides=tuple(level.shape[-1] for level in levels))


def procedural_textures(count: int, side: int, generator: torch.Generator) -> Textures:
    """Textures that are computed: noise, masonry, planks, pebbles, leaves, writing and more, in turn."""
    return make_textures(patterns.draw(count, side, generator))


def look_up(
    textures: Textures,
    index: Int[Tensor, " R"],
    place: Float[Tensor, "2 R"],
    mirror: Bool[Tensor, " R"],
    footprint: Float[Tensor, " R"],
) -> Float[Tensor, "3 R"]:
    """Trilinear colours of textures that cover the plane.

    Args:
        textures: all of them.
        index: which one.
        place: position, in pictures: the unit square shows the picture once, the rest repeats it.
        mirror: every second repetition is mirrored, so that there is no seam.
        footprint: what one pixel covers, in pictures.
    """
    finest = len(textures.sides) - 1
    level = (footprint * textures.sides[0]).clamp(min=1.0).log2_().clamp_(max=finest)
    first = level.int()
    blend = level - first
    axes = [_repeat(along, mirror) for along in place]
    rows = torch.empty(len(index), 8, dtype=torch.int32, device=place.device)
    weights = place.new_empty(len(index), 8)
    seamless = (~mirror).int()
    _corners(textures, index.int(), axes, seamless, first, 1 - blend, rows[:, :4], weights[:, :4])
    coarser = (first + 1).clamp_(max=finest)
    _corners(textures, index.int(), axes, seamless, coarser, blend, rows[:, 4:], weights[:, 4:])
    return functional.embedding_bag(rows, textures.texels, per_sample_weights=weights, mode="sum").mT.contiguous()


def _repeat(place: Tensor, mirror: Tensor) -> Tensor:
    """The place within the picture, in [0, 1]."""
    flip = mirror.to(place.dtype)
    period = 1 + flip
    within = place - period * (place / period).floor_()
    # a tent over two repetitions, or the place itself in one
    return torch.lerp(within, 1 - (within - 1).abs_(), flip)


def _corners(
    textures: Textures,
    index: Tensor,
    axes: list[Tensor],
    seamless: Tensor,
    level: Tensor,
    share: Tensor,
    rows: Tensor,
    weights: Tensor,
) -> None:
    """Write the rows of the four texels around a place, and their bilinear weights times ``share``.

    Whole numbers are compared by ``clamp``, one column at a time, which is several times faster than by masks.
    """
    sides = torch.tensor(textures.sides, device=level.device, dtype=torch.int32)
    sizes = textures.count * sides * sides
    side = sides.index_select(0, level)
    last = side - 1
    again = seamless * last
    ends, parts = [], []
    for place in axes:
        position = (place * side).sub_(0.5)
        low = position.floor()
        near = low.int()
        # past an edge the picture starts again, or its mirror image goes on with the same texel
        left = near.clamp(min=0)
        over = (near + 1 - last).clamp_(min=0)
        ends.append((left + (left - near) * again, near + 1 - over * (1 + again)))
        parts.append(position.sub_(low))
    offset = (sizes.cumsum(0).int() - sizes).index_select(0, level) + index * (side * side)
    (x, y), lines = parts, [offset + row * side for row in ends[1]]
    below = y * share
    for k, (line, part) in enumerate(zip(lines, (share - below, below), strict=True)):
        right = x * part
        rows[:, 2 * k], rows[:, 2 * k + 1] = line + ends[0][0], line + ends[0][1]
        weights[:, 2 * k], weights[:, 2 * k + 1] = part - right, right
