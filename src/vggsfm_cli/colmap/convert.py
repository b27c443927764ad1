"""A ``Reconstruction`` as pycolmap's, in memory. COLMAP counts from 1: camera c is c + 1, and so on for all ids."""

import numpy as np
import pycolmap
from jaxtyping import Float, Int

from vggsfm_cli.scene import Reconstruction

MIN_TRACK_LENGTH = 2


def to_pycolmap(reconstruction: Reconstruction, min_views: int = MIN_TRACK_LENGTH) -> pycolmap.Reconstruction:
    """The same model for pycolmap: every camera its own rig, every image its own frame.

    The 2D points of an image are exactly its observations, in their order. Points seen in fewer than ``min_views``
    frames are left out with their observations; ids of the others are consecutive.
    """
    model = pycolmap.Reconstruction()
    _add_cameras(model, reconstruction)
    frame, xy, point = _usable_observations(reconstruction, min_views)
    order = np.argsort(frame, kind="stable")
    bounds = np.searchsorted(frame[order], np.arange(len(reconstruction.names) + 1))
    poses = reconstruction.cameras.cam_from_world[0].detach().cpu().double().numpy()
    camera_index = reconstruction.cameras.camera_index[0].tolist()
    for s, name in enumerate(reconstruction.names):
        keypoints = xy[order[bounds[s] : bounds[s + 1]]]
        image = pycolmap.Image(name=name, keypoints=keypoints, camera_id=camera_index[s] + 1, image_id=s + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.ascontiguousarray(poses[s])))
    index_in_image = np.empty(len(frame), dtype=np.int64)
    index_in_image[order] = np.arange(len(frame)) - bounds[frame[order]]
    _add_points(model, reconstruction, frame, point, index_in_image)
    return model


def _add_cameras(model: pycolmap.Reconstruction, reconstruction: Reconstruction) -> None:
    cameras = reconstruction.cameras
    params = cameras.params[0].detach().cpu().double().numpy()
    index = cameras.camera_index[0].tolist()
    for c, name in enumerate(cameras.models):
        if c not in index:
            continue
        width, height = reconstruction.sizes[index.index(c)].tolist()
        camera = pycolmap.Camera.create_from_model_name(c + 1, name, 1.0, width, height)
        camera.params = params[c, : len(camera.params)].tolist()
        model.add_camera_with_trivial_rig(camera)


def _usable_observations(
    reconstruction: Reconstruction, min_views: int
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m 2"], Int[np.ndarray, " m"]]:
    """Frame, position and point of the observations whose point is seen in ``min_views`` frames or more."""
    frame = reconstruction.frame.cpu().numpy()
    point = reconstruction.point.cpu().numpy()
    xy = reconstruction.xy.detach().cpu().double().numpy()
    seen = np.unique(np.stack([point, frame], 1), axis=0)[:, 0]
    keep = np.bincount(seen, minlength=len(reconstruction.xyz_world))[point] >= min_views
    return frame[keep], xy[keep], point[keep]


def _add_points(
    model: pycolmap.Reconstruction,
    reconstruction: Reconstruction,
    frame: Int[np.ndarray, " m"],
    point: Int[np.ndarray, " m"],
    index_in_image: Int[np.ndarray, " m"],
) -> None:
    order = np.argsort(point, kind="stable")
    elements = [
        pycolmap.TrackElement(image_id, point2D_idx)
        for image_id, point2D_idx in zip((frame[order] + 1).tolist(), index_in_image[order].tolist(), strict=True)
    ]
    points, starts = np.unique(point[order], return_index=True)
    ends = [*starts.tolist(), len(elements)][1:]
    xyz = reconstruction.xyz_world.detach().cpu().double().numpy()[points]
    color = (reconstruction.color.detach().cpu().double().numpy()[points] * 255).round().clip(0, 255).astype(np.uint8)
    error = reconstruction.error_px.detach().cpu().double().numpy()[points]
    for n, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        point_id = model.add_point3D(xyz[n], pycolmap.Track(elements[start:end]), color[n])
        model.points3D[point_id].error = error[n]
