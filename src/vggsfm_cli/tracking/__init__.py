"""Stage 1: images to tracks."""

from vggsfm_cli.tracking.evidence import Evidence, LogOddsConfig, Verdict
from vggsfm_cli.tracking.features import STRIDE, DenseEncoder, FeatureMaps, select_keypoints
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.masks import inside_mask
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds
from vggsfm_cli.tracking.starts import StartConfig, find_starts, nearest, peaks
from vggsfm_cli.tracking.tracker import CoarseToFineTracker, CoarseToFineTrackerConfig
from vggsfm_cli.tracking.transformer import TrackTransformerConfig
from vggsfm_cli.tracking.xfeat import published_state, xfeat_state

__all__ = [
    "STRIDE",
    "CoarseToFineTracker",
    "CoarseToFineTrackerConfig",
    "DenseEncoder",
    "Evidence",
    "FeatureMaps",
    "LogOddsConfig",
    "PointTracker",
    "QueryConfig",
    "RoundsConfig",
    "StartConfig",
    "TrackTransformerConfig",
    "Verdict",
    "find_starts",
    "inside_mask",
    "nearest",
    "peaks",
    "published_state",
    "select_keypoints",
    "track_in_rounds",
    "xfeat_state",
]
