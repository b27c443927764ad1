"""Photographs small enough to travel inside a page."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vggsfm_cli.threads import map_threads

Photographs = Callable[[str], tuple[UInt8[np.ndarray, "H W 3"], int] | None]
"""From a name to stored pixels and EXIF orientation, or None where there is no such photograph."""

MIN_SIDE_PX = 64
BYTES_PER_PIXEL = 0.25
"""Of a detailed photograph at ``QUALITY``: the first guess of a size that fits."""
QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A JPEG file of the stored pixels, reduced, and how to turn it upright."""

    jpeg: bytes
    orientation: int
    size: tuple[int, int]

    @property
    def uri(self) -> str:
        """The file inside a link."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


def reduced_pictures(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    photographs: Photographs,
    *,
    max_bytes: int,
    max_side_px: int,
    done: Callable[[int], None] = lambda count: None,
) -> list[Picture | None]:
    """Pictures of all names that fit into ``max_bytes`` together, as large as that allows.

    A name has none where there is no photograph, where its size is not that of the model, or where so many pictures
    would not fit even at the smallest size: then every k-th of them is left.

    Args:
        names: of the photographs.
        sizes: stored width and height of each, as the model has it.
        photographs: reads them.
        max_bytes: of all pictures together.
        max_side_px: long side of one.
        done: is told how many have been read.
    """
    side = _side(len(names), max_bytes, max_side_px)
    pictures: list[Picture | None] = []
    work = list(zip(names, sizes, strict=True))
    for picture in map_threads(lambda item: _reduced(photographs(item[0]), item[1], side), work):
        pictures.append(picture)
        done(len(pictures))
    while (total := _total(pictures)) > max_bytes:
        if side <= MIN_SIDE_PX:
            return _thinned(pictures, max_bytes)
        side = max(MIN_SIDE_PX, int(side * min(0.9, 0.95 * (max_bytes / total) ** 0.5)))
        pictures = [picture and _shrunk(picture, side) for picture in pictures]
    return pictures


def _side(count: int, max_bytes: int, max_side_px: int) -> int:
    fitting = (max_bytes / max(count, 1) / BYTES_PER_PIXEL / 0.75) ** 0.5
    return int(np.clip(fitting, MIN_SIDE_PX, max_side_px))


def _reduced(
    photograph: tuple[UInt8[np.ndarray, "H W 3"], int] | None, size: tuple[int, int], side: int
) -> Picture | None:
    if photograph is None:
        return None
    pixels, orientation = photograph
    if pixels.shape[1::-1] != tuple(size):
        return None
    return _encoded(Image.fromarray(pixels), side, orientation)


def _shrunk(picture: Picture, side: int) -> Picture:
    return _encoded(Image.open(io.BytesIO(picture.jpeg)), side, picture.orientation)


def _encoded(image: Image.Image, side: int, orientation: int) -> Picture:
    scale = min(1.0, side / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=QUALITY, optimize=True)
    return Picture(jpeg=stream.getvalue(), orientation=orientation, size=size)


def _total(pictures: Sequence[Picture | None]) -> int:
    return sum(len(picture.jpeg) for picture in pictures if picture)


def _thinned(pictures: list[Picture | None], max_bytes: int) -> list[Picture | None]:
    step = 2
    while True:
        left = [picture if i % step == 0 else None for i, picture in enumerate(pictures)]
        if _total(left) <= max_bytes or step > len(pictures):
            return left
        step += 1
