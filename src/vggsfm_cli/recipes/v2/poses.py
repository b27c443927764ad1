"""Poses of frames among points that stay where they are: refined from where they are, or found anew."""

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, build_problem
from vggsfm_cli.camera_estimation.view_graph import physical_cameras
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import RansacConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.scene import Cameras, ImageSet
from vggsfm_cli.triangulation.ransac import frame_focal, reprojection_error

FOCAL_RANGE = (0.1, 30.0)
"""Focal lengths of a camera that makes sense, in long sides of the photograph."""

MAX_DISTORTION = 1.0
MAX_TRANSLATION = 30.0
"""Of a pose, where the cameras span 5."""


@dataclass(frozen=True, kw_only=True)
class PoseRefinementConfig:
    """Settings; thresholds in network pixels."""

    min_matches: int = 100  # a frame needs more to be moved
    max_error_px: float | None = None  # of a match beforehand; None for any, also behind the camera
    loss_px: float = 1.0  # of the Cauchy loss
    min_resection: int = 50  # a frame needs more to be found anew
    resection_px: float = 12.0
    ransac: RansacConfig = field(default_factory=RansacConfig)


@dataclass(frozen=True, kw_only=True, eq=False)
class Posed:
    """Cameras, and the frames whose pose was refined and makes sense."""

    cameras: Cameras
    refined: Bool[Tensor, " S"]


def refine_poses(
    scene: TrackedScene,
    model: Partial,
    matches: Bool[Tensor, "S N"],
    adjuster: BundleAdjuster,
    config: PoseRefinementConfig,
    *,
    held_cameras: Bool[Tensor, " C"] | None = None,
) -> Posed:
    """Poses and camera parameters by least squares on fixed points; what then makes no sense is as it was.

    Frames that share a camera are refined together, those of different cameras apart.

    Args:
        scene: whose tracks.
        model: with the points, and cameras to start from.
        matches: observations to use.
        adjuster: the solver.
        config: settings.
        held_cameras: whose parameters stay.
    """
    if config.max_error_px is not None:
        error = reprojection_error(model.cameras, model.points, scene.tracks)[0]
        matches = matches & (error <= config.max_error_px * scene.scale[0, :, None])
    able = (matches.sum(1) > config.min_matches) & model.cameras.registered[0]
    found = model.cameras
    for camera in model.cameras.camera_index[0, able].unique().tolist():
        frames = able & (model.cameras.camera_index[0] == camera)
        problem = build_problem(
            found,
            model.points,
            scene.tracks,
            (matches & frames[:, None])[None],
            free=FreeParameters(points=False),
            priors=scene.images.priors,
            loss=RobustLoss(kind=Loss.CAUCHY, scale=config.loss_px),
            min_views=1,
        )
        if held_cameras is not None and bool(held_cameras[camera]):
            problem = dataclasses.replace(problem, params_free=torch.zeros_like(problem.params_free))
        found = adjuster(problem).cameras
    return _sensible_part(scene.images, model.cameras, found, able)


def _sensible_part(images: ImageSet, before: Cameras, after: Cameras, able: Bool[Tensor, " S"]) -> Posed:
    lens = sensible_lenses(images, after)
    broken = torch.zeros(len(after.models), dtype=torch.bool)
    broken[after.camera_index[0, ~lens]] = True
    good = sensible_frames(images, after)
    cameras = dataclasses.replace(
        after,
        cam_from_world=torch.where(good[:, None, None], after.cam_from_world, before.cam_from_world),
        params=torch.where(broken[:, None], before.params, after.params),
    )
    return Posed(cameras=cameras, refined=able & good)


def sensible_lenses(images: ImageSet, cameras: Cameras) -> Bool[Tensor, " S"]:
    """Frames whose focal length and distortion are those of some camera."""
    focal = frame_focal(cameras)[0] / images.stored_size[0].amax(-1)
    good = (focal >= FOCAL_RANGE[0]) & (focal <= FOCAL_RANGE[1]) & cameras.frame_params[0].isfinite().all(-1)
    for c, model in enumerate(cameras.models):
        bent = cameras.params[0, c, list(camera_models.distortion_indices(model))].abs() > MAX_DISTORTION
        good = good & ~((cameras.camera_index[0] == c) & bent.any())
    return good


def sensible_frames(images: ImageSet, cameras: Cameras) -> Bool[Tensor, " S"]:
    """Frames whose camera and pose make sense; the cameras of the model span about 5."""
    near = (cameras.cam_from_world[0, :, :, 3].abs() <= MAX_TRANSLATION).all(-1)
    return sensible_lenses(images, cameras) & near & cameras.cam_from_world[0].isfinite().all(-1).all(-1)


def resect(
    scene: TrackedScene,
    model: Partial,
    posed: Posed,
    matches: Bool[Tensor, "S N"],
    config: PoseRefinementConfig,
    seed: int,
) -> Cameras:
    """The cameras, with poses found anew by RANSAC where they could not be refined and more points agree then.

    Args:
        scene: whose tracks.
        model: with the points.
        posed: what ``refine_poses`` gave.
        matches: observations to use.
        config: settings.
        seed: of RANSAC.
    """
    cameras = posed.cameras
    limit = config.resection_px * scene.scale[0]
    agreeing = matches & (reprojection_error(cameras, model.points, scene.tracks)[0] <= limit[:, None])
    physical = physical_cameras(scene.images, cameras)
    poses, params = cameras.cam_from_world.clone(), cameras.params.clone()
    for s in (~posed.refined & cameras.registered[0]).nonzero().flatten().tolist():
        chosen = matches[s].nonzero().flatten()
        if len(chosen) <= config.min_resection:
            continue
        camera = int(cameras.camera_index[0, s])
        focal = list(camera_models.focal_indices(cameras.models[camera]))
        known = bool(scene.images.priors.known[0, camera, focal].all())
        alone = int((cameras.camera_index[0] == camera).sum()) == 1 and not known
        found = estimators.estimate_absolute_pose(
            physical[s],
            scene.tracks.xy[0, s, chosen].numpy(),
            model.points.xyz_world[0, chosen].numpy(),
            float(limit[s]),
            dataclasses.replace(config.ransac, seed=seed),
            free_focal=alone,
        )
        if found is not None and int(found.inliers.sum()) > int(agreeing[s].sum()):
            poses[0, s] = torch.from_numpy(found.cam_from_world.copy())
            params[0, camera] = torch.from_numpy(found.params)
    moved = dataclasses.replace(cameras, cam_from_world=poses, params=params)
    return _sensible_part(scene.images, cameras, moved, posed.refined).cameras
