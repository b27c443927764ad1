"""Inference policy after tracking: candidates, growth, filter, re-triangulate, adjust, over a schedule."""

from vggsfm_cli.mapping.calibration import Choice, adjusted, sensible
from vggsfm_cli.mapping.densify import DensifyConfig, add_points
from vggsfm_cli.mapping.growth import GrowthConfig, grow
from vggsfm_cli.mapping.mapper import MappingOptions, reconstruct_from_tracks
from vggsfm_cli.mapping.output import colorize, figures, normalized, spanning, to_reconstruction
from vggsfm_cli.mapping.partial import Partial, TrackedScene, with_model_error
from vggsfm_cli.mapping.quality import ConfidenceConfig, ParallaxConfig, judge, parallax_px
from vggsfm_cli.mapping.rounds import (
    RoundConfig,
    ScheduleConfig,
    covariance_excess,
    filtered,
    noise_px,
    run_first_rounds,
    triangulate,
    without_weak_frames,
)

__all__ = [
    "Choice",
    "ConfidenceConfig",
    "DensifyConfig",
    "GrowthConfig",
    "MappingOptions",
    "ParallaxConfig",
    "Partial",
    "RoundConfig",
    "ScheduleConfig",
    "TrackedScene",
    "add_points",
    "adjusted",
    "colorize",
    "covariance_excess",
    "figures",
    "filtered",
    "grow",
    "judge",
    "noise_px",
    "normalized",
    "parallax_px",
    "reconstruct_from_tracks",
    "run_first_rounds",
    "sensible",
    "spanning",
    "to_reconstruction",
    "triangulate",
    "with_model_error",
    "without_weak_frames",
]
