"""What the camera wrote into the file: how it was held, which camera it was, and its focal length."""

import math
from dataclasses import dataclass

from PIL import Image

ORIENTATION, MAKE, MODEL = 0x0112, 0x010F, 0x0110
EXIF_BLOCK, FOCAL_LENGTH, FOCAL_LENGTH_35MM = 0x8769, 0x920A, 0xA405
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)

AxisChange = tuple[bool, bool, bool]
AXIS_CHANGES: dict[int, AxisChange] = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""EXIF orientation to (swap axes, mirror stored x, mirror stored y): upright = swap(mirror(stored))."""


@dataclass(frozen=True, kw_only=True)
class ExifData:
    """The few EXIF fields that matter; None where the file is silent.

    Attributes:
        orientation: EXIF's number, 1 to 8.
        make, model: of the camera.
        focal_mm: focal length of the lens.
        focal_35mm: the same as an equivalent on 36 x 24 mm film.
    """

    orientation: int = 1
    make: str | None = None
    model: str | None = None
    focal_mm: float | None = None
    focal_35mm: float | None = None

    @property
    def camera(self) -> tuple[str | float | None, ...]:
        """What two frames of one physical camera at one zoom have in common."""
        return (self.make, self.model, self.focal_mm, self.focal_35mm)

    def focal_px(self, width: int, height: int) -> float | None:
        """Focal length in pixels of a picture of this size, from the equivalent on film (by the diagonal, as CIPA)."""
        if self.focal_35mm is None:
            return None
        return self.focal_35mm / FILM_DIAGONAL_MM * math.hypot(width, height)


def read_exif(image: Image.Image) -> ExifData:
    """The fields of an opened picture; damaged or nonsensical ones count as absent."""
    try:
        tags = image.getexif()
        block = tags.get_ifd(EXIF_BLOCK)
    except Exception:  # Pillow's readers raise anything from KeyError to struct.error on damaged blocks
        return ExifData()
    orientation = tags.get(ORIENTATION, 1)
    return ExifData(
        orientation=orientation if orientation in AXIS_CHANGES else 1,
        make=_text(tags.get(MAKE)),
        model=_text(tags.get(MODEL)),
        focal_mm=_positive(block.get(FOCAL_LENGTH)),
        focal_35mm=_positive(block.get(FOCAL_LENGTH_35MM)),
    )


def _text(value: object) -> str | None:
    return value.strip("\0 ") or None if isinstance(value, str) else None


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
