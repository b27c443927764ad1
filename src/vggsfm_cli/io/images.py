"""A folder of photographs becomes an ``ImageSet``: upright for the network, with the way back to the stored pixels."""

import logging
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.geometry import camera
from vggsfm_cli.io.exif import AXIS_CHANGES, ExifData
from vggsfm_cli.io.photographs import PhotographFiles, decode, luminance, to_upright
from vggsfm_cli.scene import CameraPriors, ImageSet, Progress, ProgressCallback, silent
from vggsfm_cli.threads import map_threads

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw")
"""Photographs a user may expect to be read; they are named as skipped instead of passed over in silence."""

CAMERA_MODES = ("auto", "single", "per-image")

NETWORK_MULTIPLE = 32
MIN_SIDE_PX = 32
GUESSED_FOCAL = 1.2
"""Focal length in long sides of the picture when nothing is known: about 45 degrees of view."""
GUESSED_FOCAL_SPREAD = 0.5
EXIF_FOCAL_SPREAD = 0.1


@dataclass(frozen=True, kw_only=True)
class SkippedImage:
    """A file that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotographSet(ImageSet):
    """An ``ImageSet`` read from files; ``skipped`` names those that could not be read."""

    skipped: tuple[SkippedImage, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Photograph:
    """One decoded file: small upright pixels, and the way back."""

    pixels: UInt8[np.ndarray, "h w 3"]
    stored_from_network: Float[np.ndarray, "2 3"]
    size: tuple[int, int]
    exif: ExifData
    grey: UInt8[np.ndarray, "H W"]


def read_images(
    source: Path | str | Sequence[Path | str],
    *,
    long_side: int = 1024,
    camera_mode: str = "auto",
    camera_model: str = "SIMPLE_RADIAL",
    progress: ProgressCallback = silent,
) -> PhotographSet:
    """Read the photographs of one scene.

    Args:
        source: a folder (its own files, sorted naturally; sub-folders are not entered) or a list of files.
        long_side: of the pictures the network sees, in pixels; smaller ones are not enlarged.
        camera_mode: which frames share a camera. ``auto``: those of one stored size whose EXIF data name the same
            camera and focal length; ``single``: all; ``per-image``: none.
        camera_model: COLMAP's name of the camera model.
        progress: is told of each file.

    Returns:
        One scene (``B`` = 1). Files that cannot be read are logged and listed in ``skipped``.

    Raises:
        InputError: no such folder, or fewer than two readable images.
        UsageError: unknown camera model or mode, or one camera for images of several sizes.
    """
    _check_options(long_side, camera_mode, camera_model)
    files, names, skipped = _find(source)
    photographs: list[_Photograph] = []
    kept: list[int] = []
    for i, result in enumerate(map_threads(lambda path: _read(path, long_side), files)):
        if isinstance(result, _Photograph):
            photographs.append(result)
            kept.append(i)
        else:
            skipped.append(SkippedImage(name=names[i], reason=result))
            logger.warning("Skipped %s: %s", names[i], result)
        progress(Progress(stage="images", done=i + 1, total=len(files), detail=names[i]))
    if len(photographs) < 2:  # noqa: PLR2004
        raise _too_few(source, len(photographs), skipped)
    originals = PhotographFiles([files[i] for i in kept])
    for s, photograph in enumerate(photographs):
        originals.keep(s, photograph.grey)
    pixels, mask = _pad([photograph.pixels for photograph in photographs])
    sizes = [photograph.size for photograph in photographs]
    return PhotographSet(
        pixels=pixels[None],
        mask=mask[None],
        frame_valid=torch.ones(1, len(kept), dtype=torch.bool),
        stored_from_network=torch.from_numpy(np.stack([p.stored_from_network for p in photographs])).float()[None],
        stored_size=torch.tensor(sizes)[None],
        names=(tuple(names[i] for i in kept),),
        originals=originals,
        priors=_priors(sizes, [photograph.exif for photograph in photographs], camera_mode, camera_model),
        skipped=tuple(skipped),
    )


def _check_options(long_side: int, camera_mode: str, camera_model: str) -> None:
    if long_side < NETWORK_MULTIPLE:
        raise UsageError(f"A long side of {long_side} px is too small.", f"Use at least {NETWORK_MULTIPLE}.")
    if camera_mode not in CAMERA_MODES:
        raise UsageError(f"Unknown camera mode {camera_mode!r}.", f"Choose one of: {', '.join(CAMERA_MODES)}.")
    if camera_model not in camera.PARAM_NAMES:
        raise UsageError(f"Unknown camera model {camera_model!r}.", f"Choose one of: {', '.join(camera.PARAM_NAMES)}.")


def _find(source: Path | str | Sequence[Path | str]) -> tuple[list[Path], list[str], list[SkippedImage]]:
    """Files to read, their names, and photographs in formats that are not read."""
    if not isinstance(source, Path | str):
        files = [Path(item) for item in source]
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise InputError(f"No such file: {missing[0]!r}.", f"{len(missing)} of {len(files)} files are missing.")
        return files, _names(files), []
    folder = Path(source)
    if not folder.is_dir():
        hint = "Give the folder that holds the photographs." if folder.exists() else "Check the path."
        raise InputError(f"No folder {str(source)!r}.", hint)
    present = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    present.sort(key=lambda path: _natural(path.name))
    files = [path for path in present if path.suffix.lower() in SUFFIXES]
    unread = [path for path in present if path.suffix.lower() in UNREAD_SUFFIXES]
    skipped = [SkippedImage(name=path.name, reason=f"{path.suffix} files are not supported") for path in unread]
    for item in skipped:
        logger.warning("Skipped %s: %s", item.name, item.reason)
    return files, [path.name for path in files], skipped


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by which image2 comes before image10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part], name


def _names(files: list[Path]) -> list[str]:
    """File names, with as many folders as it takes to tell them apart."""
    absolute = [path.absolute() for path in files]
    if len(set(absolute)) < len(absolute):
        raise InputError("A file is listed twice.", "List each photograph once.")
    folders = [path.parent for path in absolute]
    common = next((p for p in [folders[0], *folders[0].parents] if all(f.is_relative_to(p) for f in folders)), None)
    return [path.relative_to(common).as_posix() if common else path.as_posix() for path in absolute] if folders else []


def _too_few(source: object, readable: int, skipped: list[SkippedImage]) -> InputError:
    where = f"in {str(source)!r}" if isinstance(source, Path | str) else "in the list"
    count = "No readable image" if readable == 0 else "Only one readable image"
    hint = f"At least two are needed. Supported: {' '.join(SUFFIXES)}."
    if skipped:
        hint += f" Skipped: {'; '.join(f'{item.name} ({item.reason})' for item in skipped[:3])}"
        hint += f"; and {len(skipped) - 3} more." if len(skipped) > 3 else "."  # noqa: PLR2004
    elif isinstance(source, Path | str) and any(path.is_dir() for path in Path(source).iterdir()):
        hint += " Sub-folders are not entered."
    return InputError(f"{count} {where}.", hint)


def _read(path: Path, long_side: int) -> _Photograph | str:
    """One file, or a word on why it cannot be read."""
    try:
        stored, exif = decode(path)
    except MemoryError:
        raise
    except Exception as error:  # decoders meet damage with anything from OSError to struct.error
        return _reason(error)
    height, width = stored.shape[:2]
    if min(width, height) < MIN_SIDE_PX:
        return f"only {width} x {height} pixels"
    scale = min(1.0, long_side / max(width, height))
    small_size = max(1, round(width * scale)), max(1, round(height * scale))
    small = stored if small_size == (width, height) else cv2.resize(stored, small_size, interpolation=cv2.INTER_AREA)
    return _Photograph(
        pixels=to_upright(np.asarray(small, dtype=np.uint8), exif.orientation),
        stored_from_network=_stored_from_network((width, height), small_size, exif.orientation),
        size=(width, height),
        exif=exif,
        grey=luminance(stored),
    )


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image, or damaged"
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
    pictures: list[UInt8[np.ndarray, "_ _ 3"]], canvas: tuple[int, int] | None = None
) -> tuple[Float[Tensor, "S 3 H W"], Bool[Tensor, "S H W"]]:
    """Pictures on one canvas, their last row and column continued to the right and below, and where they are.

    ``canvas`` is its height and width; as much as the pictures need if None.
    """
    height, width = canvas or (
        -(-max(picture.shape[axis] for picture in pictures) // NETWORK_MULTIPLE) * NETWORK_MULTIPLE for axis in (0, 1)
    )
    pixels = torch.empty(len(pictures), 3, height, width)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.bool)
    for s, picture in enumerate(pictures):
        h, w = picture.shape[:2]
        padded = cv2.copyMakeBorder(picture, 0, height - h, 0, width - w, cv2.BORDER_REPLICATE)
        pixels[s] = torch.from_numpy(np.asarray(padded)).permute(2, 0, 1)
        mask[s, :h, :w] = True
    return pixels.div_(255), mask


def _priors(sizes: list[tuple[int, int]], exif: list[ExifData], mode: str, model: str) -> CameraPriors:
    cameras = _share(sizes, exif, mode)
    index = {key: c for c, key in enumerate(dict.fromkeys(cameras))}
    params, spreads = [], []
    for key in index:
        frames = [s for s, other in enumerate(cameras) if other == key]
        width, height = sizes[frames[0]]
        written = [focal for s in frames if (focal := exif[s].focal_px(width, height)) is not None]
        focal = statistics.median(written) if written else GUESSED_FOCAL * max(width, height)
        params.append(camera.from_focal(model, focal, width, height))
        spreads.append(EXIF_FOCAL_SPREAD if written else GUESSED_FOCAL_SPREAD)
    stacked = torch.stack(params)[None]
    return CameraPriors(
        camera_index=torch.tensor([[index[key] for key in cameras]]),
        models=(model,) * len(index),
        params=stacked,
        known=torch.zeros_like(stacked, dtype=torch.bool),
        focal_spread=torch.tensor([spreads], dtype=stacked.dtype),
    )


def _share(sizes: list[tuple[int, int]], exif: list[ExifData], mode: str) -> list[object]:
    """A key for each frame; frames with equal keys share a camera."""
    if mode == "per-image":
        return list(range(len(sizes)))
    if mode == "single":
        if len(set(sizes)) > 1:
            raise UsageError(
                f"One camera cannot serve images of {len(set(sizes))} sizes.", "Use --camera-mode auto or per-image."
            )
        return [0] * len(sizes)
    named: dict[tuple[int, int], set[object]] = {}
    silent_exif = ExifData().camera
    for size, data in zip(sizes, exif, strict=True):
        if data.camera != silent_exif:
            named.setdefault(size, set()).add(data.camera)
    # a file without EXIF joins the one camera that took pictures of its size, if there is just one
    return [
        (size, next(iter(named[size])) if data.camera == silent_exif and len(named.get(size, ())) == 1 else data.camera)
        for size, data in zip(sizes, exif, strict=True)
    ]
