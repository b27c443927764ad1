"""Masks as COLMAP has them: a grey picture for each photograph, black or transparent where it is to be ignored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.exif import AXIS_CHANGES
from vggsfm_cli.io.photographs import may_be_transparent, open_picture, to_stored

SHOWN_NAMES = 3


def find_mask(folder: Path, name: str) -> Path | None:
    """The mask of the photograph ``name``: ``NAME.png`` as COLMAP has it, or the same name with another ending."""
    for candidate in (folder / f"{name}.png", (folder / name).with_suffix(".png")):
        if candidate.is_file():
            return candidate
    return None


def read_mask(
    path: Path, size: tuple[int, int], orientation: int = 1, *, invert: bool = False
) -> Bool[np.ndarray, "H W"]:
    """True where the photograph is to be used, in its stored pixels.

    A mask is taken to be drawn on the stored pixels, as COLMAP takes it; one that has the size of the photograph turned
    upright, and not its stored size, is turned along with it.

    Args:
        path: of a picture; any value but black counts as True. If some of it is transparent, this is what counts, as
            programs that cut things out write it, whatever the colours are.
        size: stored width and height of the photograph.
        orientation: EXIF's number in the photograph.
        invert: what would count as True counts as False.

    Raises:
        InputError: the file cannot be read, or has another size.
    """
    unreadable = InputError(f"The mask {str(path)!r} cannot be read.", "Masks are pictures, black = ignore.")
    fits = [size, *([size[::-1]] if AXIS_CHANGES[orientation][0] else [])]
    try:
        with open_picture(path) as image:
            found = image.size
            # what has another size is not decoded: it could be a small file that unpacks to gigabytes
            keep = _marked(image) if found in fits else None
    except MemoryError:
        raise
    except Exception as error:  # decoders meet damage with anything from OSError to struct.error
        raise unreadable from error
    if keep is None:
        raise InputError(
            f"The mask {str(path)!r} has {found[0]} x {found[1]} pixels, its photograph {size[0]} x {size[1]}.",
            "A mask has the size of its photograph.",
        )
    stored = keep if found == size else to_stored(keep, orientation)
    return ~stored if invert else stored


def _marked(image: Image.Image) -> Bool[np.ndarray, "h w"]:
    if may_be_transparent(image):
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < alpha.max():
            return alpha > 0
    return np.array(image.convert("L")) > 0


def nothing_left(names: Sequence[str], by_masks: bool) -> InputError:
    """Photographs of which masks, or transparency alone, leave nothing."""
    shown = ", ".join(names[:SHOWN_NAMES]) + (f" and {len(names) - SHOWN_NAMES} more" if names[SHOWN_NAMES:] else "")
    if by_masks:
        hint = "Black and transparent parts of a mask are ignored; if yours are the other way round, add --mask-invert."
        return InputError(f"The masks leave nothing of the photographs: {shown}.", hint)
    return InputError(f"The photographs are wholly transparent: {shown}.", "--ignore-alpha uses them all the same.")
