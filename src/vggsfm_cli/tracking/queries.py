"""Where tracks start: key points of a frame that no track covers yet, and tracks that may be carried on from there."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.tracking.features import FeatureMaps, select_keypoints


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """Settings of the choice of queries."""

    points_per_frame: int = 1024  # queries a frame starts at most, new and carried on
    max_carried: int = 512  # of them, before any new one
    enough_tracks: int = 1500  # a frame starts no more new tracks than it lacks to see so many
    nms_radius_px: int = 2  # network pixels
    min_score: float = 0.01


def first_frame(features: FeatureMaps) -> int:
    """The frame most like all others by its mean descriptor: the one that can be expected to overlap with most."""
    pooled = torch.nn.functional.normalize(features.descriptors[0].flatten(2).mean(-1), dim=-1)
    return int((pooled @ pooled.T).sum(-1).argmax())


def choose_queries(
    features: FeatureMaps,
    frame: int,
    covered: Float[Tensor, "T 2"],
    views: Int[Tensor, " T"],
    complete: Bool[Tensor, " T"],
    config: QueryConfig,
) -> tuple[Float[Tensor, "Q 2"], Int[Tensor, " E"]]:
    """Queries of one frame.

    Args:
        features: of all frames.
        frame: the query frame.
        covered: network pixels where existing tracks are seen in this frame.
        views: number of frames that see each of them.
        complete: those that are seen in every frame.
        config: settings.

    Returns:
        new: positions of new queries.
        carried: indices into ``covered`` of the tracks to carry on, those with fewest views first.
    """
    order = views.argsort(stable=True)
    carried = order[~complete[order]][: config.max_carried]
    wanted = min(config.points_per_frame - len(carried), max(config.enough_tracks - len(covered), 0))
    score = features.keypoint_score[0, frame]
    new = select_keypoints(score, wanted, radius=config.nms_radius_px, threshold=config.min_score, taken=covered)
    return new, carried
