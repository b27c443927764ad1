"""Inference policy of VGGSfM v2's tracker: from which frames to track, and from where in them.

What differs from the published code, on purpose:

- A frame is poorly seen when it sees fewer tracks than a share of the queries a frame starts, the published 500 of
  2048, so that runs with fewer queries end as well.
- The last trial takes every frame that is still poorly seen, with key points of a second kind.
- Key points are never chosen where the mask says no, whatever finds them.
- Tracks that only one frame sees are dropped at once.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.recipes.v2.keypoints import KeypointDetector, SiftDetector
from vggsfm_cli.recipes.v2.ranking import middle_first, rank, similarity
from vggsfm_cli.scene import ImageSet, Progress, ProgressCallback, Queries, Tracks, silent
from vggsfm_cli.tracking.interface import PointTracker


@dataclass(frozen=True, kw_only=True)
class V2RoundsConfig:
    """Settings; the published values."""

    points_per_frame: int = 2048
    query_frames: int = 3
    ranking: Literal["similarity", "middle"] = "similarity"  # middle: for videos
    min_visibility: float = 0.05
    well_seen: float = 500 / 2048  # tracks a frame should see, in queries of a frame
    complement: bool = True  # track from frames that see fewer


def frame_order(tokens: Float[Tensor, "S P D"], frames: list[int], config: V2RoundsConfig) -> list[int]:
    """The frames in the order they should start tracks.

    Args:
        tokens: of DINOv2, of all frames.
        frames: those that are no padding.
        config: says how.
    """
    if config.ranking == "middle":
        return [frames[i] for i in middle_first(len(frames))]
    return [frames[i] for i in rank(similarity(tokens[frames].float()))]


@torch.no_grad()
def track_from_frames(
    tracker: PointTracker,
    images: ImageSet,
    order: list[int],
    detector: KeypointDetector,
    config: V2RoundsConfig,
    precision: torch.dtype = torch.float32,
    progress: ProgressCallback = silent,
) -> Tracks:
    """Tracks through one scene (B = 1), from the first frames of ``order`` and from those that see too few of them.

    Args:
        tracker: stage 1.
        images: squares.
        order: frames, the best to start from first.
        detector: finds where tracks start.
        config: policy.
        precision: of the tracker; its feature maps are float32.
        progress: told what is done.
    """
    run = _Run(tracker, images, config, precision, progress)
    for frame in order[: config.query_frames]:
        run.track(frame, detector, config.points_per_frame)
    tried = -1
    while config.complement and (poor := run.poorly_seen()):
        if poor[0] == tried:
            for frame in poor:
                for kind in (detector, SiftDetector()):
                    run.track(frame, kind, config.points_per_frame // 2)
            break
        tried = poor[0]
        run.track(tried, detector, config.points_per_frame)
    return run.tracks()


class _Run:
    """The tracks so far."""

    def __init__(
        self,
        tracker: PointTracker,
        images: ImageSet,
        config: V2RoundsConfig,
        precision: torch.dtype,
        progress: ProgressCallback,
    ) -> None:
        self.tracker, self.images, self.config, self.precision, self.progress = (
            tracker, images, config, precision, progress,
        )  # fmt: skip
        progress(Progress(stage="features", done=0, total=1))
        self.features: Any = tracker.encode(images)
        progress(Progress(stage="features", done=1, total=1))
        self.rounds: list[Tracks] = []

    def track(self, frame: int, detector: KeypointDetector, count: int) -> None:
        """Track from one frame."""
        total = max(self.config.query_frames, len(self.rounds) + 1)
        self.progress(Progress(stage="tracks", done=len(self.rounds), total=total, detail=self.images.names[0][frame]))
        xy = detector(self.images.pixels[0, frame], self.images.mask[0, frame], count)
        if len(xy) == 0:
            return
        queries = Queries(
            frame=torch.full((1, len(xy)), frame, device=xy.device),
            xy=xy[None],
            valid=torch.ones(1, len(xy), dtype=torch.bool, device=xy.device),
        )
        device = xy.device.type
        with torch.autocast(device, dtype=self.precision, enabled=self.precision != torch.float32):
            self.rounds.append(self.tracker(self.images, queries, self.features))

    def poorly_seen(self) -> list[int]:
        """Frames that see too few tracks, in their own order."""
        count = torch.zeros(self.images.frame_valid.shape[1], dtype=torch.long, device=self.images.pixels.device)
        for tracks in self.rounds:
            count += tracks.visible(self.config.min_visibility)[0].sum(-1)
        needed = self.config.well_seen * self.config.points_per_frame
        return ((count < needed) & self.images.frame_valid[0]).nonzero().flatten().tolist()

    def tracks(self) -> Tracks:
        """All that at least two frames see."""
        total = len(self.rounds)
        self.progress(Progress(stage="tracks", done=total, total=total))
        if not self.rounds:
            return self._nothing()
        seen = [tracks.visible(self.config.min_visibility)[0].sum(0) >= 2 for tracks in self.rounds]  # noqa: PLR2004
        return Tracks(
            xy=torch.cat([t.xy[:, :, keep] for t, keep in zip(self.rounds, seen, strict=True)], 2),
            visibility=torch.cat([t.visibility[:, :, keep] for t, keep in zip(self.rounds, seen, strict=True)], 2),
            covariance=torch.cat([t.covariance[:, :, keep] for t, keep in zip(self.rounds, seen, strict=True)], 2),
            query_frame=torch.cat([t.query_frame[:, keep] for t, keep in zip(self.rounds, seen, strict=True)], 1),
            valid=torch.cat([t.valid[:, keep] for t, keep in zip(self.rounds, seen, strict=True)], 1),
        )

    def _nothing(self) -> Tracks:
        like, frames = self.images.pixels, self.images.pixels.shape[1]
        return Tracks(
            xy=like.new_zeros(1, frames, 0, 2),
            visibility=like.new_zeros(1, frames, 0),
            covariance=like.new_zeros(1, frames, 0, 2, 2),
            query_frame=torch.zeros(1, 0, dtype=torch.long, device=like.device),
            valid=torch.zeros(1, 0, dtype=torch.bool, device=like.device),
        )
