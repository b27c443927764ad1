"""Models without distortion: pinhole cameras, and where each of their pixels lies in the photograph.

The size of a pinhole camera is COLMAP's choice, and the camera models are COLMAP's, so every model that COLMAP can
read can be undistorted.
"""

import dataclasses

import numpy as np
import pycolmap
import torch
from jaxtyping import Float

from vggsfm_cli.colmap.estimators import PhysicalCamera
from vggsfm_cli.errors import InputError
from vggsfm_cli.scene import Cameras, Reconstruction

FULL_SPHERE = ("EQUIRECTANGULAR",)
ROWS_AT_ONCE = 256
MAX_ROUND_TRIP_PX = 0.5
"""A pixel whose place in the photograph does not lead back to it lies beyond the fold of a polynomial."""


def frame_camera(reconstruction: Reconstruction, frame: int) -> PhysicalCamera:
    """The camera of a frame, in COLMAP's terms."""
    c = int(reconstruction.cameras.camera_index[0, frame])
    width, height = reconstruction.sizes[frame].tolist()
    params = reconstruction.cameras.params[0, c].detach().cpu().double().numpy()
    return PhysicalCamera(model=reconstruction.cameras.models[c], width=width, height=height, params=params)


def without_distortion(camera: PhysicalCamera, blank_pixels: float = 0.0) -> PhysicalCamera:
    """The pinhole camera that a photograph is resampled for; it keeps the focal length, and so the resolution.

    Args:
        camera: with distortion.
        blank_pixels: from 0, cropped until no pixel is without content, to 1, every pixel of the photograph is kept.

    Raises:
        InputError: no picture of any size can be cut out.
    """
    if camera.model in FULL_SPHERE:
        raise InputError(
            f"A {camera.model} picture shows all directions; no picture without distortion can.",
            "Cut it into perspective views first, and reconstruct those.",
        )
    options = pycolmap.UndistortCameraOptions()
    options.blank_pixels = float(blank_pixels)
    found = pycolmap.undistort_camera(options, camera.to_pycolmap())
    params = np.array(found.params, dtype=np.float64)
    if not np.isfinite(params).all() or min(found.width, found.height) < 1:
        raise InputError(
            f"The distortion of a {camera.model} camera is too strong to be undistorted.",
            "Its distortion parameters may be wrong: look at them with `vggsfm inspect`.",
        )
    return PhysicalCamera(model="PINHOLE", width=int(found.width), height=int(found.height), params=params)


def source_positions(
    camera: PhysicalCamera, pinhole: PhysicalCamera, *, check_fold: bool = False
) -> Float[np.ndarray, "H W 2"]:
    """Where the centre of each pixel of a pinhole camera lies in the photograph.

    Args:
        camera: of the photograph.
        pinhole: at the same place, looking the same way.
        check_fold: whether positions beyond the fold of the distortion are found; needed only far outside the picture.

    Returns:
        Stored pixels, corner origin; NaN where there is none.
    """
    distorted, plain = camera.to_pycolmap(), pinhole.to_pycolmap()
    out = np.empty((pinhole.height, pinhole.width, 2), dtype=np.float32)
    columns = np.arange(pinhole.width) + 0.5
    for start in range(0, pinhole.height, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, pinhole.height)) + 0.5
        pixels = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
        uv = plain.cam_from_img(pixels)
        xy = distorted.img_from_cam(np.concatenate([uv, np.ones_like(uv[:, :1])], 1))
        if check_fold:
            back = distorted.cam_from_img(xy)
            off = np.linalg.norm((back - uv) * plain.mean_focal_length(), axis=1)
            xy[~(off < MAX_ROUND_TRIP_PX)] = np.nan
        out[start : start + len(rows)] = xy.reshape(len(rows), pinhole.width, 2)
    return out


def undistorted(reconstruction: Reconstruction, blank_pixels: float = 0.0) -> Reconstruction:
    """The same model with pinhole cameras.

    Poses and points stay. Observations move with the pixels; those that fall outside the new pictures are left out.

    Raises:
        InputError: see ``without_distortion``.
    """
    cameras = reconstruction.cameras
    index = cameras.camera_index[0].tolist()
    first = {c: index.index(c) for c in sorted(set(index))}
    before = {c: frame_camera(reconstruction, s) for c, s in first.items()}
    after = {c: without_distortion(camera, blank_pixels) for c, camera in before.items()}
    observed = reconstruction.frame.cpu().numpy()
    xy = reconstruction.xy.detach().cpu().double().numpy().copy()
    inside = np.zeros(len(xy), dtype=bool)
    for s, c in enumerate(index):
        chosen = observed == s
        xy[chosen] = after[c].to_pycolmap().img_from_cam(_on_plane(before[c], xy[chosen]))
        size = np.array([after[c].width, after[c].height])
        inside[chosen] = ((xy[chosen] >= 0) & (xy[chosen] <= size)).all(1)
    row = {c: i for i, c in enumerate(first)}
    keep = torch.from_numpy(inside)
    return dataclasses.replace(
        reconstruction,
        cameras=Cameras(
            cam_from_world=cameras.cam_from_world,
            models=tuple(camera.model for camera in after.values()),
            params=torch.from_numpy(np.stack([camera.params for camera in after.values()]))[None],
            camera_index=torch.tensor([[row[c] for c in index]]),
            registered=cameras.registered,
        ),
        sizes=torch.tensor([[after[c].width, after[c].height] for c in index]),
        frame=reconstruction.frame.cpu()[keep],
        point=reconstruction.point.cpu()[keep],
        xy=torch.from_numpy(xy[inside]),
    )


def _on_plane(camera: PhysicalCamera, xy: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "m 3"]:
    """Directions of pixels, at depth 1; NaN where a pixel has none."""
    if len(xy) == 0:
        return np.zeros((0, 3))
    uv = camera.to_pycolmap().cam_from_img(xy)
    return np.concatenate([uv, np.ones_like(uv[:, :1])], 1)
