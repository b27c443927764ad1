"""What the mapping policy works on: the fixed facts of one scene, and the growing model."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, build_problem
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import rotation
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.scene import Cameras, ImageSet, Points, Tracks
from vggsfm_cli.triangulation.interface import Triangulator
from vggsfm_cli.triangulation.ransac import frame_focal, reprojection_error


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One scene (B = 1), in double precision.

    Attributes:
        images: names, sizes, priors.
        tracks: all tracks, or a well spread part of them.
        triangulator: finds points and inliers.
        scale: stored pixels per network pixel, frame by frame; thresholds are given in network pixels.
    """

    images: ImageSet
    tracks: Tracks
    triangulator: Triangulator
    scale: Float[Tensor, "1 S"]

    @property
    def seen(self) -> Bool[Tensor, "S N"]:
        """Observations that count."""
        visible = self.tracks.visible(self.triangulator.min_visibility)
        return (visible & self.images.frame_valid[..., None])[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Cameras and points found so far, and the observations that agree with them (all with B = 1)."""

    cameras: Cameras
    points: Points
    inliers: Bool[Tensor, "1 S N"]

    @property
    def frames(self) -> list[int]:
        """Registered frames."""
        return [int(s) for s in self.cameras.registered[0].nonzero().flatten()]


def in_double(tracks: Tracks) -> Tracks:
    """The same tracks in double precision."""
    return dataclasses.replace(
        tracks, xy=tracks.xy.double(), covariance=tracks.covariance.double(), visibility=tracks.visibility.double()
    )


def triangulate(scene: Scene, cameras: Cameras, max_error_px: float) -> Model:
    """A model with all points found anew; the threshold is in network pixels."""
    threshold = max_error_px * scene.scale
    points = scene.triangulator(cameras, scene.tracks, threshold)
    return filtered(scene, Model(cameras=cameras, points=points, inliers=scene.seen[None]), max_error_px)


def filtered(scene: Scene, model: Model, max_error_px: float) -> Model:
    """The same model with inliers found again, and without points that fewer than two frames or no parallax hold."""
    inliers = scene.triangulator.inliers(model.cameras, model.points, scene.tracks, max_error_px * scene.scale)
    inliers = inliers & scene.images.frame_valid[..., None].cpu()
    valid = model.points.valid & (inliers.sum(1) >= scene.triangulator.min_views)
    valid = valid & wide_enough(scene, model, inliers)
    points = dataclasses.replace(model.points, valid=valid)
    return Model(cameras=model.cameras, points=points, inliers=inliers & valid[:, None])


def wide_enough(scene: Scene, model: Model, inliers: Bool[Tensor, "1 S N"]) -> Bool[Tensor, "1 N"]:
    """Points whose rays from inlier frames span the smallest allowed angle."""
    rays = model.cameras.centers[:, :, None] - model.points.xyz_world[:, None]
    rays = rays / rays.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    weight = inliers.to(rays.dtype).unsqueeze(-1)
    count = weight.sum(1).clamp_min(1)
    mean = (rays * weight).sum(1) / count
    mean = mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    # the largest angle to the mean ray is between half the spanned angle and the whole of it
    chord = ((rays - mean.unsqueeze(1)).norm(dim=-1) * weight.squeeze(-1)).amax(1)
    return chord >= float(np.deg2rad(0.5 * scene.triangulator.min_angle_deg))


def adjusted(
    scene: Scene,
    model: Model,
    adjuster: BundleAdjuster,
    free: FreeParameters,
    loss_scale: float | None,
) -> Model:
    """The model after bundle adjustment; unchanged where the adjusted camera parameters make no sense.

    Args:
        scene: where the tracks are.
        model: what to adjust.
        adjuster: the solver.
        free: what may change.
        loss_scale: of a Cauchy loss, in standard deviations of an observation; None for a plain sum of squares.
    """
    loss = RobustLoss() if loss_scale is None else RobustLoss(kind=Loss.CAUCHY, scale=loss_scale)
    problem = build_problem(
        model.cameras, model.points, scene.tracks, model.inliers, free=free, priors=scene.images.priors, loss=loss
    )
    solution = adjuster(problem)
    if not sensible(scene.images, solution.cameras):
        if not (free.focal or free.distortion or free.principal_point):
            return model
        held = dataclasses.replace(free, focal=False, distortion=False, principal_point=False)
        return adjusted(scene, model, adjuster, held, loss_scale)
    return dataclasses.replace(model, cameras=solution.cameras, points=solution.points)


def sensible(images: ImageSet, cameras: Cameras) -> bool:
    """Whether all numbers are finite and the intrinsics are those of some camera (focal, distortion in bounds)."""
    if not bool(torch.isfinite(cameras.params).all() & torch.isfinite(cameras.cam_from_world).all()):
        return False
    long_side = images.stored_size[0].amax(-1)
    for c, model in enumerate(cameras.models):
        used = (cameras.camera_index[0] == c) & cameras.registered[0]
        if not bool(used.any()):
            continue
        side = float(long_side[used.to(long_side.device)].amax())
        focal = float(camera_models.focal(model, cameras.params[0, c]))
        distortion = cameras.params[0, c, list(camera_models.distortion_indices(model))]
        if not 0.1 * side < focal < 10 * side or bool((distortion.abs() > 1).any()):
            return False
    return True


def score(scene: Scene, model: Model, max_error_px: float) -> float:
    """How much a model explains: two per inlier observation, less as its error grows, minus three per point.

    Points that explain less than their own three coordinates cost add nothing, so a model gains by long tracks that fit
    and not by pairs of views, which fit easily.
    """
    if not model.frames:
        return 0.0
    error = reprojection_error(model.cameras, model.points, scene.tracks) / (max_error_px * scene.scale[..., None])
    gain = torch.where(model.inliers, 2 * (1 - error.square()).clamp_min(0), torch.zeros_like(error)).sum(1) - 3
    return float(gain.clamp_min(0).sum())


def parallax_px(scene: Scene, model: Model, max_pairs: int = 50) -> float:
    """Median distance in network pixels that no rotation between two frames explains, of the pair where it is largest.

    The focal length is fitted too, within a factor of 1.4, and the distortion may be left out, since a camera that only
    turns can be mistaken for one that moves and has another lens. Near zero: the camera did not move, whatever the
    model says.
    """
    shared = model.inliers[0].double() @ model.inliers[0].double().mT
    pairs = [(a, b) for i, a in enumerate(model.frames) for b in model.frames[i + 1 :] if shared[a, b] >= 15]  # noqa: PLR2004
    pairs = sorted(pairs, key=lambda pair: -float(shared[pair]))[:max_pairs]
    plain = model.cameras.params.clone()
    for c, name in enumerate(model.cameras.models):
        plain[:, c, list(camera_models.distortion_indices(name))] = 0
    without_distortion = dataclasses.replace(model.cameras, params=plain)
    return min(_parallax_px(scene, model, cameras, pairs) for cameras in (model.cameras, without_distortion))


def _parallax_px(scene: Scene, model: Model, cameras: Cameras, pairs: list[tuple[int, int]]) -> float:
    uv = cameras.unproject(scene.tracks.xy)[0]
    focal = frame_focal(cameras)[0]
    factors = torch.exp(torch.linspace(-0.35, 0.35, 15, dtype=uv.dtype))
    largest = torch.zeros_like(factors)
    for a, b in pairs:
        both = model.inliers[0, a] & model.inliers[0, b]
        one = torch.ones(len(factors), int(both.sum()), 1, dtype=uv.dtype)
        rays1, rays2 = (torch.cat([uv[s, both] / factors[:, None, None], one], -1) for s in (a, b))
        turn = rotation.between_rays(normalize(rays1, dim=-1), normalize(rays2, dim=-1), one.squeeze(-1))
        moved = rays1 @ turn.mT
        residual = (moved[..., :2] / moved[..., 2:] - rays2[..., :2]).norm(dim=-1).median(-1).values
        largest = torch.maximum(largest, residual * factors * focal[b] / scene.scale[0, b])
    return float(largest.min())
