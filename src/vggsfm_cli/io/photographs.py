"""Decoding of photographs, and lazy access to them at full resolution."""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.io.exif import AXIS_CHANGES, ExifData, read_exif
from vggsfm_cli.reading import check_regular

MAX_PIXELS = 1_000_000_000
"""Pictures beyond this are refused; Pillow's own limit refuses the 200-megapixel photographs of today's phones."""

BELIEVED_PIXELS = 50_000_000
LARGE_PIXELS = 50_000_000
"""Larger pictures are halved as they are read, where nothing looks at all of their pixels."""

DECODING_BYTES = 14
"""A pixel, while a picture is decoded: in Pillow's memory, once more as it is converted, as bytes, and as an array."""

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
        with _room_for(image.width * image.height, path):
            image.load()
            pixels = _rgb(image)
    return to_stored(pixels, exif.orientation) if turned_by_pillow else pixels, exif


def halvings_of(width: int, height: int, long_side: int | None) -> int:
    """How often a picture may be halved as it is read, when only so large a one is looked at; 0 for usual ones.

    What is left is at least twice as large as what is looked at, so that tracks lose nothing.
    """
    if long_side is None or width * height <= LARGE_PIXELS:
        return 0
    return max(0, min(3, math.floor(math.log2(max(width, height) / (2 * long_side)))))


def decode_small(path: Path, long_side: int | None) -> tuple[UInt8[np.ndarray, "h w 3"], ExifData, tuple[int, int]]:
    """As ``decode``; a giant picture is halved as it is read, where its file allows it without ever being whole.

    Args:
        path: of the file.
        long_side: of the picture that is looked at; None for all pixels.

    Returns:
        Its pixels, halved as often as ``halvings_of`` says; EXIF data; stored width and height.

    Raises:
        NotEnoughMemory: it needs more memory to decode than there may be.
        OSError, ValueError, SyntaxError and others: whatever Pillow meets in a damaged file.
    """
    with open_picture(path) as image:
        size = image.width, image.height
        times = halvings_of(*size, long_side)
        if times == 0 or image.format not in ("JPEG", "MPO"):
            pixels, exif = decode(path)
            size = pixels.shape[1], pixels.shape[0]
            return _halved(pixels, times), exif, size
        exif = read_exif(image)
        image.draft("RGB", (size[0] >> times, size[1] >> times))
        done = round(math.log2(size[0] / image.width))
        with _room_for(image.width * image.height, path):
            image.load()
            pixels = _rgb(image)
    return _halved(pixels, times - done), exif, size


def _halved(pixels: UInt8[np.ndarray, "H W 3"], times: int) -> UInt8[np.ndarray, "h w 3"]:
    """Each pixel the mean of a square; what is left over at the end of a row or column counts with the last one."""
    for _ in range(times):
        odd = [(0, side % 2) for side in pixels.shape[:2]]
        even = np.pad(pixels, (*odd, (0, 0)), mode="edge") if odd != [(0, 0), (0, 0)] else pixels
        size = even.shape[1] // 2, even.shape[0] // 2
        pixels = np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return pixels


def limit_decoding(limit_bytes: int | None) -> None:
    """Decode no more pictures at a time than fit into so much memory; without a limit if None."""
    _room.limit = limit_bytes


class _Room:
    """Memory for decoding, which threads share."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.taken = 0
        self.changed = threading.Condition()


_room = _Room()


@contextmanager
def _room_for(pixels: int, path: Path) -> Iterator[None]:
    """Wait until a picture of so many pixels can be decoded beside the others.

    Raises:
        NotEnoughMemory: not even alone.
    """
    needed, limit = DECODING_BYTES * pixels, _room.limit
    if limit is None:
        yield
        return
    if needed > limit:
        raise NotEnoughMemory(
            f"{path.name} needs about {needed / 1e9:.1f} GB to be decoded, and there are {limit / 1e9:.1f} GB for it.",
            "Make smaller copies of the photographs, or give --max-memory more.",
        )
    with _room.changed:
        _room.changed.wait_for(lambda: _room.taken + needed <= limit or _room.taken == 0)
        _room.taken += needed
    try:
        yield
    finally:
        with _room.changed:
            _room.taken -= needed
            _room.changed.notify_all()


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
        long_side: of the pictures that are looked at; giant photographs are halved towards it, see ``halvings_of``.
    """

    def __init__(self, paths: Sequence[Path], cache_bytes: int = 512 * 2**20, long_side: int | None = None) -> None:
        self.paths = tuple(paths)
        self.long_side = long_side
        self.cache_bytes = cache_bytes
        self._kept: OrderedDict[int, UInt8[np.ndarray, "H W"]] = OrderedDict()
        self._lock = threading.Lock()

    def grey(self, b: int, s: int) -> Float[Tensor, "H W"]:
        """Luminance in [0, 1] of a frame at its stored size, if it is giant halved; stored orientation, on the CPU."""
        del b  # files hold one scene
        with self._lock:
            pixels = self._kept.get(s)
            if pixels is not None:
                self._kept.move_to_end(s)
        if pixels is None:
            pixels = luminance(decode_small(self.paths[s], self.long_side)[0])
            self.keep(s, pixels)
        return torch.from_numpy(pixels).float().div_(255)

    def color(self, b: int, s: int) -> Float[Tensor, "3 H W"]:
        """RGB in [0, 1] of a frame at its stored size, if it is giant halved; stored orientation, on the CPU."""
        del b
        return torch.from_numpy(decode_small(self.paths[s], self.long_side)[0]).permute(2, 0, 1).float().div_(255)

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
    check_regular(path)
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
