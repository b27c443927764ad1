"""Pictures that no camera model here describes, known by what they look like: panoramas and circles of fisheyes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

PANORAMA = "panoramas all around (equirectangular)"
STITCHED = "stitched panoramas"
CIRCULAR = "circles of a fisheye"
TWO_CIRCLES = "two circles of fisheyes side by side"

REMEDIES = {
    PANORAMA: "cut views of a pinhole camera out of them, for example with ffmpeg's filter "
    "v360=e:flat:h_fov=90:v_fov=90:yaw=0, at several yaws",
    STITCHED: "they have no single place and no single focal length; use the pictures they were stitched from",
    CIRCULAR: "add --camera-model OPENCV_FISHEYE, --masks that leave only the circle, and if you know it --intrinsics",
    TWO_CIRCLES: "stitch them and cut views out of them, or use one lens alone, cropped, with --camera-model "
    "OPENCV_FISHEYE",
}

MOST_COMMON_SHARE = 0.5
"""Of the pictures of a set: from there on it is told."""

STITCHED_ASPECT = 2.6
ASPECT_TOLERANCE = 0.02
SMALL_SIDE = 128
"""Rows of a reduced picture; enough to see a circle, few enough to cost nothing."""

DARK = 24
"""Grey level below which a corner is outside of a fisheye's circle."""

HEAD_BYTES = 2**16
POSE_MARK, KIND_MARK = b"ProjectionType", b"equirectangular"
"""Of the XMP block that 360-degree cameras write (GPano)."""


def projection(pixels: UInt8[np.ndarray, "H W 3"], path: Path) -> str | None:
    """What kind of picture a photograph is; None for those of a lens that the camera models describe.

    Args:
        pixels: upright, of any size.
        path: of its file, in whose head cameras note what it is.
    """
    height, width = pixels.shape[:2]
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if POSE_MARK in head and KIND_MARK in head:
        return PANORAMA
    step = max(1, height // SMALL_SIDE)
    grey = pixels[::step, ::step].mean(-1).astype(np.float32)
    if abs(width / height - 2) < ASPECT_TOLERANCE * 2:
        half = grey.shape[1] // 2
        if _is_circle(grey[:, :half]) and _is_circle(grey[:, half:]):
            return TWO_CIRCLES
        if _sides_meet(grey):
            return PANORAMA
    if max(width / height, height / width) > STITCHED_ASPECT:
        return STITCHED
    return CIRCULAR if _is_circle(grey) else None


def _sides_meet(grey: Float[np.ndarray, "h w"]) -> bool:
    """Whether the left side goes on where the right one ends, and each pole is of one colour, unlike the middle."""
    step = np.abs(np.diff(grey, axis=1))
    seam = float(np.abs(grey[:, 0] - grey[:, -1]).mean())
    usual = float(step.mean())
    far = float(np.abs(grey - np.roll(grey, grey.shape[1] // 3, axis=1)).mean())
    poles = max(float(grey[0].std()), float(grey[-1].std()))
    middle = float(grey[len(grey) // 3 : 2 * len(grey) // 3].std())
    return seam < 2 * usual + 2 and seam < 0.3 * far and poles < 0.3 * middle


def _is_circle(grey: Float[np.ndarray, "h w"]) -> bool:
    """Whether all is dark outside of a circle, or of its middle part, and the circle shows something up to its edge."""
    height, width = grey.shape
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(x + 0.5 - width / 2, y + 0.5 - height / 2) / (min(height, width) / 2)
    outside = radius > 1.15  # noqa: PLR2004
    corners = [outside[rows, columns] for rows in (slice(0, height // 2), slice(height // 2, None))
               for columns in (slice(0, width // 2), slice(width // 2, None))]  # fmt: skip
    if min(int(corner.sum()) for corner in corners) == 0 or float(np.quantile(grey[outside], 0.95)) > DARK:
        return False
    inner = grey[radius < 0.9]  # noqa: PLR2004
    ring = grey[(radius > 0.75) & (radius < 0.9)]  # noqa: PLR2004
    return bool(np.median(inner) > 2 * DARK and (ring > DARK).mean() > 0.8)  # noqa: PLR2004


def caution(found: Sequence[str | None]) -> str | None:
    """A sentence on a set of which at least half are such pictures, and what to do; None for all others."""
    kinds = Counter(kind for kind in found if kind is not None)
    if not kinds:
        return None
    kind, count = kinds.most_common(1)[0]
    if count < MOST_COMMON_SHARE * len(found):
        return None
    return f"{count} of {len(found)} pictures look like {kind}, which no camera model fits: {REMEDIES[kind]}."
