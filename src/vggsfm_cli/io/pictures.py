"""Pictures written to files, and resampled for cameras without distortion."""

import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image

from vggsfm_cli.io.depth import is_deep
from vggsfm_cli.io.exif import read_exif
from vggsfm_cli.io.photographs import has_colors_of_its_own, high_dynamic_range, may_be_transparent, open_picture

JPEG_SUFFIXES = (".jpg", ".jpeg")
JPEG_QUALITY = 95
WRITTEN_SUFFIXES = (*JPEG_SUFFIXES, ".png")
"""Kinds of files that are written; they are also the ones that every trainer reads."""


def write_picture(
    path: Path, pixels: UInt8[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W 4"] | UInt8[np.ndarray, "H W"]
) -> None:
    """Write pixels as JPEG (colours at full resolution) or PNG, by the suffix, without any EXIF data.

    Pixels with alpha need a name that ends in ``.png``.

    Raises:
        OSError: of the system; Pillow's own writing to files keeps its reason to itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image, encoded = Image.fromarray(pixels), io.BytesIO()
    if path.suffix.lower() in JPEG_SUFFIXES:
        image.save(encoded, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(encoded, format="PNG")
    path.write_bytes(encoded.getbuffer())


def is_plain(path: Path) -> bool:
    """Whether all readers see the same in a file: JPEG or PNG of opaque 8-bit sRGB that no EXIF orientation turns."""
    with open_picture(path) as image:
        return (
            image.format in ("JPEG", "PNG")
            and image.mode == "RGB"
            and read_exif(image).orientation == 1
            and not (may_be_transparent(image) or is_deep(image, path) or has_colors_of_its_own(image))
            and high_dynamic_range(path) is None
        )


def resample(
    pixels: UInt8[np.ndarray, "h w 3"], xy: Float[np.ndarray, "H W 2"], inside: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture whose pixels lie at ``xy`` of another, bicubic, black outside of it.

    Args:
        pixels: of the other picture.
        xy: pixels of it with a corner origin.
        inside: where ``xy`` is a place in it, see ``inside_picture``.
    """
    moved = cv2.remap(pixels, *_centre_origin(xy), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside[..., None], moved, 0).astype(np.uint8)


def resample_mask(
    keep: Bool[np.ndarray, "h w"], xy: Float[np.ndarray, "H W 2"], inside: Bool[np.ndarray, "H W"]
) -> Bool[np.ndarray, "H W"]:
    """As ``resample`` for a mask: True only where all pixels that a bilinear lookup touches are True."""
    moved = cv2.remap(
        keep.astype(np.uint8) * 255, *_centre_origin(xy), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return (np.asarray(moved) == 255) & inside  # noqa: PLR2004


def resample_alpha(
    alpha: UInt8[np.ndarray, "h w"], xy: Float[np.ndarray, "H W 2"], inside: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W"]:
    """As ``resample`` for transparency, bilinear, transparent outside."""
    moved = cv2.remap(alpha, *_centre_origin(xy), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside, moved, 0).astype(np.uint8)


def inside_picture(xy: Float[np.ndarray, "H W 2"], width: int, height: int) -> Bool[np.ndarray, "H W"]:
    """Which positions (corner origin) lie in a picture of this size; NaN lies in none."""
    x, y = xy[..., 0], xy[..., 1]
    return (x >= 0) & (y >= 0) & (x <= width) & (y <= height)


def shrink(
    pixels: UInt8[np.ndarray, "h w *c"], factor: int, *, round_down: bool = False
) -> UInt8[np.ndarray, "H W *c"]:
    """The picture at a whole fraction of its size, each pixel the mean of those it covers.

    Args:
        pixels: grey, RGB, or RGB with alpha, whose transparent pixels have no share in the colours.
        factor: at least 1.
        round_down: sizes that the factor does not divide, instead of to the nearest.
    """
    height, width = pixels.shape[:2]
    size = [max(1, side // factor if round_down else round(side / factor)) for side in (width, height)]

    def mean(values: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "H W *c"]:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))

    if pixels.shape[2:] != (4,):
        return mean(pixels).astype(np.uint8)
    alpha = pixels[..., 3].astype(np.float32) / 255
    share = mean(alpha)[..., None]
    color = mean(pixels[..., :3] * alpha[..., None]) / np.maximum(share, 1e-6)
    return np.rint(np.concatenate([color, 255 * share], -1)).clip(0, 255).astype(np.uint8)


def _centre_origin(xy: Float[np.ndarray, "H W 2"]) -> tuple[Shaped[np.ndarray, "H W"], Shaped[np.ndarray, "H W"]]:
    """Columns and rows as OpenCV counts them, from the centre of the first pixel."""
    moved = np.nan_to_num(xy - 0.5, nan=-1.0).astype(np.float32)
    return np.ascontiguousarray(moved[..., 0]), np.ascontiguousarray(moved[..., 1])
