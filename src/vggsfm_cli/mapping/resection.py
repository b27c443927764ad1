"""Placing frames among points that are already known."""

import dataclasses
from dataclasses import dataclass, field

import torch

from vggsfm_cli.camera_estimation.view_graph import physical_cameras
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import AbsolutePose, PhysicalCamera, RansacConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.mapping.model import Model, Scene
from vggsfm_cli.threads import map_threads


@dataclass(frozen=True, kw_only=True)
class ResectionConfig:
    """When a frame counts as placed."""

    min_inliers: int = 15
    min_inlier_ratio: float = 0.2
    max_error_px: float = 6.0  # network pixels
    free_focal_gain: float = 1.1  # a focal length of its own must raise the inliers of a new camera by this factor
    ransac: RansacConfig = field(default_factory=lambda: RansacConfig(confidence=0.99999, max_trials=10_000))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of placing one frame."""

    frame: int
    visible: int  # known points it sees
    inliers: int  # of those, the ones that agree with its pose
    placed: bool

    @property
    def reason(self) -> str:
        """Why it was not placed, or an empty string."""
        if self.placed:
            return ""
        return f"only {self.inliers} of {self.visible} visible 3D points agree with any pose"


def visible_points(scene: Scene, model: Model) -> list[int]:
    """Number of known points that each frame sees."""
    return [int(count) for count in (scene.seen & model.points.valid[0]).sum(1)]


def place_frames(scene: Scene, model: Model, frames: list[int], config: ResectionConfig) -> tuple[Model, list[Attempt]]:
    """Resect ``frames``; those with enough inliers are registered. Points and inliers stay as they are."""
    physical = physical_cameras(scene.images, model.cameras)
    in_use = set(model.cameras.camera_index[0, model.frames].tolist())

    def attempt(frame: int) -> tuple[Attempt, AbsolutePose | None]:
        camera = int(model.cameras.camera_index[0, frame])
        focal = list(camera_models.focal_indices(model.cameras.models[camera]))
        new = camera not in in_use and not bool(scene.images.priors.known[0, camera, focal].all())
        return _attempt(scene, model, frame, physical[frame], new, config)

    results = list(map_threads(attempt, frames))
    poses, params = model.cameras.cam_from_world.clone(), model.cameras.params.clone()
    registered = model.cameras.registered.clone()
    for done, found in results:
        if found is None or not done.placed:
            continue
        poses[0, done.frame] = torch.from_numpy(found.cam_from_world.copy())
        registered[0, done.frame] = True
        camera = int(model.cameras.camera_index[0, done.frame])
        if camera not in in_use:
            params[0, camera] = torch.from_numpy(found.params)
            in_use.add(camera)
    cameras = dataclasses.replace(model.cameras, cam_from_world=poses, params=params, registered=registered)
    return dataclasses.replace(model, cameras=cameras), [done for done, _ in results]


def _attempt(
    scene: Scene, model: Model, frame: int, camera: PhysicalCamera, new: bool, config: ResectionConfig
) -> tuple[Attempt, AbsolutePose | None]:
    tracks = (scene.seen[frame] & model.points.valid[0]).nonzero().flatten()
    xy = scene.tracks.xy[0, frame, tracks].numpy()
    xyz = model.points.xyz_world[0, tracks].numpy()
    max_error_px = config.max_error_px * float(scene.scale[0, frame])
    best = estimators.estimate_absolute_pose(camera, xy, xyz, max_error_px, config.ransac)
    if new:
        other = estimators.estimate_absolute_pose(camera, xy, xyz, max_error_px, config.ransac, free_focal=True)
        limit = 10.0 * max(camera.width, camera.height)
        if other is not None and 0.0 < other.params[0] < limit:
            needed = 0 if best is None else config.free_focal_gain * int(best.inliers.sum())
            best = other if int(other.inliers.sum()) > needed else best
    inliers = 0 if best is None else int(best.inliers.sum())
    placed = inliers >= max(config.min_inliers, config.min_inlier_ratio * len(tracks))
    return Attempt(frame=frame, visible=len(tracks), inliers=inliers, placed=placed), best
