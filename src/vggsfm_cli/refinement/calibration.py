"""Freeing the principal point, last, and only where the geometry holds it.

A principal point that is pinned at the centre bends every rotation a little; one that the views do not determine drifts
and takes the poses along. So the adjustment that frees it also says how well it is determined, and only a small
posterior deviation lets the result stand.
"""

import dataclasses
import logging
from dataclasses import dataclass
from enum import StrEnum

from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.refinement.model import Model, Scene, sensible

logger = logging.getLogger(__name__)


class Choice(StrEnum):
    """Whether to do something: where the data allow it, always, or never."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class PrincipalPointConfig:
    """Settings of the last adjustment."""

    refine: Choice = Choice.AUTO
    max_deviation: float = (
        0.0015  # posterior standard deviation, in long sides of the photograph, that ``auto`` accepts
    )
    max_shift: float = 0.05  # distance from where it was, in long sides, beyond which no result is believed
    solver: SchurConfig = dataclasses.field(default_factory=lambda: SchurConfig(covariance=True))


def free_principal_point(scene: Scene, model: Model, loss_scale: float, config: PrincipalPointConfig) -> Model:
    """The model after an adjustment with the principal point free as well, or as it was where that is not held."""
    if config.refine is Choice.NO or len(model.frames) < 3:  # noqa: PLR2004
        return model
    problem = build_problem(
        model.cameras,
        model.points,
        scene.tracks,
        model.inliers,
        free=FreeParameters(principal_point=True),
        priors=scene.images.priors,
        loss=RobustLoss(kind=Loss.CAUCHY, scale=loss_scale),
    )
    solution = config.solver.build()(problem)
    assert solution.params_covariance is not None
    if not sensible(scene.images, solution.cameras):
        return model
    for c in model.cameras.camera_index[0, model.frames].unique().tolist():
        index = list(camera_models.principal_point_indices(model.cameras.models[c]))
        frames = [s for s in model.frames if int(model.cameras.camera_index[0, s]) == c]
        long_side = float(scene.images.stored_size[0, frames].max())
        deviation = solution.params_covariance[0, c].diagonal()[index].clamp_min(0).sqrt().max() / long_side
        shift = (solution.cameras.params[0, c, index] - model.cameras.params[0, c, index]).norm() / long_side
        logger.info("principal point of camera %d moves by %.4f, deviation %.5f long sides", c, shift, deviation)
        if float(shift) > config.max_shift or (
            config.refine is Choice.AUTO and float(deviation) > config.max_deviation
        ):
            return model
    return dataclasses.replace(model, cameras=solution.cameras, points=solution.points)
