"""The photographs of a model: where they lie, what their pixels are, and what they are called in an export.

Trainers do not look at EXIF data, so every picture is written as stored, without any: pixels and cameras then agree for
all readers, whether they turn pictures by their EXIF orientation or not.
"""

import dataclasses
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, UInt8

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.depth import Levels
from vggsfm_cli.io.masks import find_mask, read_mask
from vggsfm_cli.io.photographs import Decoded, decode, find_levels, may_be_transparent_file
from vggsfm_cli.io.pictures import WRITTEN_SUFFIXES, is_plain, shrink, write_picture
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
        ignore_alpha: what lies under transparent pixels is used.
        levels: of all photographs of the model.
        transparent: it may have transparent pixels that are to be ignored.
        name: in an export, unique whatever its ending, in plain letters, ending in .jpg, .jpeg or .png.
        original: in the model.
        size: stored width and height, as the model has them.
    """

    file: Path
    mask: Path | None
    mask_invert: bool
    ignore_alpha: bool
    levels: Levels
    transparent: bool
    name: str
    original: str
    size: tuple[int, int]

    def read(self) -> Decoded:
        """Stored pixels in sRGB, with their transparency if it counts, and EXIF data.

        Raises:
            InputError: the file cannot be read, or its size is not that of the model.
        """
        try:
            found = decode(self.file, self.levels, srgb=True)
        except MemoryError:
            raise
        except Exception as error:  # decoders meet damage with anything from OSError to struct.error
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(f"{str(self.file)!r} cannot be read: {reason}", "Is the file whole?") from error
        height, width = found.pixels.shape[:2]
        if (width, height) != self.size:
            raise InputError(
                f"{str(self.file)!r} has {width} x {height} pixels, the model says {self.size[0]} x {self.size[1]}.",
                "Give the folder of the photographs that were reconstructed.",
            )
        return dataclasses.replace(found, alpha=None) if self.ignore_alpha else found

    def read_mask(self, orientation: int) -> Bool[np.ndarray, "H W"]:
        """True where its mask lets the photograph be used; everywhere if it has no mask."""
        if self.mask is None:
            return np.ones(self.size[::-1], dtype=bool)
        return read_mask(self.mask, self.size, orientation, invert=self.mask_invert)


def with_alpha(pixels: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 4"]:
    """RGB and transparency; what is wholly transparent is black, so that nothing hidden comes back."""
    return np.dstack([without_hidden(pixels, alpha), alpha])


def without_hidden(pixels: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels, black where they are wholly transparent: some programs leave there what was cut away."""
    return np.where(alpha[..., None] > 0, pixels, 0).astype(np.uint8)


def find_photographs(
    reconstruction: Reconstruction,
    images: Path | str,
    masks: Path | str | None = None,
    *,
    mask_invert: bool = False,
    ignore_alpha: bool = False,
    masks_become_alpha: bool = False,
) -> list[Photograph]:
    """The photographs of all frames.

    Args:
        reconstruction: names them, relative to ``images``.
        images: folder of the photographs.
        masks: folder of their masks, named as COLMAP names them; photographs without one are used whole.
        mask_invert: white is to be ignored, not black.
        ignore_alpha: what lies under transparent pixels is used.
        masks_become_alpha: photographs with masks get names of files that can hold alpha.

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
    files = [folder / name for name in names]
    transparent = [not ignore_alpha and may_be_transparent_file(file) for file in files]
    as_png = [
        may_be or (masks_become_alpha and mask is not None) for may_be, mask in zip(transparent, found, strict=True)
    ]
    levels = find_levels(files)
    return [
        Photograph(
            file=files[s],
            mask=found[s],
            mask_invert=mask_invert,
            ignore_alpha=ignore_alpha,
            levels=levels,
            transparent=transparent[s],
            name=written,
            original=names[s],
            size=(int(size[0]), int(size[1])),
        )
        for s, (written, size) in enumerate(
            zip(exported_names(names, as_png), reconstruction.sizes.tolist(), strict=True)
        )
    ]


def _folder(path: Path | str) -> Path:
    if not Path(path).is_dir():
        raise InputError(f"No folder {str(path)!r}.", "Check the path.")
    return Path(path)


def exported_names(names: Sequence[str], as_png: Sequence[bool]) -> list[str]:
    """Names in an export that every reader takes: without folders, and unique up to their first point.

    Readers of splat trainers look for the last part of a name alone, take it byte by byte for ASCII, end it at the
    first point, or split lines at spaces. So names are of letters, digits, ``-`` and ``_``; folders become part of the
    name. What already is such a name stays.

    Args:
        names: relative paths.
        as_png: which of them must be PNG files; others than JPEG and PNG are in any case.
    """
    taken: set[str] = set()
    out: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (_plain_stem(name) != PurePosixPath(name).stem, "/" in name)):
        stem = _plain_stem(name)
        number = 2
        while stem.lower() in taken:  # file systems may not tell capitals apart
            stem, number = f"{_plain_stem(name)}_{number}", number + 1
        taken.add(stem.lower())
        out[name] = stem
    return [f"{out[name]}{_written_suffix(name, png)}" for name, png in zip(names, as_png, strict=True)]


def _plain_stem(name: str) -> str:
    path = PurePosixPath(name)
    letters = unicodedata.normalize("NFKD", path.with_name(path.stem).as_posix())
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9_-]+", "_", letters) or "_"


def _written_suffix(name: str, png: bool) -> str:
    suffix = PurePosixPath(name).suffix
    return ".png" if png or suffix.lower() not in WRITTEN_SUFFIXES else suffix


def copy_photographs(
    photographs: Sequence[Photograph],
    folder: Path,
    mask_name: MaskName = colmap_mask_name,
    *,
    ignore_white: bool = False,
    downscale: Sequence[int] = (),
) -> None:
    """Write ``images/NAME`` as stored: the very file where it is one that readers agree on, else its pixels anew.

    Transparent photographs stay so. If any photograph has a mask, a mask is written for all of them.

    Args:
        photographs: of a model.
        folder: that gets ``images`` and the masks.
        mask_name: of the mask of a photograph, relative to ``folder``.
        ignore_white: white is what is to be ignored, not black.
        downscale: factors ``F`` of which ``images_F`` and ``masks_F`` are written too, sizes rounded down.

    Raises:
        InputError: a file cannot be read, or has another size than the model says.
    """
    masked = has_masks(photographs)

    def copy(photograph: Photograph) -> None:
        found = photograph.read()
        pixels = found.pixels if found.alpha is None else with_alpha(found.pixels, found.alpha)
        target = folder / "images" / photograph.name
        if is_plain(photograph.file) and target.suffix == photograph.file.suffix:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photograph.file, target)
        else:
            write_picture(target, pixels)
        for factor in downscale:
            small = shrink(pixels, factor, round_down=True)
            write_picture(folder / f"images_{factor}" / photograph.name, small)
        if masked:
            keep = photograph.read_mask(found.exif.orientation)
            write_picture(folder / mask_name(photograph.name), (keep ^ ignore_white).astype(np.uint8) * 255)
            for factor in downscale:
                whole = shrink(keep.astype(np.uint8) * 255, factor, round_down=True) == 255  # noqa: PLR2004
                path = f"masks_{factor}/{PurePosixPath(mask_name(photograph.name)).name}"
                write_picture(folder / path, (whole ^ ignore_white).astype(np.uint8) * 255)

    for _ in map_threads(copy, photographs):
        pass


def has_masks(photographs: Sequence[Photograph]) -> bool:
    """Whether any photograph has a mask; then a mask is written for each of them."""
    return any(photograph.mask is not None for photograph in photographs)
