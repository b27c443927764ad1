"""Cameras to compare with: from ``gt.json``, or from a COLMAP model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.colmap.undistort import frame_camera
from vggsfm_cli.errors import InputError
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.reading import read_text
from vggsfm_cli.scene import Reconstruction

FORMAT = "Each of its images needs R (3 x 3), t (3), K (3 x 3), width and height."


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueCamera:
    """The camera of one photograph: COLMAP's model and parameters (padded to 8), pose, stored width and height."""

    model: str
    params: Float[Tensor, " 8"]
    cam_from_world: Float[Tensor, "3 4"]
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class PosedImages:
    """What is compared of the cameras of a scene: names, poses, mean focal lengths and sizes in stored pixels."""

    names: tuple[str, ...]
    cam_from_world: Float[Tensor, "S 3 4"]
    focal_px: Float[Tensor, " S"]
    size: Int[Tensor, "S 2"]


def read_true_cameras(path: Path) -> dict[str, TrueCamera]:
    """The cameras of ``gt.json`` by the names of their photographs, sorted, in double precision.

    The file has ``images[name]`` with ``R``, ``t`` (``x_cam = R x_world + t``, OpenCV axes), ``K``, ``width`` and
    ``height`` in stored pixels with a corner origin, and where photographs are distorted ``distortion_k1k2p1p2``.

    Raises:
        InputError: the file cannot be read or understood.
    """
    try:
        listed: dict[str, Any] = json.loads(read_text(path))["images"]
        return {name: _camera(entry) for name, entry in sorted(listed.items())}
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.", "Check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} cannot be understood: {type(error).__name__}: {error}", FORMAT) from error


def read_posed_images(path: Path) -> PosedImages:
    """Cameras of a ``gt.json`` file or of a COLMAP model.

    Raises:
        InputError: it is neither, or damaged.
    """
    if path.is_dir():
        return posed_images(read_colmap(path))
    cameras = read_true_cameras(path)
    if not cameras:
        raise InputError(f"{str(path)!r} lists no image.", FORMAT)
    return PosedImages(
        names=tuple(cameras),
        cam_from_world=torch.stack([camera.cam_from_world for camera in cameras.values()]),
        focal_px=torch.stack([camera_models.focal(camera.model, camera.params) for camera in cameras.values()]),
        size=torch.tensor([camera.size for camera in cameras.values()]),
    )


def posed_images(reconstruction: Reconstruction) -> PosedImages:
    """Cameras of a model, in double precision on the CPU."""
    focal = [
        frame_camera(reconstruction, s).to_pycolmap().mean_focal_length() for s in range(len(reconstruction.names))
    ]
    return PosedImages(
        names=reconstruction.names,
        cam_from_world=reconstruction.cameras.cam_from_world[0].double().cpu(),
        focal_px=torch.tensor(focal, dtype=torch.float64),
        size=reconstruction.sizes.cpu(),
    )


def match_names(names: Sequence[str], others: Sequence[str]) -> list[int]:
    """For each of ``names`` the index of the same image among ``others``, or -1.

    Names are compared as they are, then without their folders, then without their endings too, in any case.
    """
    found = [-1] * len(names)
    for key in (str, lambda name: PurePosixPath(name).name.lower(), lambda name: PurePosixPath(name).stem.lower()):
        index: dict[str, int] = {}
        for i, other in enumerate(others):
            if i not in found:
                index.setdefault(key(other), i)
        for n, name in enumerate(names):
            if found[n] < 0 and key(name) in index:
                found[n] = index.pop(key(name))
    return found


def _camera(entry: dict[str, Any]) -> TrueCamera:
    k, rotation, translation = (_matrix(entry, name, *shape) for name, *shape in (("K", 3, 3), ("R", 3, 3), ("t", 3)))
    if abs(float(k[0, 1])) > 1e-6 * float(k[0, 0]):
        raise ValueError("K has skew, which no camera model here has")
    distorted = entry.get("distortion_k1k2p1p2") is not None
    params = torch.zeros(8, dtype=torch.float64)
    params[:4] = torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    if distorted:
        params[4:] = _matrix(entry, "distortion_k1k2p1p2", 4)
    model = "OPENCV" if distorted else "PINHOLE"
    return TrueCamera(
        model=model,
        params=params,
        cam_from_world=torch.cat([rotation, translation[:, None]], -1),
        size=(int(entry["width"]), int(entry["height"])),
    )


def _matrix(entry: dict[str, Any], name: str, *shape: int) -> Tensor:
    values = torch.tensor(entry[name], dtype=torch.float64)
    if values.shape != shape:
        raise ValueError(f"{name} has the wrong shape")
    return values
