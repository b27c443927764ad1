"""Decoding of photographs, and lazy access to them at full resolution."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from vggsfm_cli.io.exif import AXIS_CHANGES, ExifData, read_exif

MAX_PIXELS = 1_000_000_000
"""Pictures beyond this are refused; Pillow's own limit refuses the 200-megapixel photographs of today's phones."""

BELIEVED_PIXELS = 50_000_000
MAX_PIXELS_PER_BYTE = 1000
"""Larger pictures of which a byte stands for more pixels are no photographs, but files made to fill the memory."""

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""How files begin that Pillow reads with pillow-heif; AVIF it reads itself."""

_OPENING = threading.Lock()


def decode(path: Path) -> tuple[UInt8[np.ndarray, "H W 3"], ExifData]:
    """RGB pixels of a file as stored, EXIF orientation not applied, and its EXIF data.

    Sixteen bits are scaled to eight; transparency is dropped; of several pages the first one counts.

    Raises:
        OSError, ValueError, SyntaxError and others: whatever Pillow meets in a damaged file.
    """
    with open_picture(path) as image:
        exif = read_exif(image)
        turned_by_pillow = (
            image.format == "TIFF"
        )  # Pillow applies the orientation while it loads a TIFF, and only there
        image.load()
        pixels = _rgb(image)
    return to_stored(pixels, exif.orientation) if turned_by_pillow else pixels, exif


def read_header(path: Path) -> tuple[tuple[int, int], ExifData]:
    """Stored width and height of a file, and its EXIF data, without decoding it where that can be avoided.

    Raises:
        OSError, ValueError, SyntaxError and others: whatever Pillow meets in a damaged file.
    """
    with open_picture(path) as image:
        if image.format not in ("TIFF", "HEIF"):  # whose size Pillow tells turned or not, as it happens
            return (image.width, image.height), read_exif(image)
    pixels, exif = decode(path)
    return (pixels.shape[1], pixels.shape[0]), exif


def to_upright(pixels: Shaped[np.ndarray, "H W *c"], orientation: int) -> Shaped[np.ndarray, "h w *c"]:
    """Turn stored pixels upright."""
    swap, mirror_x, mirror_y = AXIS_CHANGES[orientation]
    mirrored = pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
    return np.ascontiguousarray(mirrored.swapaxes(0, 1) if swap else mirrored)


def to_stored(pixels: Shaped[np.ndarray, "h w *c"], orientation: int) -> Shaped[np.ndarray, "H W *c"]:
    """The inverse of ``to_upright``."""
    swap, mirror_x, mirror_y = AXIS_CHANGES[orientation]
    swapped = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(swapped[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])


class PhotographFiles:
    """``Originals`` that lie in files: decoded when asked for, grey pictures kept while memory allows.

    Args:
        paths: one file a frame, of one scene.
        cache_bytes: how much is kept; the least recently used picture goes first.
    """

    def __init__(self, paths: Sequence[Path], cache_bytes: int = 512 * 2**20) -> None:
        self.paths = tuple(paths)
        self.cache_bytes = cache_bytes
        self._kept: OrderedDict[int, UInt8[np.ndarray, "H W"]] = OrderedDict()
        self._lock = threading.Lock()

    def grey(self, b: int, s: int) -> Float[Tensor, "H W"]:
        """Luminance in [0, 1] of a frame at its stored size, stored orientation, on the CPU."""
        del b  # files hold one scene
        with self._lock:
            pixels = self._kept.get(s)
            if pixels is not None:
                self._kept.move_to_end(s)
        if pixels is None:
            pixels = luminance(decode(self.paths[s])[0])
            self.keep(s, pixels)
        return torch.from_numpy(pixels).float().div_(255)

    def color(self, b: int, s: int) -> Float[Tensor, "3 H W"]:
        """RGB in [0, 1] of a frame at its stored size, stored orientation, on the CPU."""
        del b
        return torch.from_numpy(decode(self.paths[s])[0]).permute(2, 0, 1).float().div_(255)

    def keep(self, s: int, grey: UInt8[np.ndarray, "H W"]) -> None:
        """Put a decoded picture into the cache."""
        with self._lock:
            self._kept[s] = grey
            self._kept.move_to_end(s)
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self.cache_bytes:
                self._kept.popitem(last=False)


def luminance(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """Luminance of RGB pixels (ITU-R BT.601)."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def open_picture(path: Path) -> Image.Image:
    """An opened file, its header read.

    Raises:
        OSError, ValueError, SyntaxError and others: whatever Pillow meets in a damaged file; also a header that claims
            more pixels than a photograph of that many bytes has, and a kind of file that needs a missing package.
    """
    with path.open("rb") as file:
        start, length = file.read(12), file.seek(0, 2)
    if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
        _learn_heif()
    with _OPENING:  # the limit is a global of Pillow, looked at while the header is read
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    pixels = image.width * image.height
    if pixels > BELIEVED_PIXELS and pixels > MAX_PIXELS_PER_BYTE * length:
        image.close()
        raise ValueError(f"it claims {image.width} x {image.height} pixels in {length} bytes")
    return image


def _learn_heif() -> None:
    """Let Pillow read HEIC and HEIF files; it then turns them upright itself."""
    with _OPENING:
        try:
            import pillow_heif
        except ImportError:
            raise ValueError("HEIC files need pip install 'vggsfm-cli[heif]'") from None
        pillow_heif.register_heif_opener(thumbnails=False)


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # keeps a transparent palette entry from being taken for a colour
    return np.array(image.convert("RGB"))  # a copy, since Pillow's own memory is read-only


def _eight_bits(values: Shaped[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Grey values of more than eight bits, scaled by the range of their type (floats: [0, 1] or their maximum)."""
    numbers = np.nan_to_num(values.astype(np.float64))
    highest = float(numbers.max(initial=0.0))
    if np.issubdtype(values.dtype, np.floating):
        top = 1.0 if highest <= 1.0 else highest
    else:
        top = float(2**16 - 1) if highest < 2**16 else highest
    return np.clip(np.rint(numbers * (255.0 / top)), 0, 255).astype(np.uint8)
