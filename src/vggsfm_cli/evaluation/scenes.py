"""Photographs whose cameras were surveyed: folders with ``images/`` and ``gt.json``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vggsfm_cli.errors import InputError
from vggsfm_cli.evaluation.truth import read_true_cameras
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

    ``gt.json`` is as ``read_true_cameras`` takes it.

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
    listed = read_true_cameras(path)
    files = [folder / "images" / name for name in listed]
    images = read_images(files, long_side=long_side, camera_mode="per-image", progress=progress)
    chosen = [listed[Path(name).name] for name in images.names[0]]
    for name, size, camera in zip(images.names[0], images.stored_size[0].tolist(), chosen, strict=True):
        width, height = camera.size
        if tuple(size) != (width, height):
            raise InputError(
                f"{name} has {size[0]} x {size[1]} pixels, but {str(path)!r} is about {width} x {height}.",
                "The cameras belong to photographs of another size.",
            )
    cameras = Cameras(
        cam_from_world=torch.stack([camera.cam_from_world for camera in chosen])[None],
        models=tuple(camera.model for camera in chosen),
        params=torch.stack([camera.params for camera in chosen])[None],
        camera_index=torch.arange(len(chosen))[None],
        registered=torch.ones(1, len(chosen), dtype=torch.bool),
    )
    return SurveyedScene(name=folder.name, images=images, cameras=cameras)
