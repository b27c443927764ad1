"""What bundle adjustment solves: the one definition of residual, Jacobian, gauge, weights and priors for every solver.

The cost is ``1/2 sum rho(|L^T (project(camera, pose, point) - xy)|^2) + 1/2 sum ((log f - log f0) / spread)^2`` where
``L L^T`` is the inverse covariance of an observation. Poses move as ``x_cam <- exp(w) x_cam + v`` (six numbers a frame);
points and camera parameters move by addition. The gauge: one frame stands still, and one coordinate of the farthest
frame's translation fixes the scale.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.errors import InputError
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose, robust, rotation
from vggsfm_cli.scene import CameraPriors, Cameras, Points, TensorRecord, Tracks

BEHIND_RESIDUAL = 1000.0
"""Residual norm (in standard deviations) of a point behind its camera; constant, so it only discourages such steps."""


@dataclass(frozen=True, kw_only=True)
class FreeParameters:
    """What the adjustment may change."""

    poses: bool = True
    points: bool = True
    focal: bool = True
    principal_point: bool = False
    distortion: bool = True


@dataclass(frozen=True, kw_only=True)
class RobustLoss:
    """Loss of the whitened residual norm; ``scale`` in standard deviations."""

    kind: robust.Loss = robust.Loss.NONE
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleProblem(TensorRecord):
    """Cameras and points to adjust, and the observations that hold them.

    Attributes:
        cameras, points: where to start; B scenes.
        frame, point: of each observation, as ``b * S + s`` and ``b * N + n``.
        xy: observed stored pixels.
        whitening: upper triangular ``L^T`` of the information ``L L^T`` of each observation, in 1/pixels.
        pose_free: coordinates of each frame's update (rotation, translation) that may change.
        params_free: camera parameters that may change.
        points_free: whether the points may change.
        log_focal, log_focal_spread: prior on the focal length; an infinite spread is no prior.
        loss: of the whitened residual.
    """

    cameras: Cameras
    points: Points
    frame: Int[Tensor, " M"]
    point: Int[Tensor, " M"]
    xy: Float[Tensor, "M 2"]
    whitening: Float[Tensor, "M 2 2"]
    pose_free: Bool[Tensor, "B S 6"]
    params_free: Bool[Tensor, "B C P"]
    points_free: bool
    log_focal: Float[Tensor, "B C"]
    log_focal_spread: Float[Tensor, "B C"]
    loss: RobustLoss = field(default_factory=RobustLoss)


def build_problem(
    cameras: Cameras,
    points: Points,
    tracks: Tracks,
    inliers: Bool[Tensor, "B S N"],
    *,
    free: FreeParameters | None = None,
    priors: CameraPriors | None = None,
    loss: RobustLoss | None = None,
    min_views: int = 2,
) -> BundleProblem:
    """The adjustment problem of a window of dense tracks.

    Args:
        cameras: registered frames take part.
        points: valid points with at least ``min_views`` inlier observations take part.
        tracks: positions and covariances; gradients reach both.
        inliers: observations to use.
        free: what may change.
        priors: focal prior and parameters that are known; None for neither.
        loss: of the whitened residual.
        min_views: fewest observations of a point.

    Raises:
        InputError: a used position or covariance is not finite.
    """
    free = free or FreeParameters()
    used = inliers & cameras.registered[..., None] & points.valid[:, None] & tracks.valid[:, None]
    used = used & (used.sum(1, keepdim=True) >= min_views)
    scene, frame, point = used.nonzero(as_tuple=True)
    xy = tracks.xy[scene, frame, point].double()
    covariance = tracks.covariance[scene, frame, point].double()
    _require_finite("tracks.xy", xy)
    _require_finite("tracks.covariance", covariance)
    frames, count = used.shape[1], used.shape[2]
    return BundleProblem(
        cameras=cameras,
        points=points,
        frame=scene * frames + frame,
        point=scene * count + point,
        xy=xy,
        whitening=whitening_of(covariance),
        pose_free=pose_gauge(cameras, used.any(2)) if free.poses else torch.zeros_like(cameras.registered)[..., None].expand(-1, -1, 6),
        params_free=free_params(cameras, free, priors),
        points_free=free.points,
        log_focal=_log_focal(cameras, priors),
        log_focal_spread=_spread(cameras, priors),
        loss=loss or RobustLoss(),
    )


def _require_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).flatten(1).any(1).sum())
        raise InputError(f"{name} is not finite at {bad} used observations.", "Mark them invisible, or drop them.")


def whitening_of(covariance: Float[Tensor, "M 2 2"]) -> Float[Tensor, "M 2 2"]:
    """``L^T`` with ``L L^T`` the inverse of the covariance, in closed form."""
    a, b, c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    determinant = (a * c - b * b).clamp(min=1e-18)
    # inverse = [c, -b; -b, a] / det = L L^T, L lower triangular
    l11 = (c / determinant).sqrt()
    l21 = -b / determinant / l11
    l22 = (a / determinant - l21.square()).clamp(min=1e-18).sqrt()
    zero = torch.zeros_like(a)
    return torch.stack([l11, l21, zero, l22], -1).unflatten(-1, (2, 2))


def pose_gauge(cameras: Cameras, observed: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S 6"]:
    """Coordinates that may move: all of registered, observed frames, but the first of them and one more number."""
    free = (cameras.registered & observed)[..., None].repeat(1, 1, 6)
    centers = cameras.centers.detach()
    for b in range(free.shape[0]):
        frames = free[b, :, 0].nonzero().flatten()
        if len(frames) == 0:
            continue
        first = int(frames[0])
        free[b, first] = False
        far = int(frames[(centers[b, frames] - centers[b, first]).norm(dim=-1).argmax()])
        if far != first:
            relative = pose.relative(cameras.cam_from_world[b, first], cameras.cam_from_world[b, far])[:, 3]
            free[b, far, 3 + int(relative.detach().abs().argmax())] = False
    return free


def free_params(cameras: Cameras, free: FreeParameters, priors: CameraPriors | None) -> Bool[Tensor, "B C P"]:
    """Camera parameters that may change: those asked for, less those known."""
    mask = torch.zeros_like(cameras.params, dtype=torch.bool)
    for c, model in enumerate(cameras.models):
        for wanted, indices in (
            (free.focal, camera_models.focal_indices(model)),
            (free.principal_point, camera_models.principal_point_indices(model)),
            (free.distortion, camera_models.distortion_indices(model)),
        ):
            mask[:, c, list(indices)] = wanted
    return mask if priors is None else mask & ~priors.known


def _log_focal(cameras: Cameras, priors: CameraPriors | None) -> Float[Tensor, "B C"]:
    params = cameras.params if priors is None else priors.params
    focals = [camera_models.focal(model, params[:, c]) for c, model in enumerate(cameras.models)]
    return torch.stack(focals, -1).double().log()


def _spread(cameras: Cameras, priors: CameraPriors | None) -> Float[Tensor, "B C"]:
    if priors is None:
        return torch.full(cameras.params.shape[:2], torch.inf, dtype=torch.float64, device=cameras.params.device)
    spread = priors.focal_spread.double()
    return torch.where(spread > 0, spread, torch.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class Linearization:
    """Whitened residuals of M observations and their derivatives.

    Attributes:
        residual: in standard deviations.
        by_pose: with respect to the frame's update (rotation, translation).
        by_params: with respect to the camera's parameters.
        by_point: with respect to the point.
    """

    residual: Float[Tensor, "M 2"]
    by_pose: Float[Tensor, "M 2 6"]
    by_params: Float[Tensor, "M 2 P"]
    by_point: Float[Tensor, "M 2 3"]


def residuals(
    model: str,
    cam_from_world: Float[Tensor, "M 3 4"],
    params: Float[Tensor, "M P"],
    xyz_world: Float[Tensor, "M 3"],
    xy: Float[Tensor, "M 2"],
    whitening: Float[Tensor, "M 2 2"],
) -> Float[Tensor, "M 2"]:
    """Whitened residuals, projection minus observation, of observations by cameras of one model."""
    xyz_cam = pose.transform(cam_from_world, xyz_world)
    projected, in_front = camera_models.project(model, params, xyz_cam)
    residual = (whitening @ (projected - xy).unsqueeze(-1)).squeeze(-1)
    return torch.where(in_front[:, None], residual, residual.new_full((), BEHIND_RESIDUAL / 2**0.5))


def linearize(
    model: str,
    cam_from_world: Float[Tensor, "M 3 4"],
    params: Float[Tensor, "M P"],
    xyz_world: Float[Tensor, "M 3"],
    xy: Float[Tensor, "M 2"],
    whitening: Float[Tensor, "M 2 2"],
) -> Linearization:
    """Whitened residuals as ``residuals`` gives them, with analytic derivatives."""
    xyz_cam = pose.transform(cam_from_world, xyz_world)
    projected, in_front, by_xyz, by_params = camera_models.project_jacobian(model, params, xyz_cam)
    residual = (whitening @ (projected - xy).unsqueeze(-1)).squeeze(-1)
    by_xyz = whitening @ by_xyz
    by_rotation = -(by_xyz @ rotation.hat(xyz_cam))
    return Linearization(
        residual=torch.where(in_front[:, None], residual, residual.new_full((), BEHIND_RESIDUAL / 2**0.5)),
        by_pose=torch.cat([by_rotation, by_xyz], -1),
        by_params=whitening @ by_params,
        by_point=by_xyz @ cam_from_world[..., :3],
    )


def move_poses(cam_from_world: Float[Tensor, "S 3 4"], update: Float[Tensor, "S 6"]) -> Float[Tensor, "S 3 4"]:
    """Apply updates (rotation vector, translation) on the camera's side."""
    turn = rotation.exp(update[..., :3])
    moved = turn @ cam_from_world
    return torch.cat([moved[..., :3], moved[..., 3:] + update[..., 3:, None]], -1)
