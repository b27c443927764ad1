"""The photographs of a model: where they lie, what their pixels are, and what they are called in an export.

Trainers do not look at EXIF data, so every picture is written as stored, without any: pixels and cameras then agree for
all readers, whether they turn pictures by their EXIF orientation or not.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, UInt8

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.exif import ExifData
from vggsfm_cli.io.masks import find_mask, read_mask
from vggsfm_cli.io.photographs import decode
from vggsfm_cli.io.pictures import WRITTEN_SUFFIXES, is_plain, write_picture
from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.threads import map_threads

MaskName = Callable[[str], str]


def colmap_mask_name(name: str) -> str:
    """Where COLMAP expects the mask of a photograph."""
    return f"masks/{name}.png"


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One photograph of a model.

    Attributes:
        file: where it lies.
        mask: where its mask lies, if it has one.
        mask_invert: white is to be ignored, not black.
        name: relative path in an export, ending in .jpg, .jpeg or .png.
        size: stored width and height, as the model has them.
    """

    file: Path
    mask: Path | None
    mask_invert: bool
    name: str
    size: tuple[int, int]

    def read(self) -> tuple[UInt8[np.ndarray, "H W 3"], ExifData]:
        """Stored pixels and EXIF data.

        Raises:
            InputError: the file cannot be read, or its size is not that of the model.
        """
        try:
            pixels, exif = decode(self.file)
        except MemoryError:
            raise
        except Exception as error:  # decoders meet damage with anything from OSError to struct.error
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(f"{str(self.file)!r} cannot be read: {reason}", "Is the file whole?") from error
        height, width = pixels.shape[:2]
        if (width, height) != self.size:
            raise InputError(
                f"{str(self.file)!r} has {width} x {height} pixels, the model says {self.size[0]} x {self.size[1]}.",
                "Give the folder of the photographs that were reconstructed.",
            )
        return pixels, exif

    def read_mask(self, orientation: int) -> Bool[np.ndarray, "H W"]:
        """True where the photograph is to be used; everywhere if it has no mask."""
        if self.mask is None:
            return np.ones(self.size[::-1], dtype=bool)
        return read_mask(self.mask, self.size, orientation, invert=self.mask_invert)


def find_photographs(
    reconstruction: Reconstruction,
    images: Path | str,
    masks: Path | str | None = None,
    *,
    mask_invert: bool = False,
) -> list[Photograph]:
    """The photographs of all frames.

    Args:
        reconstruction: names them, relative to ``images``.
        images: folder of the photographs.
        masks: folder of their masks, named as COLMAP names them; photographs without one are used whole.
        mask_invert: white is to be ignored, not black.

    Raises:
        InputError: a folder or a photograph is missing, a name leads out of the folder, or no photograph has a mask.
    """
    folder = _folder(images)
    names = list(reconstruction.names)
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"The model calls a photograph {name!r}.", "Names must be relative to --images.")
    if missing := [name for name in names if not (folder / name).is_file()]:
        hint = f"{len(missing)} of {len(names)} photographs are missing; --images is the folder they were read from."
        raise InputError(f"No photograph {missing[0]!r} in {str(images)!r}.", hint)
    found = [find_mask(_folder(masks), name) for name in names] if masks is not None else [None] * len(names)
    if masks is not None and not any(found):
        raise InputError(f"No mask of any photograph in {str(masks)!r}.", f"One would be called {names[0]}.png")
    return [
        Photograph(
            file=folder / name,
            mask=mask,
            mask_invert=mask_invert,
            name=written,
            size=(int(size[0]), int(size[1])),
        )
        for name, mask, written, size in zip(
            names, found, exported_names(names), reconstruction.sizes.tolist(), strict=True
        )
    ]


def _folder(path: Path | str) -> Path:
    if not Path(path).is_dir():
        raise InputError(f"No folder {str(path)!r}.", "Check the path.")
    return Path(path)


def exported_names(names: Sequence[str]) -> list[str]:
    """Names in an export: as they are for JPEG and PNG, with .png added for the kinds that trainers do not read."""
    taken = {name.lower() for name in names}
    out = []
    for name in names:
        written = name
        while PurePosixPath(written).suffix.lower() not in WRITTEN_SUFFIXES or (
            written != name and written.lower() in taken
        ):
            written += ".png"
        taken.add(written.lower())
        out.append(written)
    return out


def copy_photographs(
    photographs: Sequence[Photograph],
    folder: Path,
    mask_name: MaskName = colmap_mask_name,
    *,
    ignore_white: bool = False,
) -> None:
    """Write ``images/NAME`` as stored: the very file where it is one that readers agree on, else its pixels anew.

    If any photograph has a mask, a mask is written for all of them.

    Args:
        photographs: of a model.
        folder: that gets ``images`` and the masks.
        mask_name: of the mask of a photograph, relative to ``folder``.
        ignore_white: white is what is to be ignored, not black.

    Raises:
        InputError: a file cannot be read, or has another size than the model says.
    """
    masked = has_masks(photographs)

    def copy(photograph: Photograph) -> None:
        pixels, exif = photograph.read()
        target = folder / "images" / photograph.name
        if is_plain(photograph.file) and target.name == photograph.file.name:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photograph.file, target)
        else:
            write_picture(target, pixels)
        if masked:
            keep = photograph.read_mask(exif.orientation)
            write_picture(folder / mask_name(photograph.name), (keep ^ ignore_white).astype(np.uint8) * 255)

    for _ in map_threads(copy, photographs):
        pass


def has_masks(photographs: Sequence[Photograph]) -> bool:
    """Whether any photograph has a mask; then a mask is written for each of them."""
    return any(photograph.mask is not None for photograph in photographs)
