"""Freeing camera parameters last, and only where the geometry holds them.

A principal point that is pinned at the centre bends every rotation a little; one that the views do not determine
drifts and takes the poses along. The same is true of the distortion, which flat scenes trade against the focal length.
So the adjustment that frees them also says how well they are determined, and only then does the result stand.
"""

import dataclasses
import logging
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.mapping.model import Model, Scene, sensible
from vggsfm_cli.model import AdjusterConfig

logger = logging.getLogger(__name__)


INDEPENDENT_OBSERVATIONS = 225
"""Observations of a camera that count as independent at most.

A formal deviation takes every observation as independent and the lens model as exact. Neither is true: focal lengths of
well seen scenes miss their truth by some thirty formal deviations.
"""


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
    """When the distortion of a camera is freed."""

    min_frames: int = 3
    min_significance: float = 3.0  # it must differ from where it is held by so many deviations
    solver: SchurConfig = field(
        default_factory=lambda: SchurConfig(max_iterations=6, cost_tolerance=1e-3, covariance=True)
    )


def released(scene: Scene, model: Model) -> Bool[Tensor, " C"]:
    """Cameras whose distortion is free: it is no longer where the prior has it."""
    moved = model.cameras.params != scene.images.priors.params.to(model.cameras.params)
    indices = [list(camera_models.distortion_indices(name)) for name in model.cameras.models]
    return torch.stack([moved[0, c, index].any() for c, index in enumerate(indices)])


def holding(scene: Scene, cameras: Bool[Tensor, " C"]) -> Scene:
    """The scene with the distortion of some cameras known."""
    priors = scene.images.priors
    known = priors.known.clone()
    for c in cameras.nonzero().flatten().tolist():
        known[:, c, list(camera_models.distortion_indices(priors.models[c]))] = True
    images = dataclasses.replace(scene.images, priors=dataclasses.replace(priors, known=known))
    return dataclasses.replace(scene, images=images)


def excess_deviation(model: Model, camera: int) -> float:
    """By what factor the formal deviations of a camera are too small, see ``INDEPENDENT_OBSERVATIONS``."""
    frames = model.cameras.camera_index[0] == camera
    return max(float(model.inliers[0, frames].sum()) / INDEPENDENT_OBSERVATIONS, 1.0) ** 0.5


def release_distortion(scene: Scene, model: Model, loss_scale: float, config: DistortionConfig) -> Model:
    """The model with the distortion of those cameras away from the prior whose views clearly ask for it."""
    if len(model.frames) < config.min_frames:
        return model
    freed, deviation = free_adjustment(scene, model, FreeParameters(), loss_scale, config.solver)
    if not sensible(scene.images, freed.cameras):
        return model
    prior = scene.images.priors.params.to(model.cameras.params)
    before = released(scene, model)
    params = model.cameras.params.clone()
    for c in model.cameras.camera_index[0, model.frames].unique().tolist():
        index = list(camera_models.distortion_indices(model.cameras.models[c]))
        found = freed.cameras.params[0, c, index]
        spread = excess_deviation(model, c) * deviation[c, index]
        clear = (found - prior[0, c, index]).abs() > config.min_significance * spread
        if bool(clear.any()) != bool(before[c]):
            params[0, c, index] = found if bool(clear.any()) else prior[0, c, index]
            logger.info("distortion of camera %d becomes %s", c, params[0, c, index].tolist())
    return dataclasses.replace(model, cameras=dataclasses.replace(model.cameras, params=params))


def free_principal_point(scene: Scene, model: Model, loss_scale: float, config: PrincipalPointConfig) -> Model:
    """The model after an adjustment with the principal point free as well, or as it was where that is not held.

    Args:
        scene: where the tracks are.
        model: what to adjust.
        loss_scale: of the Cauchy loss, in standard deviations of an observation.
        config: when the result stands.
    """
    if config.refine is Choice.NO or len(model.frames) < 3:  # noqa: PLR2004
        return model
    free = FreeParameters(principal_point=True)
    freed, deviations = free_adjustment(holding(scene, ~released(scene, model)), model, free, loss_scale, config.solver)
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


def free_adjustment(
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
