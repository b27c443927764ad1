"""The learned stages on rendered scenes that training did not see, one at a time."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vggsfm_cli.bundle_adjustment.problem import FreeParameters, build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.camera_estimation.transformer import CameraTransformer, views_of
from vggsfm_cli.camera_estimation.views import CameraState, agreement, moved, normalized
from vggsfm_cli.evaluation.poses import PairErrors, auc_max, pair_errors
from vggsfm_cli.scene import Points
from vggsfm_cli.training.stages import StageSample, stage_pool
from vggsfm_cli.training.tasks.points import FittedScene, prepare, relative_error
from vggsfm_cli.training.tracked import TrackedPoolConfig
from vggsfm_cli.triangulation.transformer import TriangulationTransformer, fit

ROUNDS = 6
GAUSS_NEWTON = f"preliminary, {ROUNDS} Gauss-Newton steps"
Estimate = Callable[[StageSample], tuple[torch.Tensor, torch.Tensor]]


def samples(config: TrackedPoolConfig, folder: Path, seed: int, size: int, count: int) -> list[StageSample]:
    """Held-out scenes with so many frames each, the tracks of ``small`` and preliminary cameras."""
    pool = stage_pool(config, folder, seed, (size,), held_out=True)
    return [pool(number, 0) for number in range(count)]


def preliminary(sample: StageSample) -> tuple[torch.Tensor, torch.Tensor]:
    """Cameras of two-view geometry."""
    return sample.start.cam_from_world[0].double(), sample.start.registered[0]


def gauss_newton(sample: StageSample) -> tuple[torch.Tensor, torch.Tensor]:
    """As many plain steps from the preliminary cameras as the transformer has rounds."""
    images = sample.images()
    views, state = views_of(images, sample.tracks, sample.start)
    state = normalized(state, views)
    for _ in range(ROUNDS):
        step = agreement(state, views).together.clone()
        step[:, 0, :6] = 0
        state = normalized(moved(state, views, step), views)
    return _poses(state), torch.ones_like(sample.start.registered[0])


def learned(transformer: CameraTransformer) -> Estimate:
    """The camera transformer, without any adjustment."""

    def estimate(sample: StageSample) -> tuple[torch.Tensor, torch.Tensor]:
        images = sample.images()
        views, state = views_of(images, sample.tracks, sample.start)
        states = transformer.refine(views, state, sample.thumbnail, images.frame_valid)
        return _poses(states[-1]), torch.ones_like(sample.start.registered[0])

    return estimate


def _poses(state: CameraState) -> torch.Tensor:
    return state.cam_from_world[0]


def errors(estimate: Estimate, sample: StageSample) -> PairErrors:
    """Of all pairs of one sample."""
    poses, placed = estimate(sample)
    return pair_errors(poses, sample.cameras.cam_from_world[0].double(), placed)


@torch.no_grad()
def cameras(transformer: CameraTransformer, chosen: Sequence[StageSample], degrees: int) -> dict[str, list[float]]:
    """AUC of every sample, in percent, by the way its cameras were found."""
    ways: dict[str, Estimate] = {
        "preliminary": preliminary,
        GAUSS_NEWTON: gauss_newton,
        "camera transformer": learned(transformer),
    }
    return {
        name: [100 * auc_max(errors(estimate, sample), degrees) for sample in chosen] for name, estimate in ways.items()
    }


@torch.no_grad()
def points(
    transformer: TriangulationTransformer, chosen: Sequence[StageSample], max_error_px: float
) -> dict[str, list[list[float]]]:
    """Relative errors of the points of every sample, in percent of their distance, true cameras."""
    found: dict[str, list[list[float]]] = {}

    def keep(name: str, scene: FittedScene, xyz: torch.Tensor) -> None:
        found.setdefault(name, []).append((100 * relative_error(scene, xyz)).tolist())

    for sample in chosen:
        scene = prepare(transformer, sample, sample.cameras, max_error_px)
        if len(scene.true) < 10:
            continue
        equal = dataclasses.replace(
            scene.tracks, covariance=torch.eye(2).expand_as(scene.tracks.covariance).contiguous()
        )
        unweighted = fit(scene.cameras, equal, scene.fitted.xyz, scene.fitted.inliers)
        moved_points = transformer.correct(scene.cameras, scene.tracks, scene.fitted)
        keep("inliers, all alike", scene, unweighted.xyz)
        keep("inliers, weighted by covariance", scene, scene.fitted.xyz)
        keep("triangulation transformer", scene, moved_points)
        for name, xyz in (("weighted by covariance", scene.fitted.xyz), ("transformer", moved_points)):
            keep(f"{name}, adjusted", scene, _adjusted(scene, xyz))
    return found


def _adjusted(scene: FittedScene, xyz: torch.Tensor) -> torch.Tensor:
    """Points after an adjustment of points alone; true cameras stay."""
    valid = torch.ones(1, len(xyz), dtype=torch.bool)
    problem = build_problem(
        scene.cameras,
        Points(xyz_world=xyz[None], valid=valid),
        scene.tracks,
        scene.fitted.inliers.mT[None],
        free=FreeParameters(poses=False, focal=False, distortion=False),
    )
    return SchurConfig().build()(problem).points.xyz_world[0].double()


def summary(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median, and mean of the best 95 percent, of all points together."""
    pooled = torch.tensor([value for scene in values for value in scene]).sort().values
    return {
        "points": len(pooled),
        "median": float(pooled.median()),
        "mean of the best 95 %": float(pooled[: int(0.95 * len(pooled))].mean()),
    }
