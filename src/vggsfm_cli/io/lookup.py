"""Photographs by their name in a model: stored pixels and EXIF orientation, for those who show them."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, UInt8

from vggsfm_cli.errors import InputError, NotEnoughMemory
from vggsfm_cli.io.depth import Levels
from vggsfm_cli.io.exif import AXIS_CHANGES
from vggsfm_cli.io.photographs import PhotographFiles, decode, find_levels
from vggsfm_cli.scene import ImageSet

Lookup = Callable[[str], tuple[UInt8[np.ndarray, "H W 3"], int] | None]


def photographs_in(folder: Path | str, names: Sequence[str] = ()) -> Lookup:
    """Photographs in files below a folder; None for names without a file there that can be read.

    Names that lead out of the folder have none.

    Args:
        folder: of the photographs.
        names: of those that are looked at together; pictures of more than eight bits have their levels in common.

    Raises:
        InputError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"No folder {str(folder)!r}.", "Give the folder of the photographs, or leave it out.")
    levels = find_levels([path for name in names if (path := _inside(root, name)) is not None])

    def find(name: str) -> tuple[UInt8[np.ndarray, "H W 3"], int] | None:
        path = _inside(root, name)
        return None if path is None else _decoded(path, levels)

    return find


def _inside(root: Path, name: str) -> Path | None:
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts else root / path


def photographs_of(images: ImageSet) -> Lookup:
    """Photographs of the first scene of a set that has been read; None where it holds no originals."""
    index = {name: s for s, name in enumerate(images.names[0])}
    orientations = [_orientation(matrix.cpu().numpy()) for matrix in images.stored_from_network[0]]

    def find(name: str) -> tuple[UInt8[np.ndarray, "H W 3"], int] | None:
        s, originals = index.get(name), images.originals
        if s is None or originals is None:
            return None
        if isinstance(originals, PhotographFiles):  # spares a copy in floating point
            return _decoded(originals.paths[s], originals.levels)
        pixels = (originals.color(0, s) * 255).round().clamp(0, 255)
        return pixels.permute(1, 2, 0).cpu().numpy().astype(np.uint8), orientations[s]

    return find


def _decoded(path: Path, levels: Levels) -> tuple[UInt8[np.ndarray, "H W 3"], int] | None:
    try:
        found = decode(path, levels)
    except (MemoryError, NotEnoughMemory):
        raise
    except Exception:  # decoders meet damage with anything from OSError to struct.error
        return None
    return found.pixels, found.exif.orientation


def _orientation(stored_from_network: Float[np.ndarray, "2 3"]) -> int:
    """EXIF's number of the turn inside an affine map from upright to stored pixels."""
    linear = stored_from_network[:, :2]
    swap = abs(linear[0, 1]) > abs(linear[0, 0])
    mirrored = (bool(linear[0].sum() < 0), bool(linear[1].sum() < 0))
    return next(number for number, change in AXIS_CHANGES.items() if change == (swap, *mirrored))
