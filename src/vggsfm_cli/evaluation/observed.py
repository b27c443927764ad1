"""What a tracker sees in a scene and what it finds in a pair of frames: common to all kinds of truth."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.evaluation.starts import MATCHERS
from vggsfm_cli.scene import VISIBLE, ImageSet, Queries, Tracks
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking.features import FeatureMaps, select_keypoints
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.starts import StartConfig

KINDS = ("tracks", *MATCHERS)
"""What is measured: visible tracks, and the matches of features that they compete with."""

MIN_KEYPOINTS = 16
"""A frame with fewer starts no tracks."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What both kinds of scenes have in common."""

    query_frames: int = 4  # frames that start tracks, spread evenly over the scene
    queries: int = 2048  # key points of each frame
    min_visibility: float = VISIBLE  # a track above this is visible
    kinds: tuple[str, ...] = KINDS


@contextmanager
def inference(tracker: PointTracker) -> Iterator[None]:
    """No gradients, evaluation mode, one thread an operation; the tracker is left as it was."""
    training = tracker.training
    tracker.eval()
    try:
        with torch.no_grad(), one_thread_each():
            yield
    finally:
        tracker.train(training)


def device_of(tracker: PointTracker) -> torch.device:
    """Where a tracker's weights are; the CPU if it has none."""
    return next((parameter.device for parameter in tracker.parameters()), torch.device("cpu"))


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenScene:
    """One scene (B = 1) as a tracker sees it."""

    images: ImageSet
    features: FeatureMaps
    keypoints: tuple[Float[Tensor, "_ 2"], ...]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.images.pixels.shape[1]


def look(tracker: PointTracker, images: ImageSet, config: PairConfig) -> SeenScene:
    """Features and key points of all frames, the latter chosen as for a reconstruction."""
    features: FeatureMaps = tracker.encode(images)
    choice = QueryConfig()
    keypoints = tuple(
        select_keypoints(score, config.queries, radius=choice.nms_radius_px, threshold=choice.min_score)
        for score in features.keypoint_score[0]
    )
    return SeenScene(images=images, features=features, keypoints=keypoints)


def query_frames(scene: SeenScene, count: int) -> list[int]:
    """At most ``count`` frames to start from, spread evenly over those with key points enough to have neighbours."""
    able = [s for s in range(scene.frames) if len(scene.keypoints[s]) >= MIN_KEYPOINTS]
    return [able[i] for i in spread(len(able), count)]


def queries_from(scene: SeenScene, source: int) -> Queries:
    """All key points of one frame."""
    xy = scene.keypoints[source][None]
    frame = torch.full(xy.shape[:2], source, device=xy.device)
    return Queries(frame=frame, xy=xy, valid=torch.ones_like(frame, dtype=torch.bool))


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Key points of one frame that one kind found in another frame: which, and the stored pixels there."""

    kind: str
    target: int
    query: Tensor
    xy: Float[Tensor, "M 2"]


def find(
    tracker: PointTracker, scene: SeenScene, tracks: Tracks, source: int, targets: Sequence[int], config: PairConfig
) -> Iterator[Found]:
    """Everything found of one query frame in other frames."""
    visible = tracks.visible(config.min_visibility)
    start = getattr(getattr(tracker, "config", None), "start", None)
    start = start if isinstance(start, StartConfig) else StartConfig()
    for target in targets:
        for kind in config.kinds:
            if kind == "tracks":
                query = visible[0, target].nonzero().squeeze(-1)
                yield Found(kind=kind, target=target, query=query, xy=tracks.xy[0, target, query])
                continue
            matches = MATCHERS[kind](
                scene.features, 0, source, target, scene.keypoints[source], scene.keypoints[target], start
            )
            xy = to_stored(scene.images, target, matches.xy)
            yield Found(kind=kind, target=target, query=matches.query, xy=xy)


def to_stored(images: ImageSet, s: int, xy: Float[Tensor, "M 2"]) -> Float[Tensor, "M 2"]:
    """Network pixels of frame ``s`` of scene 0 as stored pixels."""
    matrix = images.stored_from_network[0, s]
    return xy @ matrix[:, :2].mT.to(xy.dtype) + matrix[:, 2].to(xy.dtype)


def spread(total: int, count: int) -> list[int]:
    """At most ``count`` of ``total`` places, evenly spaced."""
    count = min(count, total)
    return [round((i + 0.5) * total / count - 0.5) for i in range(count)]
