"""How far to trust a model, said before anyone knows the truth.

A wrong model can fit its observations well. What gives it away is measured here: a focal length that the views hardly
determine, since poses bend along with it, and tracks of three and more frames that do not agree on one point.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from vggsfm_cli.bundle_adjustment.problem import FreeParameters
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.mapping.calibration import excess_deviation, free_adjustment, holding, released
from vggsfm_cli.mapping.model import Model, Scene

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


def judge_model(scene: Scene, model: Model, config: ConfidenceConfig) -> Confidence:
    """Confidence in a finished model."""
    deviation, agreement = focal_deviation(scene, model, config), agreeing_share(scene, model)
    value = math.exp(-deviation / config.focal_deviation) * agreement**config.agreement_power
    level = "low" if value < config.low else "high" if value >= config.high else "medium"
    by_focal, by_agreement = deviation / config.focal_deviation, -config.agreement_power * math.log(agreement + 1e-9)
    doubts = [
        (by_focal, f"the views leave the focal length open by about {_percent(deviation)}"),
        (by_agreement, f"only {_percent(agreement)} of the observations in several images agree on one point"),
    ]
    if level == "high" and len(model.frames) == ALONE and deviation > 0:
        # the pair fits a wrong focal length as well as the right one where tracks err alike, and no third view objects
        level, doubts = "medium", [(1.0, "two views alone do not confirm the focal length")]
    reasons = () if level == "high" else tuple(text for _, text in sorted(doubts, reverse=True)[:1])
    return Confidence(value=value, level=level, focal_deviation=deviation, agreement=agreement, reasons=reasons)


def focal_deviation(scene: Scene, model: Model, config: ConfidenceConfig) -> float:
    """Relative deviation of the least certain focal length of the registered frames, 0 if all are known."""
    held = holding(scene, ~released(scene, model))
    _, deviation = free_adjustment(held, model, FreeParameters(), config.loss_scale, config.solver)
    worst = 0.0
    for c in model.cameras.camera_index[0, model.frames].unique().tolist():
        index = list(camera_models.focal_indices(model.cameras.models[c]))
        relative = float((deviation[c, index] / model.cameras.params[0, c, index]).max())
        if math.isnan(relative):
            return math.inf
        worst = max(worst, relative * excess_deviation(model, c))
    return worst


def agreeing_share(scene: Scene, model: Model) -> float:
    """Share of the observations that could agree with a point and do."""
    seen = scene.seen[model.frames]
    shared = seen.sum(0) >= min(3, len(model.frames))
    could = int(seen[:, shared].sum())
    return int(model.inliers[0, model.frames][:, shared].sum()) / could if could else 0.0


def _percent(value: float) -> str:
    return f"{100 * min(value, 9.99):.0f} %"
