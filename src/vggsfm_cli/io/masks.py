"""Masks as COLMAP has them: a grey picture for each photograph, black where it is to be ignored."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.exif import AXIS_CHANGES
from vggsfm_cli.io.photographs import to_stored


def find_mask(folder: Path, name: str) -> Path | None:
    """The mask of the photograph ``name``: ``NAME.png`` as COLMAP has it, or the same name with another ending."""
    for candidate in (folder / f"{name}.png", (folder / name).with_suffix(".png")):
        if candidate.is_file():
            return candidate
    return None


def read_mask(path: Path, size: tuple[int, int], orientation: int = 1) -> Bool[np.ndarray, "H W"]:
    """True where the photograph is to be used, in its stored pixels.

    A mask is taken to be drawn on the stored pixels, as COLMAP takes it; one that has the size of the photograph turned
    upright, and not its stored size, is turned along with it.

    Args:
        path: of a picture; any value but black counts as True.
        size: stored width and height of the photograph.
        orientation: EXIF's number in the photograph.

    Raises:
        InputError: the file cannot be read, or has another size.
    """
    try:
        with Image.open(path) as image:
            keep = np.array(image.convert("L")) > 0
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"The mask {str(path)!r} cannot be read.", "Masks are pictures, black = ignore.") from error
    width, height = size
    if keep.shape == (height, width):
        return keep
    if keep.shape == (width, height) and AXIS_CHANGES[orientation][0]:
        return to_stored(keep, orientation)
    raise InputError(
        f"The mask {str(path)!r} has {keep.shape[1]} x {keep.shape[0]} pixels, its photograph {width} x {height}.",
        "A mask has the size of its photograph.",
    )
