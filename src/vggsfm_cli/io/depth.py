"""Pictures of more than eight bits a channel: thermal cameras, scanners, raw developers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from vggsfm_cli.threads import map_threads

MOST_LOOKED_AT = 48
"""Pictures of a set from which its levels are taken, evenly spread."""
EVERY = 3
"""Row and column of a picture that is looked at for its levels."""

OUTLIERS = 0.001
"""Share of a picture's pixels at either end that may become black or white: dead pixels, glints."""
FULL = 0.5
"""Share of the range of the type from which on a set is shown as it is."""

PNG_BIT_DEPTH_AT = 24
BITS_PER_SAMPLE = 258
"""Place in a PNG file, and tag in a TIFF file, of the bits a channel."""

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Values that become black and white; None for the range of the type.

    Attributes:
        grey: of pictures of one channel.
        color: of pictures of three.
    """

    grey: Range | None = None
    color: Range | None = None

    def eight_bits(self, values: Shaped[np.ndarray, "H W *c"]) -> UInt8[np.ndarray, "H W *c"]:
        """Values of more than eight bits, in proportion between the levels."""
        numbers = values.astype(np.float32)  # exact for 16 bits
        np.nan_to_num(numbers, copy=False, posinf=0.0, neginf=0.0)
        low, high = (self.grey if values.ndim == 2 else self.color) or (0.0, _top(values, numbers))  # noqa: PLR2004
        return np.clip(np.rint((numbers - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)


OF_THE_TYPE = Levels()


def is_deep(image: Image.Image, path: Path) -> bool:
    """Whether an opened picture has more than eight bits a channel."""
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(PNG_BIT_DEPTH_AT + 1)[PNG_BIT_DEPTH_AT:] == b"\x10"
    return image.format == "TIFF" and int(np.max(image.getexif().get(BITS_PER_SAMPLE, 8))) > 8  # noqa: PLR2004


def deep_colors(path: Path) -> Shaped[np.ndarray, "H W 3"] | None:
    """RGB values of a PNG or TIFF file in all their bits, turned as Pillow turns them; None if that cannot be."""
    found = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype == np.uint8:
        return None
    if found.ndim == 2:  # noqa: PLR2004  # of grey and alpha OpenCV keeps the grey
        found = np.repeat(found[..., None], 3, axis=2)
    return np.ascontiguousarray(found[..., 2::-1])


def levels_of(paths: Sequence[Path], values: Callable[[Path], Shaped[np.ndarray, "..."] | None]) -> Levels:
    """The levels of a set: those of its darkest and brightest pictures, where these leave much of the range unused.

    Args:
        paths: of the set.
        values: of a picture of more than eight bits, None of others.
    """
    step = max(1, -(-len(paths) // MOST_LOOKED_AT))
    looked_at = list(map_threads(lambda path: _extent(values(path)), paths[::step]))
    return Levels(grey=_joined(looked_at, "grey"), color=_joined(looked_at, "color"))


@dataclass(frozen=True, kw_only=True)
class _Extent:
    """Of one picture."""

    kind: str
    low: float
    high: float
    top: float


def _extent(values: Shaped[np.ndarray, "..."] | None) -> _Extent | None:
    if values is None:
        return None
    some = values[::EVERY, ::EVERY].astype(np.float32)
    some = some[np.isfinite(some)]
    if some.size == 0:
        return None
    low, high = (float(level) for level in np.quantile(some, [OUTLIERS, 1 - OUTLIERS]))
    return _Extent(kind="grey" if values.ndim == 2 else "color", low=low, high=high, top=_top(values, some))  # noqa: PLR2004


def _joined(extents: Sequence[_Extent | None], kind: str) -> Range | None:
    own = [extent for extent in extents if extent is not None and extent.kind == kind]
    if not own:
        return None
    low, high = min(extent.low for extent in own), max(extent.high for extent in own)
    top = max(extent.top for extent in own)
    if not low < high or (low >= 0 and high <= top and high - low >= FULL * top and top in (1.0, 2**16 - 1)):
        return None
    return low, high


def _top(values: Shaped[np.ndarray, "..."], numbers: Shaped[np.ndarray, "..."]) -> float:
    """White of a type: 1 for floating point, 2^16 - 1 for integers; the largest value where it is more."""
    usual = 1.0 if np.issubdtype(values.dtype, np.floating) else float(2**16 - 1)
    return max(usual, float(numbers.max(initial=0.0)))
