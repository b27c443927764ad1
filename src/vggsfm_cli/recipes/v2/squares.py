"""Photographs as VGGSfM v2 was trained to see them: in the middle of a black square, all squares of one size."""

import dataclasses

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.scene import ImageSet

MARGIN_PX = 4.0
"""Strip of the photograph along a padded side in which observations are ignored, in pixels of the square."""


def centered_square(picture: Float[Tensor, "C H W"], side: int) -> Float[Tensor, "C side side"]:
    """A picture in the middle of a black square, the odd pixel of padding at the top or left, then resized."""
    height, width = picture.shape[1:]
    longest = max(height, width)
    left, top = (width - longest) // 2, (height - longest) // 2
    square = functional.pad(picture, (-left, longest - width + left, -top, longest - height + top))
    if longest == side:
        return square
    resized = functional.interpolate(square[None], (side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].clamp(0, 1)


def valid_box(width: int, height: int, side: int, margin_px: float = MARGIN_PX) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the usable part of a photograph in its square, the same on both sides."""
    longest = max(width, height)
    padding = [abs((size - longest) // 2) / longest * side for size in (width, height)]
    x, y = (pad + margin_px if pad else pad for pad in padding)
    return x, y, side - x, side - y


def square_images(images: ImageSet, side: int) -> ImageSet:
    """The same photographs in squares, with the map to stored pixels.

    They are read again at full resolution where there are files, and made of network pixels otherwise. The mask leaves
    out the padding with a margin, and every pixel that a masked one has a share in.

    Args:
        images: upright and padded in any way.
        side: of the squares, pixels.
    """
    scenes, frames = images.pixels.shape[:2]
    squares = [[_square(images, b, s, side) for s in range(frames)] for b in range(scenes)]
    device = images.pixels.device
    pixels, mask, affine = (
        torch.stack([torch.stack([square[part] for square in scene]) for scene in squares]).to(device)
        for part in range(3)
    )
    return dataclasses.replace(images, pixels=pixels, mask=mask, stored_from_network=affine)


def _square(
    images: ImageSet, b: int, s: int, side: int
) -> tuple[Float[Tensor, "3 side side"], Bool[Tensor, "side side"], Float[Tensor, "2 3"]]:
    affine = images.stored_from_network[b, s].cpu()
    picture = _upright(images, b, s, affine)
    height, width = picture.shape[1:]
    keep = _photograph(images.mask[b, s].cpu()[None].to(picture.dtype), images, b, s, affine)
    ignored = centered_square(functional.interpolate(1 - keep[None], (height, width), mode="nearest")[0], side)[0]
    box = valid_box(width, height, side)
    center = torch.arange(side) + 0.5
    column, row = (center >= box[0]) & (center <= box[2]), (center >= box[1]) & (center <= box[3])
    longest = max(width, height)
    corner = torch.tensor([(width - longest) // 2, (height - longest) // 2], dtype=affine.dtype)
    # square -> upright picture -> stored pixels
    per_pixel = _stored_size(images, b, s) / _along_axes(affine, torch.tensor([width, height]))
    linear = affine[:, :2].sign() * per_pixel[:, None]
    offset = linear @ corner + affine[:, 2]
    return (
        centered_square(picture, side),
        row[:, None] & column & (ignored == 0),
        torch.cat([linear * longest / side, offset[:, None]], -1),
    )


def _upright(images: ImageSet, b: int, s: int, affine: Float[Tensor, "2 3"]) -> Float[Tensor, "3 h w"]:
    """The photograph as it is looked at, at the resolution of its file."""
    if images.originals is None:
        return _photograph(images.pixels[b, s].cpu(), images, b, s, affine)
    stored = images.originals.color(b, s).cpu()
    # first mirror the stored axes, then exchange them
    flips = [axis for axis, row in ((2, affine[0]), (1, affine[1])) if float(row[:2].sum()) < 0]
    stored = stored.flip(flips)
    return stored.mT if _swapped(affine) else stored


def _photograph(
    values: Float[Tensor, "C H W"], images: ImageSet, b: int, s: int, affine: Float[Tensor, "2 3"]
) -> Float[Tensor, "C h w"]:
    """Network pixels without their padding."""
    size = _along_axes(affine, _stored_size(images, b, s) / affine[:, :2].abs().sum(-1))
    width, height = (max(1, round(float(value))) for value in size)
    return values[:, :height, :width]


def _stored_size(images: ImageSet, b: int, s: int) -> Float[Tensor, "2"]:
    return images.stored_size[b, s].cpu().to(torch.float32)


def _swapped(affine: Float[Tensor, "2 3"]) -> bool:
    return float(affine[0, 0]) == 0.0


def _along_axes(affine: Float[Tensor, "2 3"], size: Tensor) -> Tensor:
    """A size along stored axes as one along upright axes, or the other way round."""
    return size.flip(0) if _swapped(affine) else size
