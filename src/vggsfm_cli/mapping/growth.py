"""Growing a model from two frames to all that connect to them.

Two frames give points, points place further frames, more frames give more points; a short bundle adjustment after each
round keeps the model straight and frees the focal length as soon as three frames hold it.
"""

from dataclasses import dataclass, field

from vggsfm_cli.bundle_adjustment.problem import FreeParameters
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.camera_estimation.star import seed_cameras
from vggsfm_cli.camera_estimation.view_graph import PosedPair
from vggsfm_cli.mapping.calibration import DistortionConfig, holding, release_distortion, released
from vggsfm_cli.mapping.model import Model, Scene, adjusted, filtered, triangulate
from vggsfm_cli.mapping.resection import Attempt, ResectionConfig, place_frames, visible_points
from vggsfm_cli.scene import Cameras


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """Settings of the growth; thresholds in network pixels."""

    max_error_px: float = 4.0
    min_seed_points: int = 30
    min_visible: int = 15  # known points a frame must see before it is tried
    visible_ratio: float = 0.6  # frames are tried together if they see this share of what the best one sees
    batch_ratio: float = 0.34  # at most so many new frames a round, as a share of those registered
    focal_from: int = 3  # frames that hold a focal length
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    loss_scale: float = 2.0  # standard deviations
    resection: ResectionConfig = field(default_factory=ResectionConfig)
    adjuster: SchurConfig = field(default_factory=lambda: SchurConfig(max_iterations=8, cost_tolerance=1e-3))


def seed_model(scene: Scene, cameras: Cameras, seed: PosedPair, config: GrowthConfig) -> Model | None:
    """Two frames and their points; None when there are too few."""
    cameras = seed_cameras(cameras, seed)
    model = triangulate(scene, cameras, config.max_error_px)
    if int(model.points.valid.sum()) < config.min_seed_points:
        return None
    held = FreeParameters(focal=False, distortion=False)
    model = adjusted(scene, model, config.adjuster.build(), held, config.loss_scale)
    return filtered(scene, model, config.max_error_px)


def grow(scene: Scene, model: Model, allowed: list[int], config: GrowthConfig) -> tuple[Model, dict[int, Attempt]]:
    """Add frames of ``allowed`` until no more can be placed.

    Returns:
        The model, and the last attempt of every frame that stayed out.
    """
    failed: dict[int, Attempt] = {}
    retried = False
    while True:
        waiting = [s for s in allowed if s not in model.frames]
        frames = _next_frames(scene, model, [s for s in waiting if s not in failed], config)
        if not frames and not retried and failed:
            # what was added since may have made room for those that failed
            retried, frames = True, _next_frames(scene, model, waiting, config)
        if not frames:
            break
        model, attempts = place_frames(scene, model, frames, config.resection)
        placed = [attempt.frame for attempt in attempts if attempt.placed]
        failed = {s: a for s, a in failed.items() if s not in placed}
        failed.update({a.frame: a for a in attempts if not a.placed})
        if placed:
            retried = False
            model = settle(scene, model, config)
    return model, failed


def settle(scene: Scene, model: Model, config: GrowthConfig) -> Model:
    """Points found anew, a short adjustment, inliers found anew."""
    free = FreeParameters(focal=len(model.frames) >= config.focal_from)
    model = triangulate(scene, model.cameras, config.max_error_px)
    model = release_distortion(scene, model, config.loss_scale, config.distortion)
    held = holding(scene, ~released(scene, model))
    model = adjusted(held, model, config.adjuster.build(), free, config.loss_scale)
    return filtered(scene, model, config.max_error_px)


def _next_frames(scene: Scene, model: Model, waiting: list[int], config: GrowthConfig) -> list[int]:
    """Frames that see most known points, at most a share of those registered."""
    counts = visible_points(scene, model)
    able = sorted((s for s in waiting if counts[s] >= config.min_visible), key=lambda s: (-counts[s], s))
    if not able:
        return []
    batch = max(1, int(config.batch_ratio * len(model.frames)))
    return [s for s in able if counts[s] >= config.visible_ratio * counts[able[0]]][:batch]
