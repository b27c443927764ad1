"""Which frames share a camera, and what is known about it before any reconstruction."""

import statistics
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import get_args

import torch

from vggsfm_cli.errors import UsageError
from vggsfm_cli.geometry import camera
from vggsfm_cli.io.exif import ExifData
from vggsfm_cli.io.intrinsics import KnownCamera, assign_cameras
from vggsfm_cli.options import CameraMode
from vggsfm_cli.scene import CameraPriors

CAMERA_MODES: tuple[str, ...] = get_args(CameraMode)

GUESSED_FOCAL = 1.2
"""Focal length in long sides of the picture when nothing is known: about 45 degrees of view."""
GUESSED_FOCAL_SPREAD = 0.5
EXIF_FOCAL_SPREAD = 0.1

Size = tuple[int, int]


def camera_priors(
    names: Sequence[str],
    sizes: Sequence[Size],
    exif: Sequence[ExifData],
    mode: str,
    model: str,
    known: Sequence[KnownCamera] = (),
) -> CameraPriors:
    """The cameras of one scene.

    Args:
        names: relative paths of the photographs.
        sizes: as they are stored.
        exif: of each.
        mode: one of ``CAMERA_MODES``, see ``read_images``.
        model: COLMAP's name; of cameras that are not known.
        known: cameras that the user knows.

    Raises:
        UsageError: photographs of several sizes, or several known cameras, are to share a camera.
        InputError: known cameras that do not fit.
    """
    given = assign_cameras(known, names, sizes) if known else [None] * len(names)
    shared = list(zip(_shared(names, sizes, exif, mode), given, strict=True))
    if mode == "auto":  # those of one known camera need nothing else in common
        shared = [(key if camera is None else None, camera) for key, camera in shared]
    if mode == "single" and len(set(shared)) > 1:
        raise UsageError(
            "One camera cannot serve photographs of several cameras of --intrinsics.", "Use --camera-mode auto."
        )
    index = {key: c for c, key in enumerate(dict.fromkeys(shared))}
    frames = [[s for s, other in enumerate(shared) if other == key] for key in index]
    cameras = [
        _guessed(model, [sizes[s] for s in own], [exif[s] for s in own]) if which is None else _known(known[which])
        for own, (_, which) in zip(frames, index, strict=True)
    ]
    width = max(len(params) for _, params, _, _ in cameras)
    params = torch.zeros(1, len(cameras), width, dtype=torch.float64)
    held = torch.zeros(1, len(cameras), width, dtype=torch.bool)
    for c, (_, values, count, _) in enumerate(cameras):
        params[0, c, : len(values)] = torch.tensor(values, dtype=torch.float64)
        held[0, c, :count] = True
    return CameraPriors(
        camera_index=torch.tensor([[index[key] for key in shared]]),
        models=tuple(name for name, _, _, _ in cameras),
        params=params,
        known=held,
        focal_spread=torch.tensor([[spread for _, _, _, spread in cameras]], dtype=torch.float64),
    )


_Camera = tuple[str, list[float], int, float]
"""Model, parameters, how many of them are known, and spread of the focal length."""


def _known(given: KnownCamera) -> _Camera:
    missing = camera.num_params(given.model) - len(given.params)
    return given.model, [*given.params, *[0.0] * missing], len(given.params), 0.0


def _guessed(model: str, sizes: list[Size], exif: list[ExifData]) -> _Camera:
    width, height = sizes[0]
    written = [focal for data in exif if (focal := data.focal_px(width, height)) is not None]
    focal = statistics.median(written) if written else GUESSED_FOCAL * max(width, height)
    params = camera.from_focal(model, focal, width, height).tolist()
    return model, params, 0, EXIF_FOCAL_SPREAD if written else GUESSED_FOCAL_SPREAD


def _shared(names: Sequence[str], sizes: Sequence[Size], exif: Sequence[ExifData], mode: str) -> list[object]:
    """A key for each frame; frames with equal keys share a camera."""
    if mode == "per-image":
        return list(range(len(sizes)))
    if mode in ("single", "per-folder"):
        keys = [str(PurePosixPath(name).parent) if mode == "per-folder" else "" for name in names]
        for key in dict.fromkeys(keys):
            different = len({size for size, other in zip(sizes, keys, strict=True) if other == key})
            if different > 1:
                of = f" in {key!r}" if mode == "per-folder" else ""
                raise UsageError(
                    f"One camera cannot serve images of {different} sizes{of}.",
                    "Use --camera-mode auto or per-image.",
                )
        return list(keys)
    named: dict[Size, set[object]] = {}
    silent_exif = ExifData().camera
    for size, data in zip(sizes, exif, strict=True):
        if data.camera != silent_exif:
            named.setdefault(size, set()).add(data.camera)
    # a file without EXIF joins the one camera that took pictures of its size, if there is just one
    return [
        (size, next(iter(named[size])) if data.camera == silent_exif and len(named.get(size, ())) == 1 else data.camera)
        for size, data in zip(sizes, exif, strict=True)
    ]
