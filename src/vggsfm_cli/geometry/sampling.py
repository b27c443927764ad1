"""Reading maps at pixel positions: the only ``grid_sample`` in the repository."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def sample(
    maps: Float[Tensor, "B C H W"], xy: Float[Tensor, "B *points 2"], padding: str = "border"
) -> Float[Tensor, "B *points C"]:
    """Bilinear values of ``maps`` at ``xy``.

    Args:
        maps: values on a grid; the centre of the first cell is at (0.5, 0.5).
        xy: positions in cells of ``maps``, corner origin.
        padding: ``border`` repeats the edge outside the map, ``zeros`` fades to zero.
    """
    height, width = maps.shape[-2:]
    size = torch.tensor([width, height], dtype=xy.dtype, device=xy.device)
    grid = (2 * xy / size - 1).reshape(maps.shape[0], -1, 1, 2)
    values = functional.grid_sample(maps, grid.to(maps.dtype), "bilinear", padding, align_corners=False)
    return values.squeeze(-1).mT.reshape(*xy.shape[:-1], maps.shape[1])
