"""Settings of long sequences. Lengths are network pixels or shares of a picture."""

import dataclasses
from dataclasses import dataclass, field

from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.colmap.estimators import RansacConfig
from vggsfm_cli.errors import UsageError
from vggsfm_cli.mapping.mapper import MappingOptions
from vggsfm_cli.options import Precision, ReconstructOptions
from vggsfm_cli.retrieval import RetrievalConfig
from vggsfm_cli.scene import VISIBLE


@dataclass(frozen=True, kw_only=True)
class KeyframeConfig:
    """Which frames become keyframes, and where their tracks start."""

    points: int = 512  # tracks that a keyframe follows on
    min_score: float = 0.01  # of a key point
    nms_radius_px: int = 2
    min_visibility: float = VISIBLE
    parallax: float = 0.02  # of the long side, that no turn of the camera explains, since the last keyframe
    motion: float = 0.15  # of the long side
    min_share: float = 0.6  # of the last keyframe's tracks that are still seen
    lost_share: float = 0.35  # below this the frame before becomes a keyframe first
    min_tracks: int = 40  # a frame that shares fewer with the last keyframe is lost
    max_lost: int = 10  # lost frames in a row after which a new part begins


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How many keyframes are reconstructed together."""

    size: int = 10
    overlap: int = 4  # of them, shared with the window before
    joint_every: int = 3  # windows, after which the last ones are adjusted together
    attempts: int = 3  # with ever larger windows, after which a part ends or its start is given up


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How revisited places are found and verified."""

    close: bool = True
    min_gap: int = 12  # keyframes between two visits of a place
    max_checks: int = 60
    max_failures: int = 20  # in a row, after which no further pair is checked
    min_inliers: int = 25
    min_inlier_ratio: float = 0.25
    merge_px: float = 2.0  # two tracks this near are the same point
    max_error_px: float = 4.0
    ransac: RansacConfig = field(default_factory=lambda: RansacConfig(confidence=0.99999))


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Policy of a long sequence."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    loops: LoopConfig = field(default_factory=LoopConfig)
    mapping: MappingOptions = field(default_factory=MappingOptions)  # of each window
    local_adjuster: SchurConfig = field(default_factory=lambda: SchurConfig(max_iterations=10, cost_tolerance=1e-3))
    joint_adjuster: SchurConfig = field(default_factory=lambda: SchurConfig(max_iterations=25, cost_tolerance=1e-5))
    read_ahead: int = 4  # frames that are read and looked at side by side
    refine_principal_point: bool = False  # in the joint adjustments of all keyframes
    max_error_px: float = 2.5  # of an observation that stays in the model
    precision: Precision = "float32"  # of the networks
    seed: int = 0  # of everything random


def sequence_options(options: ReconstructOptions) -> SequenceOptions:
    """The policy that a user's choices ask for.

    Raises:
        UsageError: an option that films do not have.
    """
    if options.extra_points > 0:
        raise UsageError(
            "--extra-points needs all pictures at once; those in order are read a few at a time.",
            "Leave it out, or add --no-sequential.",
        )
    usual = SequenceOptions()
    points = usual.keyframes.points // 2 if options.preset == "fast" else usual.keyframes.points
    return dataclasses.replace(
        usual,
        keyframes=dataclasses.replace(usual.keyframes, points=options.query_points or points),
        refine_principal_point=options.refine_principal_point == "yes",
        precision=options.precision,
        seed=options.seed,
    )
