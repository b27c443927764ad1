"""Positions, motions and poses as sines and cosines."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

TEMPERATURE = 10_000.0
"""Ratio of the longest to the shortest wavelength of a grid's embedding."""

FLOW_BAND = 1000.0
"""Top of the frequencies of the motion embedding, radians per cell."""


def grid_embedding(
    width: int, rows: int, columns: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "1 D rows columns"]:
    """Sine-cosine embedding of a grid's cells.

    The first half of the ``width`` channels holds the column, the second half the row; in each half all sines come
    before all cosines. Angles are integer cell indices times geometric frequencies, computed in float64.

    Raises:
        ValueError: ``width`` is not a multiple of four.
    """
    if width % 4:
        raise ValueError(f"The width of a grid embedding must be a multiple of 4, not {width}.")
    return torch.cat(
        [
            _axis(width // 2, columns, device)[:, None].expand(-1, rows, -1),
            _axis(width // 2, rows, device)[..., None].expand(-1, -1, columns),
        ]
    )[None]


def grid_embedding_at(xy: Float[Tensor, "*b 2"], width: int, rows: int, columns: int) -> Float[Tensor, "*b D"]:
    """``grid_embedding`` read between the cells, bilinearly, without the grid.

    Args:
        xy: column and row, the centre of the first cell at (0, 0); outside the grid its edge counts.
        width: channels of the embedding.
        rows: of the grid.
        columns: of the grid.
    """
    size = torch.tensor([columns, rows], device=xy.device)
    inside = xy.float().clamp(min=0).minimum((size - 1).float())
    first = inside.floor()
    share = (inside - first)[..., None]
    here, beyond = (_waves(width // 2, cell) for cell in (first, (first + 1).minimum(size - 1.0)))
    return (here * (1 - share) + beyond * share).flatten(-2)


def _axis(width: int, cells: int, device: torch.device | str) -> Float[Tensor, "D cells"]:
    return _waves(width, torch.arange(cells, device=device)).T


def _waves(width: int, cells: Shaped[Tensor, "*b"]) -> Float[Tensor, "*b D"]:
    """All sines, then all cosines, of whole cells along one axis."""
    power = torch.arange(width // 2, dtype=torch.float64, device=cells.device) / (width / 2)
    angle = cells.double()[..., None] * TEMPERATURE**-power
    return torch.cat([angle.sin(), angle.cos()], -1).float()


def flow_embedding(xy: Float[Tensor, "*b 2"], channels: int) -> Float[Tensor, "*b D"]:
    """Motion as ``2 * channels`` numbers: sine and cosine in turn over linear frequencies, first x, then y.

    Frequencies run from zero in equal steps towards ``FLOW_BAND``; ``xy`` itself is not part of the result.
    """
    frequency = torch.arange(0, channels, 2, dtype=torch.float32, device=xy.device) * (FLOW_BAND / channels)
    angle = xy.float()[..., None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-3)


def harmonic_embedding(values: Float[Tensor, "*b d"], frequencies: int = 48) -> Float[Tensor, "*b D"]:
    """Sines of ``values`` times powers of two, then the same sines a quarter turn on.

    The second half is ``sin(a + pi/2)`` in float32 and not ``cos(a)``: weights were trained with the rounding of that
    sum, which is most of it where ``a`` is large.
    """
    power = 2.0 ** torch.arange(frequencies, dtype=torch.float32, device=values.device)
    angle = (values.float()[..., None] * power).flatten(-2)
    return torch.cat([angle.sin(), (angle + math.pi / 2).sin()], -1)
