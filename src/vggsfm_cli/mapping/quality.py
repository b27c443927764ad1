"""Confidence in a model without ground truth, and the test whether it is a model at all.

A camera that only turns sees no depth, whatever the points say: such a model is refused.
A wrong model can fit its observations well. What gives it away is measured here: a focal length that the views hardly
determine, since poses bend along with it, and tracks of three and more frames that do not agree on one point.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from vggsfm_cli.bundle_adjustment.problem import FreeParameters
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.parallax import beyond_rotation
from vggsfm_cli.mapping.calibration import excess_deviation, holding, released, solve
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.scene import Cameras
from vggsfm_cli.triangulation.ransac import frame_focal

ALONE = 2
"""Views that nothing else confirms."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceConfig:
    """How the measures become one number, and from where it is called low."""

    focal_deviation: float = 0.05  # relative; at this deviation the confidence has fallen to 1 / e
    agreement_power: float = 2.0  # of the share of observations that agree
    low: float = 0.2
    high: float = 0.6
    loss_scale: float = 3.0  # standard deviations
    solver: SchurConfig = field(default_factory=lambda: SchurConfig(max_iterations=2, covariance=True))


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """What is said of a model.

    Attributes:
        value: 0 to 1.
        level: ``low``, ``medium`` or ``high``.
        focal_deviation: relative standard deviation of the least certain focal length, with observations counted as few
            independent ones; 0 where all are known.
        agreement: share of the observations of tracks in three and more registered frames (in two, where there are
            just two) that agree with a point.
        reasons: sentences for what is doubtful, the worst first; empty where nothing is.
    """

    value: float
    level: str
    focal_deviation: float
    agreement: float
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "confidence": round(self.value, 4),
            "confidence_level": self.level,
            "focal_deviation": round(self.focal_deviation, 5) if math.isfinite(self.focal_deviation) else None,
            "agreement": round(self.agreement, 4),
            "doubts": list(self.reasons),
        }


def judge(scene: TrackedScene, partial: Partial, config: ConfidenceConfig) -> Confidence:
    """Confidence in a finished partial."""
    agreement = agreeing_share(scene, partial)
    deviation = focal_deviation(scene, partial, config)
    value = math.exp(-deviation / config.focal_deviation) * agreement**config.agreement_power
    level = "low" if value < config.low else "high" if value >= config.high else "medium"
    by_focal, by_agreement = deviation / config.focal_deviation, -config.agreement_power * math.log(agreement + 1e-9)
    doubts = [
        (by_focal, f"the views leave the focal length open by about {_percent(deviation)}"),
        (by_agreement, f"only {_percent(agreement)} of the observations in several images agree on one point"),
    ]
    if level == "high" and len(partial.frames) == ALONE and deviation > 0:
        # the pair fits a wrong focal length as well as the right one where tracks err alike, and no third view objects
        level, doubts = "medium", [(1.0, "two views alone do not confirm the focal length")]
    reasons = () if level == "high" else tuple(text for _, text in sorted(doubts, reverse=True)[:1])
    return Confidence(value=value, level=level, focal_deviation=deviation, agreement=agreement, reasons=reasons)


def focal_deviation(scene: TrackedScene, partial: Partial, config: ConfidenceConfig) -> float:
    """Relative deviation of the least certain focal length of the registered frames, 0 if all are known."""
    held = holding(scene, ~released(scene, partial))
    _, deviation = solve(held, partial, config.solver.build(), FreeParameters(), config.loss_scale)
    worst = 0.0
    for c in partial.cameras_in_use:
        index = list(camera_models.focal_indices(partial.cameras.models[c]))
        relative = float((deviation[c, index] / partial.cameras.params[0, c, index]).max())
        if math.isnan(relative):
            return math.inf
        worst = max(worst, relative * excess_deviation(partial, c))
    return worst


def agreeing_share(scene: TrackedScene, partial: Partial) -> float:
    """Share of the observations that could agree with a point and do."""
    seen = scene.seen[partial.frames]
    shared = seen.sum(0) >= min(3, len(partial.frames))
    could = int(seen[:, shared].sum())
    return int(partial.inliers[0, partial.frames][:, shared].sum()) / could if could else 0.0


@dataclass(frozen=True, kw_only=True)
class ParallaxConfig:
    """What must be left between the most different frames when a rotation alone is fitted."""

    min_px: float = 1.0  # network pixels
    min_noise: float = 15.0  # and so many standard deviations of the residuals
    max_pairs: int = 50  # of frames that are looked at, those that share most points
    min_shared: int = 15  # points of such a pair

    def enough(self, px: float, noise_px: float) -> bool:
        """Whether depth can be seen: ``px`` is the parallax, ``noise_px`` the standard deviation of the residuals."""
        return px >= max(self.min_px, self.min_noise * noise_px)


def parallax_px(scene: TrackedScene, partial: Partial, config: ParallaxConfig) -> float:
    """Median distance that no rotation between two frames explains, of the pair where it is largest; network pixels.

    The focal length is fitted too, within a factor of 1.4, and the distortion may be left out, since a camera that only
    turns can be mistaken for one that moves and has another lens.
    """
    frames, shared = partial.frames, partial.inliers[0].double() @ partial.inliers[0].double().mT
    pairs = [(a, b) for i, a in enumerate(frames) for b in frames[i + 1 :] if shared[a, b] >= config.min_shared]
    pairs = sorted(pairs, key=lambda pair: -float(shared[pair]))[: config.max_pairs]
    plain = partial.cameras.params.clone()
    for c, name in enumerate(partial.cameras.models):
        plain[:, c, list(camera_models.distortion_indices(name))] = 0
    without_distortion = dataclasses.replace(partial.cameras, params=plain)
    return min(_parallax_px(scene, partial, cameras, pairs) for cameras in (partial.cameras, without_distortion))


def _parallax_px(scene: TrackedScene, partial: Partial, cameras: Cameras, pairs: list[tuple[int, int]]) -> float:
    xy_normalized = cameras.unproject(scene.tracks.xy)[0]
    focal = frame_focal(cameras)[0]
    factors = torch.exp(torch.linspace(-0.35, 0.35, 15, dtype=xy_normalized.dtype))
    largest = torch.zeros_like(factors)
    for a, b in pairs:
        both = partial.inliers[0, a] & partial.inliers[0, b]
        xy1, xy2 = (xy_normalized[s, both] / factors[:, None, None] for s in (a, b))
        largest = torch.maximum(largest, beyond_rotation(xy1, xy2) * factors * focal[b] / scene.scale[0, b])
    return float(largest.min())


def _percent(value: float) -> str:
    return f"{100 * min(value, 9.99):.0f} %"
