"""Models as COLMAP's own reader understands them: what our reader is held against."""

import numpy as np
import pycolmap
import torch
from jaxtyping import Float, Int

from vggsfm_cli.scene import Cameras, Reconstruction


def from_pycolmap(model: pycolmap.Reconstruction) -> Reconstruction:
    """The registered images of a pycolmap model, their cameras, and the points with their observations.

    2D points without a 3D point are left out; so are images without a pose.
    """
    images = [model.images[i] for i in sorted(model.reg_image_ids())]
    camera_ids = sorted({image.camera_id for image in images})
    camera_row = {camera_id: c for c, camera_id in enumerate(camera_ids)}
    cameras = [model.cameras[camera_id] for camera_id in camera_ids]
    params = np.zeros((len(cameras), max((len(camera.params) for camera in cameras), default=0)))
    for row, camera in zip(params, cameras, strict=True):
        row[: len(camera.params)] = camera.params
    poses = [image.cam_from_world().matrix() for image in images]
    point_ids = np.array(sorted(model.points3D), dtype=np.int64)
    points = [model.points3D[int(i)] for i in point_ids]
    frame, xy, point = _observations(images, point_ids)
    return Reconstruction(
        cameras=Cameras(
            cam_from_world=torch.from_numpy(np.array(poses).reshape(1, -1, 3, 4)),
            models=tuple(camera.model_name for camera in cameras),
            params=torch.from_numpy(params)[None],
            camera_index=torch.tensor([camera_row[image.camera_id] for image in images], dtype=torch.long)[None],
            registered=torch.ones(1, len(images), dtype=torch.bool),
        ),
        names=tuple(image.name for image in images),
        sizes=torch.tensor(
            [(model.cameras[image.camera_id].width, model.cameras[image.camera_id].height) for image in images]
        ).reshape(-1, 2),
        xyz_world=torch.from_numpy(np.array([p.xyz for p in points], dtype=np.float64).reshape(-1, 3)),
        color=torch.from_numpy(np.array([p.color for p in points], dtype=np.float64).reshape(-1, 3) / 255),
        error_px=torch.from_numpy(np.array([p.error for p in points], dtype=np.float64)),
        frame=torch.from_numpy(frame),
        point=torch.from_numpy(point),
        xy=torch.from_numpy(xy),
    )


def _observations(
    images: list[pycolmap.Image], point_ids: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m 2"], Int[np.ndarray, " m"]]:
    frame, xy, point_id = [], [], []
    for s, image in enumerate(images):
        seen = image.get_observation_points2D()
        frame.append(np.full(len(seen), s, dtype=np.int64))
        xy.append(np.array([p.xy for p in seen], dtype=np.float64).reshape(-1, 2))
        point_id.append(np.array([p.point3D_id for p in seen], dtype=np.int64))
    if not images:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    point = np.searchsorted(point_ids, np.concatenate(point_id))
    return np.concatenate(frame), np.concatenate(xy), point
