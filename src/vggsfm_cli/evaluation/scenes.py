"""Photographs whose cameras were surveyed: folders with ``images/`` and ``gt.json``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.images import read_images
from vggsfm_cli.scene import Cameras, ImageSet, ProgressCallback, silent

SURVEYED = ("fountain-P11", "Herz-Jesus-P8", "entry-P10", "temple-ring16")
"""Scenes of the bench whose cameras were measured, not reconstructed from the photographs themselves."""

HINT = "The folder holds data/SCENE/images and data/SCENE/gt.json for each scene."


@dataclass(frozen=True, kw_only=True, eq=False)
class SurveyedScene:
    """Photographs and their true cameras, frame by frame; one camera a frame, all registered, in double precision."""

    name: str
    images: ImageSet
    cameras: Cameras


def find_scenes(bench: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Folders of scenes.

    Args:
        bench: folder that holds ``data/SCENE``.
        names: which; those of ``SURVEYED`` that are there if None.

    Raises:
        InputError: the folder is missing, or a scene that was named, or all of them.
    """
    if not bench.is_dir():
        raise InputError(f"No folder {str(bench)!r}.", HINT)
    there = {path.parent.name: path.parent for path in sorted(bench.glob("data/*/gt.json"))}
    if missing := [name for name in names or () if name not in there]:
        hint = f"Scenes: {', '.join(there)}." if there else HINT
        raise InputError(f"No scene {missing[0]!r} in {str(bench)!r}.", hint)
    found = [there[name] for name in names or SURVEYED if name in there]
    if not found:
        raise InputError(f"None of the scenes {', '.join(SURVEYED)} in {str(bench)!r}.", HINT)
    return found


def read_surveyed_scene(folder: Path, long_side: int = 1024, progress: ProgressCallback = silent) -> SurveyedScene:
    """Read one scene.

    ``gt.json`` has ``images[name]`` with ``R``, ``t`` (``x_cam = R x_world + t``, OpenCV axes), ``K``, ``width`` and
    ``height`` in stored pixels with a corner origin, and where the photographs are distorted ``distortion_k1k2p1p2``.

    Args:
        folder: of the scene.
        long_side: of the pictures the network sees; smaller ones are not enlarged.
        progress: is told of each file.

    Raises:
        InputError: a file is missing, cannot be read or contradicts the photographs.
    """
    path = folder / "gt.json"
    if not path.is_file():
        raise InputError(f"No file {str(path)!r}.", HINT)
    try:
        truth: dict[str, Any] = json.loads(path.read_text())["images"]
        listed = {name: _camera(entry) for name, entry in sorted(truth.items())}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{str(path)!r} cannot be understood: {type(error).__name__}: {error}",
            "Each of its images needs R (3 x 3), t (3), K (3 x 3), width and height.",
        ) from error
    files = [folder / "images" / name for name in listed]
    images = read_images(files, long_side=long_side, camera_mode="per-image", progress=progress)
    chosen = [listed[Path(name).name] for name in images.names[0]]
    for name, size, (_, _, _, expected) in zip(images.names[0], images.stored_size[0].tolist(), chosen, strict=True):
        if tuple(size) != expected:
            raise InputError(
                f"{name} has {size[0]} x {size[1]} pixels, but {str(path)!r} is about {expected[0]} x {expected[1]}.",
                "The cameras belong to photographs of another size.",
            )
    cameras = Cameras(
        cam_from_world=torch.stack([pose for _, _, pose, _ in chosen])[None],
        models=tuple(model for model, _, _, _ in chosen),
        params=torch.stack([params for _, params, _, _ in chosen])[None],
        camera_index=torch.arange(len(chosen))[None],
        registered=torch.ones(1, len(chosen), dtype=torch.bool),
    )
    return SurveyedScene(name=folder.name, images=images, cameras=cameras)


def _camera(entry: dict[str, Any]) -> tuple[str, Tensor, Tensor, tuple[int, int]]:
    """COLMAP's model name and parameters, the pose, and the size of one photograph of ``gt.json``."""
    k, rotation, translation = (_matrix(entry, name, *shape) for name, *shape in (("K", 3, 3), ("R", 3, 3), ("t", 3)))
    if abs(float(k[0, 1])) > 1e-6 * float(k[0, 0]):
        raise ValueError("K has skew, which no camera model here has")
    distorted = entry.get("distortion_k1k2p1p2") is not None
    params = torch.zeros(8, dtype=torch.float64)
    params[:4] = torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    if distorted:
        params[4:] = _matrix(entry, "distortion_k1k2p1p2", 4)
    model = "OPENCV" if distorted else "PINHOLE"
    return model, params, torch.cat([rotation, translation[:, None]], -1), (int(entry["width"]), int(entry["height"]))


def _matrix(entry: dict[str, Any], name: str, *shape: int) -> Tensor:
    values = torch.tensor(entry[name], dtype=torch.float64)
    if values.shape != shape:
        raise ValueError(f"{name} has the wrong shape")
    return values
