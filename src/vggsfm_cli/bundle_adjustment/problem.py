"""What bundle adjustment solves: the one definition of residual, Jacobian, gauge, weights and priors for every solver.

The cost is ``1/2 sum rho(|L^T (project(camera, pose, point) - xy)|^2) + 1/2 sum ((log f - log f0) / spread)^2`` where
``L L^T`` is the inverse covariance of an observation. Poses move as ``x_cam <- exp(w) x_cam + v`` (six numbers a
frame); points and camera parameters move by addition. The gauge: one frame stands still, and one coordinate of the
farthest frame's translation fixes the scale.
"""

from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.residual import POSE, Rows, linearize_rows, residual_rows
from vggsfm_cli.devices import with_float64
from vggsfm_cli.errors import InputError
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose, robust, rotation
from vggsfm_cli.scene import CameraPriors, Cameras, Points, Reconstruction, TensorRecord, Tracks


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

    def scene(self, b: int) -> "BundleProblem":
        """Scene ``b`` alone, with a batch axis of one and its own observations."""
        frames, points = self.pose_free.shape[1], self.points.xyz_world.shape[1]
        chosen = torch.div(self.frame, frames, rounding_mode="floor") == b
        one = slice(b, b + 1)
        return replace(
            self,
            cameras=self.cameras.scene(b),
            points=self.points.scene(b),
            frame=self.frame[chosen] - b * frames,
            point=self.point[chosen] - b * points,
            xy=self.xy[chosen],
            whitening=self.whitening[chosen],
            pose_free=self.pose_free[one],
            params_free=self.params_free[one],
            log_focal=self.log_focal[one],
            log_focal_spread=self.log_focal_spread[one],
        )


class ProblemOptions(TypedDict, total=False):
    """What the ways to make a problem have in common; each may be left out.

    Attributes:
        free: what may change.
        priors: focal prior and parameters that are known; None for neither.
        loss: of the whitened residual.
        min_views: fewest observations of a point, two if not given.
        fixed_frames: frames that keep their pose; None lets the gauge choose one.
    """

    free: FreeParameters | None
    priors: CameraPriors | None
    loss: RobustLoss | None
    min_views: int
    fixed_frames: Bool[Tensor, "B S"] | None


def build_problem(
    cameras: Cameras,
    points: Points,
    tracks: Tracks,
    inliers: Bool[Tensor, "B S N"],
    **options: Unpack[ProblemOptions],
) -> BundleProblem:
    """The adjustment problem of a window of dense tracks.

    Args:
        cameras: registered frames take part.
        points: valid points with enough inlier observations take part.
        tracks: positions and covariances; gradients reach both.
        inliers: observations to use.
        options: see ``ProblemOptions``.

    Raises:
        InputError: a used position, covariance, camera or point is not finite.
    """
    scene, frame, point = (inliers & tracks.valid[:, None]).nonzero(as_tuple=True)
    return problem_from_observations(
        cameras,
        points,
        frame=scene * inliers.shape[1] + frame,
        point=scene * inliers.shape[2] + point,
        xy=tracks.xy[scene, frame, point],
        covariance=tracks.covariance[scene, frame, point],
        **options,
    )


def problem_from_observations(
    cameras: Cameras,
    points: Points,
    *,
    frame: Int[Tensor, " M"],
    point: Int[Tensor, " M"],
    xy: Float[Tensor, "M 2"],
    covariance: Float[Tensor, "M 2 2"] | None = None,
    **options: Unpack[ProblemOptions],
) -> BundleProblem:
    """The adjustment problem of a list of observations, in any order.

    Args:
        cameras: registered frames take part.
        points: valid points with enough observations take part.
        frame: of each observation, as ``b * S + s``.
        point: of each observation, as ``b * N + n``.
        xy: observed stored pixels.
        covariance: of ``xy``; None for one squared pixel.
        options: see ``ProblemOptions``.

    Raises:
        InputError: a used position, covariance, camera or point is not finite.
    """
    device = with_float64(xy.device)
    cameras, points = cameras.to(device), points.to(device)
    frame, point, xy = frame.to(device), point.to(device), xy.to(device)
    covariance = None if covariance is None else covariance.to(device)
    priors = options.get("priors")
    priors = None if priors is None else priors.to(device)
    free, loss = options.get("free") or FreeParameters(), options.get("loss") or RobustLoss()
    used = cameras.registered.flatten()[frame] & points.valid.flatten()[point]
    views = torch.bincount(point[used], minlength=points.valid.numel())
    used = used & (views[point] >= options.get("min_views", 2))
    frame, point, xy = frame[used], point[used], xy[used].double()
    if covariance is None:
        covariance = torch.eye(2, dtype=xy.dtype, device=xy.device).expand(len(xy), 2, 2)
    else:
        covariance = covariance[used].double()
    seen = torch.bincount(frame, minlength=cameras.registered.numel()).reshape(cameras.registered.shape) > 0
    _require_finite("The position", xy)
    _require_finite("The covariance", covariance)
    _require_finite("The point", points.xyz_world.flatten(0, 1)[point])
    _require_finite("The pose", cameras.cam_from_world[seen])
    _require_finite("The camera", cameras.frame_params[seen])
    return BundleProblem(
        cameras=cameras,
        points=points,
        frame=frame,
        point=point,
        xy=xy,
        whitening=whitening_of(covariance),
        pose_free=pose_gauge(cameras, seen, free, options.get("fixed_frames")),
        params_free=free_params(cameras, free, priors),
        points_free=free.points,
        log_focal=_log_focal(cameras, priors),
        log_focal_spread=_spread(cameras, priors),
        loss=loss,
    )


def problem_from_reconstruction(reconstruction: Reconstruction, **options: Unpack[ProblemOptions]) -> BundleProblem:
    """The adjustment problem of a sparse model; see ``problem_from_observations``."""
    xyz_world = reconstruction.xyz_world[None]
    valid = torch.ones(xyz_world.shape[:2], dtype=torch.bool, device=xyz_world.device)
    return problem_from_observations(
        reconstruction.cameras,
        Points(xyz_world=xyz_world, valid=valid, color=reconstruction.color[None]),
        frame=reconstruction.frame,
        point=reconstruction.point,
        xy=reconstruction.xy,
        **options,
    )


def _require_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).flatten(1).any(1).sum())
        raise InputError(
            f"{name} of {bad} used observations is not finite.", "Mark them as not visible or not valid, or drop them."
        )


def whitening_of(covariance: Float[Tensor, "M 2 2"]) -> Float[Tensor, "M 2 2"]:
    """``L^T`` with ``L L^T`` the inverse of the covariance, in closed form."""
    a, b, c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    determinant = (a * c - b * b).clamp(min=1e-18)
    # inverse = [c, -b; -b, a] / det = L L^T, L lower triangular
    l11 = (c / determinant).sqrt()
    l21 = -b / determinant / l11
    l22 = (a / determinant - l21.square()).clamp(min=1e-18).sqrt()
    zero = torch.zeros_like(a)
    return torch.stack([l11, l21, zero, l22], -1).reshape(-1, 2, 2)


def pose_gauge(
    cameras: Cameras, seen: Bool[Tensor, "B S"], free: FreeParameters, fixed_frames: Bool[Tensor, "B S"] | None = None
) -> Bool[Tensor, "B S 6"]:
    """Coordinates of the poses that may change.

    Those of registered frames with observations; when points move too, one frame stands still, and a second one gives
    up the largest coordinate of its translation relative to the first, which fixes the scale. ``fixed_frames`` take
    that role where there are any; two of them fix the scale already.
    """
    moving = cameras.registered & seen
    fixed = torch.zeros_like(moving) if fixed_frames is None else fixed_frames & moving
    coordinates = (moving & ~fixed & free.poses)[..., None].repeat(1, 1, 6)
    if not (free.poses and free.points):
        return coordinates
    poses = cameras.cam_from_world.detach()
    centers = pose.center(poses)
    for b in range(len(moving)):
        frames = moving[b].nonzero().flatten()
        held = fixed[b].nonzero().flatten()
        if len(frames) == 0 or len(held) > 1:
            continue
        first = int(held[0]) if len(held) else int(frames[0])
        coordinates[b, first] = False
        far = int(frames[(centers[b, frames] - centers[b, first]).norm(dim=-1).argmax()])
        if far != first:
            baseline = pose.relative(poses[b, first], poses[b, far])[:, 3]
            coordinates[b, far, 3 + int(baseline.abs().argmax())] = False
    return coordinates


def free_params(cameras: Cameras, free: FreeParameters, priors: CameraPriors | None) -> Bool[Tensor, "B C P"]:
    """Camera parameters that may change: those asked for, less those known (a focal spread of zero is known)."""
    mask = torch.zeros_like(cameras.params, dtype=torch.bool)
    for c, model in enumerate(cameras.models):
        for wanted, indices in (
            (free.focal, camera_models.focal_indices(model)),
            (free.principal_point, camera_models.principal_point_indices(model)),
            (free.distortion, camera_models.distortion_indices(model)),
        ):
            mask[:, c, list(indices)] = wanted
        if priors is not None:
            exact = priors.focal_spread[:, c] == 0
            for index in camera_models.focal_indices(model):
                mask[:, c, index] &= ~exact
    return mask if priors is None else mask & ~priors.known


def _log_focal(cameras: Cameras, priors: CameraPriors | None) -> Float[Tensor, "B C"]:
    params = cameras.params if priors is None else priors.params
    focals = [camera_models.focal(model, params[:, c]) for c, model in enumerate(cameras.models)]
    return torch.stack(focals, -1).double().clamp(min=1e-6).log()


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
        in_front: False where the residual is the constant for points behind the camera, without derivatives.
        by_pose: with respect to the frame's update (rotation, translation).
        by_params: with respect to the camera's parameters.
        by_point: with respect to the point.
    """

    residual: Float[Tensor, "M 2"]
    in_front: Bool[Tensor, " M"]
    by_pose: Float[Tensor, "M 2 6"]
    by_params: Float[Tensor, "M 2 P"]
    by_point: Float[Tensor, "M 2 3"]


def residuals(
    model: str,
    cam_from_world: Float[Tensor, "*p 3 4"],
    params: Float[Tensor, "*p P"],
    xyz_world: Float[Tensor, "M 3"],
    xy: Float[Tensor, "M 2"],
    whitening: Float[Tensor, "M 2 2"],
) -> Float[Tensor, "M 2"]:
    """Whitened residuals, projection minus observation.

    Args:
        model: of the camera.
        cam_from_world: one pose, or one for each observation.
        params: of one camera, or one for each observation.
        xyz_world: point of each observation.
        xy: observed stored pixels.
        whitening: upper triangular.
    """
    rows = _rows(model, cam_from_world, params, xyz_world, xy, whitening)
    return residual_rows(rows).movedim(1, -1).reshape(-1, 2)


def linearize(
    model: str,
    cam_from_world: Float[Tensor, "*p 3 4"],
    params: Float[Tensor, "*p P"],
    xyz_world: Float[Tensor, "M 3"],
    xy: Float[Tensor, "M 2"],
    whitening: Float[Tensor, "M 2 2"],
) -> Linearization:
    """Whitened residuals as ``residuals`` gives them, with analytic derivatives; no robust weights."""
    rows = _rows(model, cam_from_world, params, xyz_world, xy, whitening)
    slopes = linearize_rows(rows, range(POSE + params.shape[-1]))
    columns = slopes.columns.permute(0, 3, 2, 1).flatten(0, 1)
    return Linearization(
        residual=columns[..., -1],
        in_front=slopes.in_front.flatten(),
        by_pose=columns[..., :POSE],
        by_params=columns[..., POSE:-1],
        by_point=slopes.by_point.permute(0, 3, 2, 1).flatten(0, 1),
    )


def _rows(model: str, cam_from_world: Tensor, params: Tensor, xyz_world: Tensor, xy: Tensor, whitening: Tensor) -> Rows:
    """One row for one camera, or as many of one observation each."""
    poses = cam_from_world.reshape(-1, 3, 4)
    count = max(len(poses), params.numel() // params.shape[-1])

    def by_row(values: Tensor) -> Tensor:
        """The observations last: one row of all, or rows of one."""
        return values.movedim(0, -1)[None] if count == 1 else values[..., None]

    return Rows(
        model=model,
        cam_from_world=poses.expand(count, 3, 4),
        params=params.reshape(-1, params.shape[-1]).expand(count, -1),
        xyz_world=by_row(xyz_world),
        xy=by_row(xy),
        whitening=by_row(whitening.mT),
    )


def move_poses(cam_from_world: Float[Tensor, "*b 3 4"], update: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 4"]:
    """Apply updates (rotation vector, translation) on the camera's side."""
    moved = rotation.exp(update[..., :3]) @ cam_from_world
    return torch.cat([moved[..., :3], moved[..., 3:] + update[..., 3:, None]], -1)
