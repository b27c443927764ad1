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

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.model import AdjusterConfig
from vggsfm_cli.scene import Cameras, ImageSet

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
    max_shift: float = 0.05  # distance from where it was, in long sides, beyond which a result is rejected
    solver: AdjusterConfig = field(default_factory=lambda: SchurConfig(covariance=True))


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """When the distortion of a camera is freed."""

    min_frames: int = 3
    min_significance: float = 3.0  # it must differ from where it is held by so many deviations
    solver: SchurConfig = field(
        default_factory=lambda: SchurConfig(max_iterations=6, cost_tolerance=1e-3, covariance=True)
    )


def adjust_what_is_held(
    scene: TrackedScene,
    partial: Partial,
    adjuster: BundleAdjuster,
    loss_scale: float,
    focal_from: int,
    config: DistortionConfig,
) -> Partial:
    """Cameras and points adjusted, with those lens parameters free that the views hold.

    Args:
        scene: where the tracks are.
        partial: what to adjust.
        adjuster: the solver.
        loss_scale: of the Cauchy loss, in standard deviations of an observation.
        focal_from: frames that hold a focal length.
        config: when the distortion is free.
    """
    partial = release_distortion(scene, partial, loss_scale, config)
    free = FreeParameters(focal=len(partial.frames) >= focal_from)
    return adjusted(holding(scene, ~released(scene, partial)), partial, adjuster, free, loss_scale)


def adjusted(
    scene: TrackedScene, partial: Partial, adjuster: BundleAdjuster, free: FreeParameters, loss_scale: float | None
) -> Partial:
    """Cameras and points after bundle adjustment; unchanged where the adjusted camera parameters make no sense.

    Args:
        scene: where the tracks are.
        partial: what to adjust.
        adjuster: the solver.
        free: what may change.
        loss_scale: of a Cauchy loss, in standard deviations of an observation; None for a plain sum of squares.
    """
    found, _ = solve(scene, partial, adjuster, free, loss_scale)
    if sensible(scene.images, found.cameras):
        return found
    if not (free.focal or free.distortion or free.principal_point):
        return partial
    held = dataclasses.replace(free, focal=False, distortion=False, principal_point=False)
    return adjusted(scene, partial, adjuster, held, loss_scale)


def solve(
    scene: TrackedScene, partial: Partial, adjuster: BundleAdjuster, free: FreeParameters, loss_scale: float | None
) -> tuple[Partial, Float[Tensor, "C P"]]:
    """What the solver finds, sensible or not, and the posterior deviation of every camera parameter.

    Deviations are infinite if the solver gives none; arguments as those of ``adjusted``.
    """
    problem = build_problem(
        partial.cameras,
        partial.points,
        scene.tracks,
        partial.inliers,
        free=free,
        priors=scene.images.priors,
        loss=RobustLoss() if loss_scale is None else RobustLoss(kind=Loss.CAUCHY, scale=loss_scale),
    )
    solution = adjuster(problem)
    deviation = torch.full_like(solution.cameras.params[0], torch.inf)
    if solution.params_covariance is not None:
        deviation = solution.params_covariance[0].diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    return dataclasses.replace(partial, cameras=solution.cameras, points=solution.points), deviation


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


def released(scene: TrackedScene, partial: Partial) -> Bool[Tensor, " C"]:
    """Cameras whose distortion is free: it is no longer where the prior has it."""
    moved = partial.cameras.params != scene.images.priors.params.to(partial.cameras.params)
    indices = [list(camera_models.distortion_indices(name)) for name in partial.cameras.models]
    return torch.stack([moved[0, c, index].any() for c, index in enumerate(indices)])


def holding(scene: TrackedScene, cameras: Bool[Tensor, " C"]) -> TrackedScene:
    """The scene with the distortion of some cameras known."""
    priors = scene.images.priors
    known = priors.known.clone()
    for c in cameras.nonzero().flatten().tolist():
        known[:, c, list(camera_models.distortion_indices(priors.models[c]))] = True
    images = dataclasses.replace(scene.images, priors=dataclasses.replace(priors, known=known))
    return dataclasses.replace(scene, images=images)


def excess_deviation(partial: Partial, camera: int) -> float:
    """By what factor the formal deviations of a camera are too small, see ``INDEPENDENT_OBSERVATIONS``."""
    frames = partial.cameras.camera_index[0] == camera
    return max(float(partial.inliers[0, frames].sum()) / INDEPENDENT_OBSERVATIONS, 1.0) ** 0.5


def release_distortion(scene: TrackedScene, partial: Partial, loss_scale: float, config: DistortionConfig) -> Partial:
    """The reconstruction with the distortion of those cameras away from the prior whose views clearly ask for it."""
    if len(partial.frames) < config.min_frames:
        return partial
    freed, deviation = solve(scene, partial, config.solver.build(), FreeParameters(), loss_scale)
    if not sensible(scene.images, freed.cameras):
        return partial
    prior = scene.images.priors.params.to(partial.cameras.params)
    before = released(scene, partial)
    params = partial.cameras.params.clone()
    for c in partial.cameras_in_use:
        index = list(camera_models.distortion_indices(partial.cameras.models[c]))
        found = freed.cameras.params[0, c, index]
        spread = excess_deviation(partial, c) * deviation[c, index]
        clear = (found - prior[0, c, index]).abs() > config.min_significance * spread
        if bool(clear.any()) != bool(before[c]):
            params[0, c, index] = found if bool(clear.any()) else prior[0, c, index]
            logger.info("distortion of camera %d becomes %s", c, params[0, c, index].tolist())
    return dataclasses.replace(partial, cameras=dataclasses.replace(partial.cameras, params=params))


def free_principal_point(
    scene: TrackedScene, partial: Partial, loss_scale: float, config: PrincipalPointConfig
) -> Partial:
    """After an adjustment with the principal point free as well; as it was where the views do not hold that.

    Args:
        scene: where the tracks are.
        partial: what to adjust.
        loss_scale: of the Cauchy loss, in standard deviations of an observation.
        config: when the result stands.
    """
    if config.refine is Choice.NO or len(partial.frames) < 3:  # noqa: PLR2004
        return partial
    free = FreeParameters(principal_point=True)
    held = holding(scene, ~released(scene, partial))
    freed, deviations = solve(held, partial, config.solver.build(), free, loss_scale)
    if not sensible(scene.images, freed.cameras):
        return partial
    for c in partial.cameras_in_use:
        index = list(camera_models.principal_point_indices(partial.cameras.models[c]))
        frames = [s for s in partial.frames if int(partial.cameras.camera_index[0, s]) == c]
        long_side = float(scene.images.stored_size[0, frames].max())
        deviation = float(deviations[c, index].max()) / long_side
        shift = float((freed.cameras.params[0, c, index] - partial.cameras.params[0, c, index]).norm()) / long_side
        logger.info("principal point of camera %d moves by %.4f, deviation %.5f long sides", c, shift, deviation)
        unsure = deviation > config.max_deviation or shift < config.min_significance * deviation
        if shift > config.max_shift or (config.refine is Choice.AUTO and unsure):
            return partial
    return freed
