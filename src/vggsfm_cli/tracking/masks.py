"""Where a track may end: the one place that takes visibility from what lies outside the mask."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample

HALF = 0.5
"""Of the weight of the pixels around a position."""


def inside_mask(mask: Bool[Tensor, "S H W"], xy: Float[Tensor, "S N 2"], border_px: int = 0) -> Bool[Tensor, "S N"]:
    """Whether positions lie in their picture and on what may be used of it.

    Args:
        mask: True where usable.
        xy: network pixels.
        border_px: distance to keep from what is masked or padding.
    """
    size = xy.new_tensor([mask.shape[-1], mask.shape[-2]])
    inside = ((xy >= 0) & (xy <= size)).all(-1)
    if border_px == 0:  # looked up, as copies of large masks as numbers would cost more than the tracks
        column, row = torch.minimum(xy.nan_to_num().clamp(min=0), size - 1).long().unbind(-1)
        frame = torch.arange(len(mask), device=mask.device)[:, None]
        return inside & mask[frame, row, column]
    blocked = functional.max_pool2d((~mask).float()[:, None], 2 * border_px + 1, stride=1, padding=border_px)
    return inside & (sample(blocked, xy)[..., 0] < HALF)
