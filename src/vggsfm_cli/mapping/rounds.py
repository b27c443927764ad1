"""One round of mapping: triangulate, bring the noise to the residuals, calibrate, adjust, filter.

While a reconstruction grows there is a short round after each group of frames; at last there are rounds with falling
thresholds. They differ in their settings alone.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.mapping.calibration import (
    DistortionConfig,
    PrincipalPointConfig,
    adjust_what_is_held,
    free_principal_point,
)
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.scene import Cameras
from vggsfm_cli.triangulation.interface import Triangulator
from vggsfm_cli.triangulation.ransac import reprojection_error


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """Settings of a round; thresholds in network pixels."""

    rescale_noise: bool = True  # bring the covariances to the residuals before the adjustment
    loss_scale: float = 3.0  # of the Cauchy loss, in standard deviations of the residuals
    focal_from: int = 3  # frames that hold a focal length
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    adjuster: SchurConfig = field(default_factory=lambda: SchurConfig(max_iterations=15, cost_tolerance=1e-4))
    max_adjusted_tracks: int | None = 8000  # best tracks that take part in the adjustment of the cameras
    noise_factor: float = 4.0  # the filter is never below so many robust standard deviations of the residuals
    min_frame_inliers: int = 15  # frames with fewer inlier observations are taken out
    min_frame_ratio: float = 0.1  # and those with a smaller share of the observations that could agree


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The last rounds; thresholds in network pixels."""

    reprojection_px: tuple[float, ...] = (4.0, 2.5, 1.5)  # one round each
    round: RoundConfig = field(default_factory=RoundConfig)
    principal_point: PrincipalPointConfig = field(default_factory=PrincipalPointConfig)

    def last_px(self, noise_px: float) -> float:
        """Threshold of the last round, where residuals have this robust standard deviation."""
        return max(self.reprojection_px[-1], self.round.noise_factor * noise_px)


def run_round(
    scene: TrackedScene,
    cameras: Cameras,
    max_error_px: float,
    config: RoundConfig,
    adjuster: BundleAdjuster | None = None,
) -> Partial:
    """Points found anew, everything adjusted, what does not agree taken out.

    Args:
        scene: the tracks.
        cameras: to start from.
        max_error_px: reprojection error of an inlier, network pixels.
        config: policy.
        adjuster: the solver; the one of ``config`` if None.
    """
    partial = triangulate(scene, cameras, max_error_px)
    if config.rescale_noise:
        scene = rescaled(scene, noise_excess(scene, partial))
    part = well_spread(partial, config.max_adjusted_tracks)
    part = adjust_what_is_held(
        scene, part, adjuster or config.adjuster.build(), config.loss_scale, config.focal_from, config.distortion
    )
    partial = dataclasses.replace(partial, cameras=part.cameras, points=part.points)
    max_error_px = max(max_error_px, config.noise_factor * noise_px(scene, partial))
    return without_weak_frames(scene, filtered(scene, partial, max_error_px), config)


def run_first_rounds(scene: TrackedScene, partial: Partial, schedule: ScheduleConfig) -> Partial:
    """All rounds of the schedule but the last."""
    for max_error_px in schedule.reprojection_px[:-1]:
        partial = run_round(scene, partial.cameras, max_error_px, schedule.round)
    return partial


def run_last_round(
    scene: TrackedScene,
    cameras: Cameras,
    max_error_px: float,
    schedule: ScheduleConfig,
    adjuster: BundleAdjuster,
    triangulator: Triangulator,
) -> Partial:
    """A round, the principal point thereafter, and points found anew.

    Args:
        scene: all tracks.
        cameras: to start from.
        max_error_px: reprojection error of an inlier of the round, network pixels.
        schedule: policy.
        adjuster: the solver of the round.
        triangulator: of the points that stay.
    """
    partial = run_round(scene, cameras, max_error_px, schedule.round, adjuster)
    scene = rescaled(scene, noise_excess(scene, partial))
    part = well_spread(partial, schedule.round.max_adjusted_tracks)
    part = free_principal_point(scene, part, schedule.round.loss_scale, schedule.principal_point)
    partial = dataclasses.replace(partial, cameras=part.cameras, points=part.points)
    max_error_px = schedule.last_px(noise_px(scene, partial))
    scene = dataclasses.replace(scene, triangulator=triangulator)
    return without_weak_frames(scene, triangulate(scene, partial.cameras, max_error_px), schedule.round)


def triangulate(scene: TrackedScene, cameras: Cameras, max_error_px: float) -> Partial:
    """All points found anew; the threshold is in network pixels."""
    points = scene.triangulator(cameras, scene.tracks, max_error_px * scene.scale)
    return filtered(scene, Partial(cameras=cameras, points=points, inliers=scene.seen[None]), max_error_px)


def filtered(scene: TrackedScene, partial: Partial, max_error_px: float) -> Partial:
    """Inliers found again, and no points that fewer than two frames or no parallax hold; network pixels."""
    cameras = partial.cameras
    inliers = scene.triangulator.inliers(cameras, partial.points, scene.tracks, max_error_px * scene.scale)
    inliers = inliers & scene.images.frame_valid[..., None].cpu()
    valid = partial.points.valid & (inliers.sum(1) >= scene.triangulator.min_views)
    valid = valid & _wide_enough(scene, partial, inliers)
    points = dataclasses.replace(partial.points, valid=valid)
    return Partial(cameras=cameras, points=points, inliers=inliers & valid[:, None])


def _wide_enough(scene: TrackedScene, partial: Partial, inliers: Bool[Tensor, "1 S N"]) -> Bool[Tensor, "1 N"]:
    """Points whose rays from inlier frames span the smallest allowed angle."""
    rays = partial.cameras.centers[:, :, None] - partial.points.xyz_world[:, None]
    rays = rays / rays.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    weight = inliers.to(rays.dtype).unsqueeze(-1)
    count = weight.sum(1).clamp_min(1)
    mean = (rays * weight).sum(1) / count
    mean = mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    # the largest angle to the mean ray is between half the spanned angle and the whole of it
    chord = ((rays - mean.unsqueeze(1)).norm(dim=-1) * weight.squeeze(-1)).amax(1)
    return chord >= float(np.deg2rad(0.5 * scene.triangulator.min_angle_deg))


def noise_px(scene: TrackedScene, partial: Partial) -> float:
    """Robust standard deviation of a residual coordinate, in network pixels, of the inliers."""
    error = reprojection_error(partial.cameras, partial.points, scene.tracks) / scene.scale[..., None]
    error = error[partial.inliers & torch.isfinite(error)]
    # the median norm of a 2D Gaussian of unit variance is sqrt(2 ln 2)
    return float(error.median()) / 1.1774 if error.numel() else 0.0


def noise_excess(scene: TrackedScene, partial: Partial) -> Float[Tensor, ""]:
    """By what factor the covariances are too small for the inlier residuals, robustly."""
    error = reprojection_error(partial.cameras, partial.points, scene.tracks)
    agree = partial.inliers & torch.isfinite(error)
    return covariance_excess(error[agree], scene.tracks.covariance[agree])


def covariance_excess(error_px: Float[Tensor, " M"], covariance: Float[Tensor, "M 2 2"]) -> Float[Tensor, ""]:
    """By what factor covariances must be larger for residuals of these lengths, robustly; 1 without any."""
    squared = error_px.square() / torch.det(covariance).clamp_min(1e-12).sqrt()
    if not squared.numel():
        return squared.new_ones(())
    # the median of a chi-square with two degrees of freedom is 2 ln 2
    return (squared.median() / 1.3863).clamp(1e-4, 1e4)


def rescaled(scene: TrackedScene, factor: Float[Tensor, ""]) -> TrackedScene:
    """The scene with all covariances times a factor."""
    tracks = dataclasses.replace(scene.tracks, covariance=scene.tracks.covariance * factor)
    return dataclasses.replace(scene, tracks=tracks)


def without_weak_frames(scene: TrackedScene, partial: Partial, config: RoundConfig) -> Partial:
    """No frames that fewer observations hold, or a smaller share of those that could."""
    count = partial.inliers[0].sum(1)
    could = (scene.seen & partial.points.valid[0]).sum(1)
    needed = torch.maximum(torch.full_like(could, config.min_frame_inliers), (config.min_frame_ratio * could).long())
    keep = partial.cameras.registered & (count >= needed)[None]
    cameras = dataclasses.replace(partial.cameras, registered=keep)
    return dataclasses.replace(partial, cameras=cameras, inliers=partial.inliers & keep[..., None])


def well_spread(partial: Partial, limit: int | None) -> Partial:
    """The observations of at most ``limit`` points, long tracks first, but every frame keeps its share."""
    length = partial.inliers[0].sum(0)
    chosen = length >= 2  # noqa: PLR2004
    candidates = chosen.nonzero().flatten()
    if limit is not None and len(candidates) > limit:
        order = candidates[length[candidates].argsort(descending=True, stable=True)]
        observations = partial.inliers[0][:, order].long()
        # a track is taken while one of its frames has less than its share
        rank = observations.cumsum(1)
        take = ((rank <= _share(rank, observations, limit)) & (observations > 0)).any(0)
        chosen = torch.zeros_like(chosen)
        chosen[order[take][:limit]] = True
    return dataclasses.replace(partial, inliers=partial.inliers & chosen)


def _share(rank: Int[Tensor, "S n"], observations: Int[Tensor, "S n"], limit: int) -> int:
    """The largest number of observations per frame that keeps the tracks within ``limit``, by bisection."""
    low, high = 1, int(rank.max()) + 1
    while high - low > 1:
        middle = (low + high) // 2
        taken = int(((rank <= middle) & (observations > 0)).any(0).sum())
        low, high = (middle, high) if taken <= limit else (low, middle)
    return low
