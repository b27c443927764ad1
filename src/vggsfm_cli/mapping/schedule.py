"""The last rounds on all tracks: filter, re-triangulate, place what is missing, adjust, over falling thresholds."""

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.bundle_adjustment.problem import FreeParameters
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.mapping.calibration import (
    DistortionConfig,
    PrincipalPointConfig,
    free_principal_point,
    holding,
    release_distortion,
    released,
)
from vggsfm_cli.mapping.model import Model, Scene, adjusted, filtered, triangulate
from vggsfm_cli.mapping.resection import Attempt, ResectionConfig, place_frames, visible_points
from vggsfm_cli.scene import Tracks
from vggsfm_cli.triangulation.interface import Triangulator
from vggsfm_cli.triangulation.ransac import reprojection_error


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Settings of the last rounds; thresholds in network pixels."""

    reprojection_px: tuple[float, ...] = (4.0, 2.5, 1.5)  # one round each
    noise_factor: float = 4.0  # a threshold is never below so many robust standard deviations of the residuals
    focal_from: int = 3  # frames that hold a focal length
    loss_scale: float = 3.0  # of the Cauchy loss, in standard deviations of the residuals
    max_adjusted_tracks: int = 8000  # best tracks that take part in the adjustment of the cameras
    min_frame_inliers: int = 15  # frames with fewer inlier observations are taken out
    min_frame_ratio: float = 0.1  # and those with a smaller share of the observations that could agree
    resection: ResectionConfig = field(default_factory=ResectionConfig)
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    principal_point: PrincipalPointConfig = field(default_factory=PrincipalPointConfig)
    quick_adjuster: SchurConfig = field(default_factory=lambda: SchurConfig(max_iterations=15, cost_tolerance=1e-4))


def noise_px(scene: Scene, model: Model) -> float:
    """Robust standard deviation of a residual coordinate, in network pixels, of the inliers."""
    error = reprojection_error(model.cameras, model.points, scene.tracks) / scene.scale[..., None]
    error = error[model.inliers & torch.isfinite(error)]
    # the median norm of a 2D Gaussian of unit variance is sqrt(2 ln 2)
    return float(error.median()) / 1.1774 if error.numel() else 0.0


def calibrated(scene: Scene, model: Model, tracks: Tracks) -> Tracks:
    """``tracks`` with covariances scaled so that the inlier residuals of a model have unit variance, robustly."""
    error = reprojection_error(model.cameras, model.points, scene.tracks)
    sigma = torch.det(scene.tracks.covariance).clamp_min(1e-12).sqrt()
    squared = (error.square() / sigma)[model.inliers & torch.isfinite(error)]
    if not squared.numel():
        return tracks
    # the median of a chi-square with two degrees of freedom is 2 ln 2
    factor = (squared.median() / 1.3863).clamp(1e-4, 1e4)
    return dataclasses.replace(tracks, covariance=tracks.covariance * factor)


def run_first_rounds(sparse: Scene, model: Model, config: ScheduleConfig) -> Model:
    """All rounds but the last, on the part of the tracks that the model was grown on."""
    for threshold in config.reprojection_px[:-1]:
        model = _round(sparse, model, threshold, config.quick_adjuster.build(), config)
    return model


def run_last_round(
    scene: Scene,
    sparse: Scene,
    model: Model,
    allowed: list[int],
    adjuster: BundleAdjuster,
    triangulator: Triangulator,
    config: ScheduleConfig,
) -> tuple[Model, dict[int, Attempt]]:
    """Place frames that are still missing, and adjust everything on all tracks.

    Args:
        scene: with all tracks.
        sparse: with the part of the tracks that ``model`` was grown on.
        model: on the tracks of ``sparse``.
        allowed: frames that may be added.
        adjuster: the solver.
        triangulator: of the points that stay, found anew after the last adjustment.
        config: thresholds.

    Returns:
        A model on the tracks of ``scene``, and the last attempts of frames that stayed out.
    """
    scene = dataclasses.replace(scene, tracks=calibrated(sparse, model, scene.tracks))
    threshold = max(config.reprojection_px[-1], config.noise_factor * noise_px(sparse, model))
    model, failed = _place_missing(scene, triangulate(scene, model.cameras, config.reprojection_px[0]), allowed, config)
    model = _round(scene, model, threshold, adjuster, config)
    scene = dataclasses.replace(scene, tracks=calibrated(scene, model, scene.tracks))
    part = dataclasses.replace(
        model, inliers=model.inliers & spread_tracks(scene, model, config.max_adjusted_tracks)[None, None]
    )
    part = free_principal_point(scene, part, config.loss_scale, config.principal_point)
    model = dataclasses.replace(model, cameras=part.cameras, points=part.points)
    threshold = max(config.reprojection_px[-1], config.noise_factor * noise_px(scene, model))
    scene = dataclasses.replace(scene, triangulator=triangulator)
    return without_weak_frames(scene, triangulate(scene, model.cameras, threshold), config), failed


def _round(scene: Scene, model: Model, max_error_px: float, adjuster: BundleAdjuster, config: ScheduleConfig) -> Model:
    """Triangulate, calibrate the noise, adjust, filter."""
    model = triangulate(scene, model.cameras, max_error_px)
    scene = dataclasses.replace(scene, tracks=calibrated(scene, model, scene.tracks))
    model = _adjust(scene, model, adjuster, config)
    max_error_px = max(max_error_px, config.noise_factor * noise_px(scene, model))
    return without_weak_frames(scene, filtered(scene, model, max_error_px), config)


def _place_missing(
    scene: Scene, model: Model, allowed: list[int], config: ScheduleConfig
) -> tuple[Model, dict[int, Attempt]]:
    missing = [s for s in allowed if s not in model.frames]
    counts = visible_points(scene, model)
    able = [s for s in missing if counts[s] >= config.resection.min_inliers]
    failed = {s: Attempt(frame=s, visible=counts[s], inliers=0, placed=False) for s in missing if s not in able}
    if able:
        model, attempts = place_frames(scene, model, able, config.resection)
        failed.update({a.frame: a for a in attempts if not a.placed})
    return model, failed


def _adjust(scene: Scene, model: Model, adjuster: BundleAdjuster, config: ScheduleConfig) -> Model:
    free = FreeParameters(focal=len(model.frames) >= config.focal_from)
    chosen = spread_tracks(scene, model, config.max_adjusted_tracks)
    part = dataclasses.replace(model, inliers=model.inliers & chosen[None, None])
    part = release_distortion(scene, part, config.loss_scale, config.distortion)
    moved = adjusted(holding(scene, ~released(scene, part)), part, adjuster, free, config.loss_scale)
    return dataclasses.replace(model, cameras=moved.cameras, points=moved.points)


def without_weak_frames(scene: Scene, model: Model, config: ScheduleConfig) -> Model:
    """The model without frames that too few observations hold."""
    count = model.inliers[0].sum(1)
    could = (scene.seen & model.points.valid[0]).sum(1)
    needed = torch.maximum(torch.full_like(could, config.min_frame_inliers), (config.min_frame_ratio * could).long())
    keep = model.cameras.registered & (count >= needed)[None]
    cameras = dataclasses.replace(model.cameras, registered=keep)
    return dataclasses.replace(model, cameras=cameras, inliers=model.inliers & keep[..., None])


def spread_tracks(scene: Scene, model: Model, limit: int) -> Tensor:
    """Mask ``[N]`` of at most ``limit`` points, long tracks first, but every frame keeps its share."""
    length = model.inliers[0].sum(0)
    candidates = (length >= 2).nonzero().flatten()  # noqa: PLR2004
    if len(candidates) <= limit:
        return length >= 2  # noqa: PLR2004
    order = candidates[length[candidates].argsort(descending=True, stable=True)]
    observations = model.inliers[0][:, order].long()
    # a track is taken while one of its frames has less than its share
    rank = observations.cumsum(1)
    share = _share(rank, observations, limit)
    take = ((rank <= share) & (observations > 0)).any(0)
    mask = torch.zeros(length.shape[0], dtype=torch.bool)
    mask[order[take][:limit]] = True
    return mask


def _share(rank: Int[Tensor, "S n"], observations: Int[Tensor, "S n"], limit: int) -> int:
    """The largest number of observations per frame that keeps the tracks within ``limit``, by bisection."""
    low, high = 1, int(rank.max()) + 1
    while high - low > 1:
        middle = (low + high) // 2
        taken = int(((rank <= middle) & (observations > 0)).any(0).sum())
        low, high = (middle, high) if taken <= limit else (low, middle)
    return low


def growth_tracks(scene: Scene, per_cell: int, cells: int, seed: int) -> Int[Tensor, " n"]:
    """A well spread part of the tracks: long ones first, until every cell of every frame has enough.

    Args:
        scene: whose tracks.
        per_cell: observations wanted in each cell.
        cells: cells along each side of a frame.
        seed: of the order among tracks of equal length.
    """
    seen = scene.seen
    length = seen.sum(0)
    shuffled = torch.randperm(seen.shape[1], generator=torch.Generator().manual_seed(seed))
    order = shuffled[length[shuffled].argsort(descending=True, stable=True)]
    order = order[length[order] >= 2]  # noqa: PLR2004
    size = scene.images.stored_size[0, :, None].double()
    column_row = (scene.tracks.xy[0] / size * cells).floor().clamp(0, cells - 1).long()
    cell = column_row[..., 1] * cells + column_row[..., 0]
    frames = seen.shape[0]
    filled: list[list[int]] = [[0] * (cells * cells) for _ in range(frames)]
    cell_lists, seen_lists = cell[:, order].T.tolist(), seen[:, order].T.tolist()
    taken = []
    for index, where, visible in zip(order.tolist(), cell_lists, seen_lists, strict=True):
        views = [(s, where[s]) for s in range(frames) if visible[s]]
        if any(filled[s][c] < per_cell for s, c in views):
            taken.append(index)
            for s, c in views:
                filled[s][c] += 1
    return torch.tensor(sorted(taken), dtype=torch.long)


def median_depth(model: Model) -> Float[Tensor, ""]:
    """Median depth of the inlier observations."""
    poses = model.cameras.cam_from_world[0]
    depth = (poses[:, 2, :3] @ model.points.xyz_world[0].mT) + poses[:, 2, 3:]
    return depth[model.inliers[0]].median()
