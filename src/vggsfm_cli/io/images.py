"""Photographs become an ``ImageSet``: upright for the network, with the map to stored pixels."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vggsfm_cli.errors import InputError, NotEnoughMemory, UsageError
from vggsfm_cli.geometry import camera
from vggsfm_cli.io.depth import Levels
from vggsfm_cli.io.exif import AXIS_CHANGES, ExifData
from vggsfm_cli.io.intrinsics import KnownCamera
from vggsfm_cli.io.kinds import SUFFIXES
from vggsfm_cli.io.masks import find_mask, nothing_left, read_mask
from vggsfm_cli.io.photographs import PhotographFiles, decode, find_levels, luminance, to_upright
from vggsfm_cli.io.priors import CAMERA_MODES, camera_priors
from vggsfm_cli.io.projections import caution, projection
from vggsfm_cli.io.sources import FoundImages, SkippedImage, Source, find_images
from vggsfm_cli.scene import ImageSet, Progress, ProgressCallback, silent
from vggsfm_cli.threads import map_threads

logger = logging.getLogger(__name__)

NETWORK_MULTIPLE = 32
MIN_SIDE_PX = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotographSet(ImageSet):
    """An ``ImageSet`` read from files.

    Attributes:
        skipped: files that could not be read.
        caution: a sentence on why a model of them will be poor, and what to do; empty if nothing speaks for it.
    """

    skipped: tuple[SkippedImage, ...] = ()
    caution: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Photograph:
    """One decoded file: small upright pixels, which of them are usable, and the map to stored pixels."""

    pixels: UInt8[np.ndarray, "h w 3"]
    keep: Bool[np.ndarray, "h w"]
    stored_from_network: Float[np.ndarray, "2 3"]
    size: tuple[int, int]
    exif: ExifData
    grey: UInt8[np.ndarray, "H W"]
    transparent: bool = False
    projection: str | None = None


def read_images(
    source: Source | FoundImages,
    *,
    recursive: bool = False,
    long_side: int = 1024,
    camera_mode: str = "auto",
    camera_model: str = "SIMPLE_RADIAL",
    intrinsics: Sequence[KnownCamera] = (),
    masks: Path | str | None = None,
    mask_invert: bool = False,
    ignore_alpha: bool = False,
    progress: ProgressCallback = silent,
) -> PhotographSet:
    """Read the photographs of one scene.

    Args:
        source: a folder, a glob pattern, a list file, or several files, folders and patterns, see ``find_images``.
        recursive: enter the folders in a folder.
        long_side: of the pictures the network sees, in pixels; smaller ones are not enlarged.
        camera_mode: which frames share a camera. ``auto``: those of one stored size whose EXIF data name the same
            camera and focal length; ``single``: all; ``per-folder``: those of one folder; ``per-image``: none.
        camera_model: COLMAP's name of the camera model.
        intrinsics: cameras whose parameters are known; they are held fixed.
        masks: folder with a mask for each photograph, named as COLMAP names them; one without is used whole.
        mask_invert: white is to be ignored, not black.
        ignore_alpha: use what lies under transparent pixels; they count as masked otherwise.
        progress: is told of each file.

    Returns:
        One scene (``B`` = 1). Files that cannot be read are logged and listed in ``skipped``.

    Raises:
        InputError: nothing there, fewer than two readable images, masks or intrinsics that do not fit, or masks that
            leave nothing of all but one photograph.
        UsageError: unknown camera model or mode, or one camera for images of several sizes.
    """
    _check_options(long_side, camera_mode, camera_model)
    found = source
    if not isinstance(found, FoundImages):
        found = find_images(found, recursive=recursive, without=() if masks is None else (Path(masks),))
    files, names, skipped = found.files, found.names, list(found.skipped)
    mask_of = _find_masks(masks, names)
    levels = find_levels(files)
    photographs: list[_Photograph] = []
    kept: list[int] = []
    for i, result in enumerate(
        map_threads(
            lambda i: _read(files[i], long_side, mask_of[i], mask_invert, levels, ignore_alpha), range(len(files))
        )
    ):
        if isinstance(result, _Photograph):
            photographs.append(result)
            kept.append(i)
        else:
            skipped.append(SkippedImage(name=names[i], reason=result))
            logger.warning("Skipped %s: %s", names[i], result)
        progress(Progress(stage="images", done=i + 1, total=len(files), detail=names[i]))
    if len(photographs) < 2:  # noqa: PLR2004
        raise _too_few(found, len(photographs), skipped)
    check_something_left([names[i] for i in kept], photographs, by_masks=masks is not None)
    originals = PhotographFiles([files[i] for i in kept], levels, long_side=long_side)
    for s, photograph in enumerate(photographs):
        originals.keep(s, photograph.grey)
    pixels, mask = _pad(photographs)
    sizes = [photograph.size for photograph in photographs]
    return PhotographSet(
        pixels=pixels[None],
        mask=mask[None],
        frame_valid=torch.ones(1, len(kept), dtype=torch.bool),
        stored_from_network=torch.from_numpy(np.stack([p.stored_from_network for p in photographs])).float()[None],
        stored_size=torch.tensor(sizes)[None],
        names=(tuple(names[i] for i in kept),),
        originals=originals,
        priors=camera_priors(
            [names[i] for i in kept],
            sizes,
            [photograph.exif for photograph in photographs],
            camera_mode,
            camera_model,
            intrinsics,
        ),
        skipped=tuple(skipped),
        caution=warned([photograph.projection for photograph in photographs]),
    )


def warned(found: Sequence[str | None]) -> str:
    """What is to be said before a run about the kinds of its pictures, which is logged."""
    said = caution(found) or ""
    if said:
        logger.warning("%s", said)
    return said


def _check_options(long_side: int, camera_mode: str, camera_model: str) -> None:
    if long_side < NETWORK_MULTIPLE:
        raise UsageError(f"A long side of {long_side} px is too small.", f"Use at least {NETWORK_MULTIPLE}.")
    if camera_mode not in CAMERA_MODES:
        raise UsageError(f"Unknown camera mode {camera_mode!r}.", f"Choose one of: {', '.join(CAMERA_MODES)}.")
    if camera_model not in camera.PARAM_NAMES:
        raise UsageError(f"Unknown camera model {camera_model!r}.", f"Choose one of: {', '.join(camera.PARAM_NAMES)}.")


def _find_masks(folder: Path | str | None, names: Sequence[str]) -> list[Path | None]:
    """The mask of each photograph, if it has one."""
    if folder is None:
        return [None] * len(names)
    if not Path(folder).is_dir():
        raise InputError(f"No folder {str(folder)!r} of masks.", "Check the path of --masks.")
    found = [find_mask(Path(folder), name) for name in names]
    missing = [name for name, mask in zip(names, found, strict=True) if mask is None]
    if names and len(missing) == len(names):
        raise InputError(f"No mask of any photograph in {str(folder)!r}.", f"One would be called {names[0]}.png")
    if missing:
        logger.warning("%d of %d photographs have no mask and are used whole: %s", len(missing), len(names), missing[0])
    return found


def _too_few(found: FoundImages, readable: int, skipped: list[SkippedImage]) -> InputError:
    count = "No readable image" if readable == 0 else "Only one readable image"
    hint = f"At least two are needed. Supported: {' '.join(SUFFIXES)}."
    if skipped:
        hint += f" Skipped: {'; '.join(f'{item.name} ({item.reason})' for item in skipped[:3])}"
        hint += f"; and {len(skipped) - 3} more." if len(skipped) > 3 else "."  # noqa: PLR2004
    elif found.left_out:
        hint += f" Left out: {'; '.join(f'{item.name} ({item.reason})' for item in found.left_out[:3])}."
    elif found.root.is_dir() and any(path.is_dir() for path in found.root.iterdir()):
        hint += " Folders in it are entered with --recursive."
    return InputError(f"{count} in {found.shown}.", hint)


def check_something_left(names: Sequence[str], photographs: Sequence[_Photograph], *, by_masks: bool) -> None:
    """Say which photographs are transparent in parts, and of which masks and transparency leave nothing.

    Raises:
        InputError: this is so of all of them, or of all but one.
    """
    transparent = [name for name, photograph in zip(names, photographs, strict=True) if photograph.transparent]
    if transparent:
        logger.warning(
            "Transparent parts count as masked in %d of %d photographs (--ignore-alpha uses them): %s",
            len(transparent), len(names), transparent[0],
        )  # fmt: skip
    empty = [name for name, photograph in zip(names, photographs, strict=True) if not photograph.keep.any()]
    if not empty:
        return
    nothing = nothing_left(empty, by_masks)
    if len(names) - len(empty) < 2:  # noqa: PLR2004
        raise nothing
    logger.warning("%s", nothing.message)


def _read(
    path: Path, long_side: int, mask: Path | None, mask_invert: bool, levels: Levels, ignore_alpha: bool
) -> _Photograph | str:
    """One file, or a word on why it cannot be read.

    Raises:
        InputError: its mask cannot be read, or does not fit.
    """
    try:
        found = decode(path, levels, long_side=long_side)
    except (MemoryError, NotEnoughMemory):
        raise
    except Exception as error:  # decoders meet damage with anything from OSError to struct.error
        return _reason(error)
    stored, exif, (width, height) = found.pixels, found.exif, found.size
    if min(width, height) < MIN_SIDE_PX:
        return f"only {width} x {height} pixels"
    scale = min(1.0, long_side / max(width, height))
    small_size = max(1, round(width * scale)), max(1, round(height * scale))
    small = (
        stored if small_size == stored.shape[1::-1] else cv2.resize(stored, small_size, interpolation=cv2.INTER_AREA)
    )
    keep = np.ones((small_size[1], small_size[0]), dtype=bool)
    opaque = None if ignore_alpha else found.opaque
    usable = [] if opaque is None else [opaque]
    if mask is not None:
        usable.append(read_mask(mask, (width, height), exif.orientation, invert=mask_invert))
    for part in usable:
        # a pixel of the small picture counts only if all that it is made of does
        keep &= cv2.resize(part.astype(np.uint8) * 255, small_size, interpolation=cv2.INTER_AREA) == 255  # noqa: PLR2004
    upright = to_upright(np.asarray(small, dtype=np.uint8), exif.orientation)
    return _Photograph(
        pixels=upright,
        keep=to_upright(np.asarray(keep), exif.orientation),
        stored_from_network=_stored_from_network((width, height), small_size, exif.orientation),
        size=(width, height),
        exif=exif,
        grey=luminance(stored),
        transparent=opaque is not None,
        projection=projection(upright, path),
    )


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image, or damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _stored_from_network(
    size: tuple[int, int], small_size: tuple[int, int], orientation: int
) -> Float[np.ndarray, "2 3"]:
    """Affine map from upright resized pixels to stored pixels, corner origins.

    Args:
        size: stored width and height.
        small_size: the resized picture's, along the stored axes.
        orientation: EXIF's number.
    """
    swap, *mirrored = AXIS_CHANGES[orientation]
    matrix = np.zeros((2, 3))
    for axis in range(2):
        scale = size[axis] / small_size[axis]
        matrix[axis, 1 - axis if swap else axis] = -scale if mirrored[axis] else scale
        matrix[axis, 2] = size[axis] if mirrored[axis] else 0
    return matrix


def _pad(
    photographs: list[_Photograph], canvas: tuple[int, int] | None = None
) -> tuple[Float[Tensor, "S 3 H W"], Bool[Tensor, "S H W"]]:
    """Pictures on one canvas, their last row and column continued to the right and below, and what of it is used.

    ``canvas`` is its height and width; as much as the pictures need if None.
    """
    pictures = [photograph.pixels for photograph in photographs]
    height, width = canvas or (
        -(-max(picture.shape[axis] for picture in pictures) // NETWORK_MULTIPLE) * NETWORK_MULTIPLE for axis in (0, 1)
    )
    pixels = torch.empty(len(pictures), 3, height, width)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.bool)
    for s, picture in enumerate(pictures):
        h, w = picture.shape[:2]
        padded = cv2.copyMakeBorder(picture, 0, height - h, 0, width - w, cv2.BORDER_REPLICATE)
        pixels[s] = torch.from_numpy(np.asarray(padded)).permute(2, 0, 1)
        mask[s, :h, :w] = torch.from_numpy(photographs[s].keep)
    return pixels.div_(255), mask
