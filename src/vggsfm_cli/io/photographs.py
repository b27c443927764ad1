"""Decoding of photographs, and lazy access to them at full resolution."""

import io
import math
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageCms
from torch import Tensor

from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.io import hdr
from vggsfm_cli.io.depth import OF_THE_TYPE, Levels, deep_colors, is_deep, levels_of
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

HEAD_BYTES = 2**18
"""Of a file: what is noted about its colours lies there."""

PNG_START = b"\x89PNG\r\n\x1a\n"

_OPENING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What is in a file.

    Attributes:
        pixels: RGB as stored, EXIF orientation not applied; hidden colours of transparent pixels among them.
        alpha: 0 where a pixel is transparent, 255 where it is opaque; None if all are opaque.
        exif: of the file.
        size: stored width and height; a giant picture may have been halved, and then has fewer ``pixels``.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"] | None
    exif: ExifData
    size: tuple[int, int]

    @property
    def opaque(self) -> Bool[np.ndarray, "H W"] | None:
        """False where a pixel is wholly transparent; None if none is."""
        return None if self.alpha is None or self.alpha.all() else self.alpha > 0


def decode(path: Path, levels: Levels = OF_THE_TYPE, *, srgb: bool = False, long_side: int | None = None) -> Decoded:
    """Decode a file; of several pages the first one counts.

    High dynamic range (HLG and PQ, as some HEIC, AVIF and PNG files have it) becomes sRGB.

    Args:
        path: of the file.
        levels: what becomes black and white of more than eight bits.
        srgb: bring colours of another profile to sRGB, which takes about as long as the decoding.
        long_side: of the picture that is looked at; a giant one is then halved as often as ``halvings_of`` says, a JPEG
            file without ever being whole. None for all pixels.

    Raises:
        NotEnoughMemory: it needs more memory to decode than there may be.
        OSError, ValueError, SyntaxError and others: whatever Pillow meets in a damaged file.
    """
    with open_picture(path) as image:
        exif = read_exif(image)
        turned_by_pillow = (
            image.format == "TIFF"
        )  # Pillow applies the orientation while it loads a TIFF, and only there
        size, done = (image.width, image.height), 0
        times = halvings_of(*size, long_side)
        if times and image.format in ("JPEG", "MPO"):
            image.draft("RGB", (size[0] >> times, size[1] >> times))
            done = round(math.log2(size[0] / image.width))
        coding = high_dynamic_range(path)
        with _room_for(image.width * image.height, path):
            image.load()
            alpha = _alpha(image)
            pixels = _rgb(image, path, levels, srgb=srgb and coding is None)
    if coding is not None:
        pixels = hdr.to_srgb(pixels, *coding)
    if turned_by_pillow:
        pixels = to_stored(pixels, exif.orientation)
        alpha = None if alpha is None else to_stored(alpha, exif.orientation)
    if done == 0:
        size = pixels.shape[1], pixels.shape[0]
    for _ in range(times - done):
        pixels = _halved(pixels)
        alpha = None if alpha is None else _halved(alpha)
    return Decoded(pixels=pixels, alpha=alpha, exif=exif, size=size)


def halvings_of(width: int, height: int, long_side: int | None) -> int:
    """How often a picture may be halved as it is read, when only so large a one is looked at; 0 for usual ones.

    What is left is at least twice as large as what is looked at, so that tracks lose nothing.
    """
    if long_side is None or width * height <= LARGE_PIXELS:
        return 0
    return max(0, min(3, math.floor(math.log2(max(width, height) / (2 * long_side)))))


def _halved(pixels: UInt8[np.ndarray, "H W *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """Each pixel the mean of a square; what is left over at the end of a row or column counts with the last one."""
    odd = [(0, side % 2) for side in pixels.shape[:2]]
    even = np.pad(pixels, odd + [(0, 0)] * (pixels.ndim - 2), mode="edge") if odd != [(0, 0), (0, 0)] else pixels
    size = even.shape[1] // 2, even.shape[0] // 2
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


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
    found = decode(path)
    return found.size, found.exif


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


def find_levels(paths: Sequence[Path]) -> Levels:
    """One choice of levels for all pictures of a set, so that equal values stay equal in all of them.

    Files that cannot be read count as those of eight bits.
    """

    def values(path: Path) -> Shaped[np.ndarray, "..."] | None:
        try:
            with open_picture(path) as image:
                if not is_deep(image, path):
                    return None
                if image.mode.startswith("I") or image.mode == "F":
                    return np.asarray(image)
            return deep_colors(path)
        except (MemoryError, NotEnoughMemory):
            raise
        except Exception:  # decoders meet damage with anything from OSError to struct.error
            return None

    return levels_of(paths, values)


class PhotographFiles:
    """``Originals`` that lie in files: decoded when asked for, grey pictures kept while memory allows.

    Args:
        paths: one file a frame, of one scene.
        levels: of the scene.
        cache_bytes: how much is kept; the least recently used picture goes first.
        long_side: of the pictures that are looked at; giant photographs are halved towards it, see ``halvings_of``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        levels: Levels = OF_THE_TYPE,
        *,
        cache_bytes: int = 512 * 2**20,
        long_side: int | None = None,
    ) -> None:
        self.paths = tuple(paths)
        self.levels = levels
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
            pixels = luminance(self._decoded(s))
            self.keep(s, pixels)
        return torch.from_numpy(pixels).float().div_(255)

    def color(self, b: int, s: int) -> Float[Tensor, "3 H W"]:
        """RGB in [0, 1] of a frame at its stored size, if it is giant halved; stored orientation, on the CPU."""
        del b
        return torch.from_numpy(self._decoded(s)).permute(2, 0, 1).float().div_(255)

    def _decoded(self, s: int) -> UInt8[np.ndarray, "h w 3"]:
        return decode(self.paths[s], self.levels, long_side=self.long_side).pixels

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


def high_dynamic_range(path: Path) -> tuple[hdr.Transfer, int] | None:
    """Transfer function and primaries of a still picture of high dynamic range; None of all others.

    HEIC and AVIF files note them in a box ``colr`` of the kind ``nclx``, PNG files in a chunk ``cICP``.
    """
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    numbers: tuple[int, int] | None = None
    if start[4:8] == b"ftyp" and (at := start.find(b"colrnclx")) >= 0:
        numbers = struct.unpack_from(">HH", start.ljust(at + 12, b"\0"), at + 8)
    elif start.startswith(PNG_START) and 0 <= (at := start.find(b"cICP")) < start.find(b"IDAT"):
        numbers = (start[at + 4], start[at + 5])
    if numbers is None or numbers[1] not in list(hdr.Transfer):
        return None
    return hdr.Transfer(numbers[1]), numbers[0]


def may_be_transparent(image: Image.Image) -> bool:
    """Whether an opened picture has an alpha channel, or a colour that stands for nothing."""
    return image.has_transparency_data and not image.mode.startswith(("I", "F"))


def may_be_transparent_file(path: Path) -> bool:
    """As ``may_be_transparent`` of a file; False if it cannot be read."""
    try:
        with open_picture(path) as image:
            return may_be_transparent(image)
    except (MemoryError, NotEnoughMemory):
        raise
    except Exception:  # decoders meet damage with anything from OSError to struct.error
        return False


def _alpha(image: Image.Image) -> UInt8[np.ndarray, "H W"] | None:
    if not may_be_transparent(image):
        return None
    alpha = np.array(image.convert("RGBA").getchannel("A"))
    return None if (alpha == 255).all() else alpha  # noqa: PLR2004


def _rgb(image: Image.Image, path: Path, levels: Levels, *, srgb: bool) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = levels.eight_bits(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if levels.color is not None and is_deep(image, path):
        values = deep_colors(path)
        if values is not None and values.shape[:2] == (image.height, image.width):
            return levels.eight_bits(values)
    if srgb and (profile := image.info.get("icc_profile")):
        image = _managed(image, profile)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # keeps a transparent palette entry from being taken for a colour
    return np.array(image.convert("RGB"))  # a copy, since Pillow's own memory is read-only


def has_colors_of_its_own(image: Image.Image) -> bool:
    """Whether a picture comes with a colour profile other than sRGB."""
    profile = image.info.get("icc_profile") or b""
    return profile != b"" and b"sRGB" not in profile[:HEAD_BYTES].replace(b"\0", b"")  # a name may be in UTF-16


def _managed(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture in sRGB; as it is if its profile is sRGB, damaged, or for other channels."""
    if not has_colors_of_its_own(image) or image.mode not in ("RGB", "RGBA", "L", "CMYK"):
        return image
    try:
        return (
            ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            or image
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
