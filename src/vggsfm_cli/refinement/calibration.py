"""Freeing camera parameters last, and only where the geometry holds them.

A principal point that is pinned at the centre bends every rotation a little; one that the views do not determine
drifts and takes the poses along. The same is true of the distortion when few frames see the scene. So the adjustment
that frees them also says how well they are determined, and only a small posterior deviation lets the result stand.
"""

import dataclasses
import logging
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.model import AdjusterConfig
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
    min_significance: float = 3.0  # ``auto`` moves it by at least so many standard deviations
    max_shift: float = 0.05  # distance from where it was, in long sides, beyond which no result is believed
    solver: AdjusterConfig = field(default_factory=lambda: SchurConfig(covariance=True))


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """When the distortion is freed although few frames hold it."""

    max_deviation: float = 0.003  # posterior standard deviation that is accepted
    min_significance: float = 3.0  # and it must differ from zero by so many of them
    solver: AdjusterConfig = field(default_factory=lambda: SchurConfig(covariance=True))


def free_distortion(scene: Scene, model: Model, loss_scale: float, config: DistortionConfig) -> tuple[Model, bool]:
    """The model adjusted with its distortion free, and True; or as it was, and False, where that is not held."""
    freed, deviation = _freed(scene, model, FreeParameters(), loss_scale, config.solver)
    if not sensible(scene.images, freed.cameras):
        return model, False
    for c in model.cameras.camera_index[0, model.frames].unique().tolist():
        index = list(camera_models.distortion_indices(model.cameras.models[c]))
        for value, spread in zip(freed.cameras.params[0, c, index].tolist(), deviation[c, index].tolist(), strict=True):
            logger.info("distortion of camera %d becomes %.4f, deviation %.5f", c, value, spread)
            if spread > config.max_deviation or abs(value) < config.min_significance * spread:
                return model, False
    return freed, True


def free_principal_point(
    scene: Scene, model: Model, loss_scale: float, config: PrincipalPointConfig, *, distortion: bool
) -> Model:
    """The model after an adjustment with the principal point free as well, or as it was where that is not held.

    Args:
        scene: where the tracks are.
        model: what to adjust.
        loss_scale: of the Cauchy loss, in standard deviations of an observation.
        config: when the result stands.
        distortion: whether the distortion is free too.
    """
    if config.refine is Choice.NO or len(model.frames) < 3:  # noqa: PLR2004
        return model
    free = FreeParameters(principal_point=True, distortion=distortion)
    freed, deviations = _freed(scene, model, free, loss_scale, config.solver)
    if not sensible(scene.images, freed.cameras):
        return model
    for c in model.cameras.camera_index[0, model.frames].unique().tolist():
        index = list(camera_models.principal_point_indices(model.cameras.models[c]))
        frames = [s for s in model.frames if int(model.cameras.camera_index[0, s]) == c]
        long_side = float(scene.images.stored_size[0, frames].max())
        deviation = float(deviations[c, index].max()) / long_side
        shift = float((freed.cameras.params[0, c, index] - model.cameras.params[0, c, index]).norm()) / long_side
        logger.info("principal point of camera %d moves by %.4f, deviation %.5f long sides", c, shift, deviation)
        unsure = deviation > config.max_deviation or shift < config.min_significance * deviation
        if shift > config.max_shift or (config.refine is Choice.AUTO and unsure):
            return model
    return freed


def _freed(
    scene: Scene, model: Model, free: FreeParameters, loss_scale: float, solver: AdjusterConfig
) -> tuple[Model, Float[Tensor, "C P"]]:
    """The adjusted model, and the posterior deviation of every camera parameter; infinite if the solver gives none."""
    problem = build_problem(
        model.cameras,
        model.points,
        scene.tracks,
        model.inliers,
        free=free,
        priors=scene.images.priors,
        loss=RobustLoss(kind=Loss.CAUCHY, scale=loss_scale),
    )
    solution = solver.build()(problem)
    deviation = torch.full_like(solution.cameras.params[0], torch.inf)
    if solution.params_covariance is not None:
        deviation = solution.params_covariance[0].diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    return dataclasses.replace(model, cameras=solution.cameras, points=solution.points), deviation
