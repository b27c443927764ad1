"""Photographs by their name in a model: stored pixels and EXIF orientation, for those who show them."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, UInt8

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.exif import AXIS_CHANGES
from vggsfm_cli.io.photographs import PhotographFiles, decode
from vggsfm_cli.scene import ImageSet

Lookup = Callable[[str], tuple[UInt8[np.ndarray, "H W 3"], int] | None]


def photographs_in(folder: Path | str) -> Lookup:
    """Photographs in files below a folder; None for names without a file there that can be read.

    Names that lead out of the folder have none.

    Raises:
        InputError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"No folder {str(folder)!r}.", "Give the folder of the photographs, or leave it out.")

    def find(name: str) -> tuple[UInt8[np.ndarray, "H W 3"], int] | None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            return None
        return _decoded(root / path)

    return find


def photographs_of(images: ImageSet) -> Lookup:
    """Photographs of the first scene of a set that has been read; None where it holds no originals."""
    index = {name: s for s, name in enumerate(images.names[0])}
    orientations = [_orientation(matrix.cpu().numpy()) for matrix in images.stored_from_network[0]]

    def find(name: str) -> tuple[UInt8[np.ndarray, "H W 3"], int] | None:
        s, originals = index.get(name), images.originals
        if s is None or originals is None:
            return None
        if isinstance(originals, PhotographFiles):  # spares a copy in floating point
            return _decoded(originals.paths[s])
        pixels = (originals.color(0, s) * 255).round().clamp(0, 255)
        return pixels.permute(1, 2, 0).cpu().numpy().astype(np.uint8), orientations[s]

    return find


def _decoded(path: Path) -> tuple[UInt8[np.ndarray, "H W 3"], int] | None:
    try:
        pixels, exif = decode(path)
    except MemoryError:
        raise
    except Exception:  # decoders meet damage with anything from OSError to struct.error
        return None
    return pixels, exif.orientation


def _orientation(stored_from_network: Float[np.ndarray, "2 3"]) -> int:
    """EXIF's number of the turn inside an affine map from upright to stored pixels."""
    linear = stored_from_network[:, :2]
    swap = abs(linear[0, 1]) > abs(linear[0, 0])
    mirrored = (bool(linear[0].sum() < 0), bool(linear[1].sum() < 0))
    return next(number for number, change in AXIS_CHANGES.items() if change == (swap, *mirrored))
