"""How much memory a reconstruction takes, and in which pieces it computes so that there is enough.

Pieces are chosen before anything is computed, and halved where memory runs out all the same. The result is the same up
to the last bits, whatever the pieces.

What is estimated are the networks and the tracks, which grow with the images; the factors were measured on the CPU.
"""

import dataclasses
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vggsfm_cli.camera_estimation.v2 import V2CameraPredictorConfig
from vggsfm_cli.errors import NotEnoughMemory, is_out_of_memory
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.threads import available_cores
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.tracker import CoarseToFineTracker
from vggsfm_cli.tracking.transformer import TrackTransformer
from vggsfm_cli.tracking.v2.tracker import V2Tracker, V2TrackerConfig

logger = logging.getLogger(__name__)

GB = 10**9
PROCESS_BYTES = 450_000_000
"""Python, torch and the other libraries, on the CPU; on CUDA their code is not in the memory that is planned."""

SMALLEST_PIECE = 64
"""Observations; fewer save nothing worth the time."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pieces.

    Attributes:
        pairs_at_once: observations, a track in a frame each, that go through a layer together.
        side_by_side: frames whose tracks are followed at the same time; v2 always follows those of one.
    """

    pairs_at_once: int = 2048
    side_by_side: int = 2

    def halved(self) -> "Plan | None":
        """The next smaller plan; None if this is the smallest."""
        if self.side_by_side > 1:
            return dataclasses.replace(self, side_by_side=self.side_by_side // 2)
        if self.pairs_at_once > SMALLEST_PIECE:
            return dataclasses.replace(self, pairs_at_once=self.pairs_at_once // 2)
        return None


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the memory of a reconstruction depends on.

    Attributes:
        frames: number of images.
        pixels: of one picture as the networks see it.
        stored_pixels: of one file, the largest.
        queries: tracks that a frame starts.
        at_once: frames that start tracks at the same time, where the plan allows it.
        workers: threads that compute side by side.
        in_process: whether the memory is that of the process, and not that of an accelerator.
    """

    frames: int
    pixels: int
    stored_pixels: int
    queries: int
    at_once: int = 2
    workers: int = 1
    in_process: bool = True


def size_of(images: ImageSet, config: VGGSfMConfig, queries: int, at_once: int, side_px: int) -> Size:
    """The size of a reconstruction of one scene (B = 1).

    Args:
        images: where the networks will run.
        config: of the model.
        queries: tracks that a frame starts.
        at_once: frames that start tracks at the same time.
        side_px: of the squares that v2 sees.
    """
    on_cpu = images.pixels.device.type == "cpu"
    height, width = images.pixels.shape[-2:]
    return Size(
        frames=images.pixels.shape[1],
        pixels=side_px**2 if isinstance(config.tracker, V2TrackerConfig) else height * width,
        stored_pixels=int(images.stored_size[0].prod(-1).max()),
        queries=queries,
        at_once=at_once,
        workers=available_cores() if on_cpu else 1,
        in_process=on_cpu,
    )


def estimate(size: Size, config: VGGSfMConfig, plan: Plan) -> int:
    """Bytes at the peak of the networks and the tracks, what the process itself takes included."""
    parts = _v2(size, config, plan) if isinstance(config.tracker, V2TrackerConfig) else _small(size, plan)
    return round(sum(parts.values()) + _weights(config) + (PROCESS_BYTES if size.in_process else 0))


def _weights(config: VGGSfMConfig) -> int:
    with torch.device("meta"):
        model = config.build()
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _small(size: Size, plan: Plan) -> dict[str, int | float]:
    pairs = size.frames * size.queries
    side_by_side = min(plan.side_by_side, size.at_once, size.workers)
    rounds = min(size.frames, 50)
    return {
        # colours, mask, descriptors, scores; brightness of the files
        "pictures": size.frames * (21 * size.pixels + 6 * size.stored_pixels),
        "encoder": size.workers * max(130 * size.pixels, 20 * size.stored_pixels),
        "evidence": 14_000 * pairs * side_by_side,
        "alignment": 30_000 * size.queries * size.workers,
        "pieces": 40_000 * min(plan.pairs_at_once * size.workers, pairs * side_by_side),
        "tracks": 28 * rounds * pairs,
    }


def _v2(size: Size, config: VGGSfMConfig, plan: Plan) -> dict[str, int | float]:
    tracker, predictor = config.tracker, config.camera_estimator
    assert isinstance(tracker, V2TrackerConfig)
    pairs = size.frames * size.queries
    cells = size.pixels / 64
    piece = min(max(plan.pairs_at_once, size.frames), pairs)
    tokens = 0.0
    if isinstance(predictor, V2CameraPredictorConfig):
        patches = (predictor.side_px / predictor.backbone.patch) ** 2
        tokens = 4 * predictor.backbone.width * patches * size.frames * 20
    tracking = (
        900 * size.pixels  # the encoder, one frame at a time
        + pairs * (tracker.coarse.transformer.width * 4 * 8)
        + 130_000 * piece
        + 28 * 2 * 3 * pairs
    )
    return {
        "pictures": size.frames * (2 * 13 * size.pixels),
        "features": size.frames * cells * tracker.coarse.channels * 4 * 2.4,
        "cameras or tracks": max(tokens, tracking),  # one after the other
    }


def plan_within(size: Size, config: VGGSfMConfig, budget_bytes: int) -> Plan:
    """The largest pieces that fit.

    Raises:
        NotEnoughMemory: the smallest pieces do not.
    """
    plan: Plan | None = Plan()
    while plan is not None:
        if estimate(size, config, plan) <= budget_bytes:
            return plan
        smallest, plan = plan, plan.halved()
    needed = estimate(size, config, smallest)
    raise NotEnoughMemory(
        f"{size.frames} images with {size.queries} tracks a frame need about {needed / GB:.2f} GB even in the smallest "
        f"pieces, more than the {budget_bytes / GB:.2f} GB of --max-memory.",
        "Give more, or take fewer images, a smaller --long-side or fewer --query-points.",
    )


def sentence(size: Size, config: VGGSfMConfig, plan: Plan) -> str:
    """One line about what a plan takes."""
    kind = "memory" if size.in_process else "memory of the GPU"
    frames = "" if isinstance(config.tracker, V2TrackerConfig) else f", {plan.side_by_side} frames side by side"
    pieces = f"pieces of {plan.pairs_at_once} observations{frames}"
    return f"Networks and tracks take about {estimate(size, config, plan) / GB:.2f} GB of {kind}, in {pieces}."


class FrugalTracker(PointTracker):
    """A tracker that computes in the pieces of a plan, and in smaller ones when memory runs out."""

    def __init__(self, tracker: PointTracker, plan: Plan) -> None:
        super().__init__()
        self.tracker, self.plan, self.halvings = tracker, plan, 0
        self._alone = threading.Lock()
        set_pieces(tracker, plan.pairs_at_once)

    def encode(self, images: ImageSet) -> Any:
        """As the tracker does it, frame by frame."""
        return self.tracker.encode(images)

    def forward(self, images: ImageSet, queries: Queries, features: Any = None) -> Tracks:
        """As the tracker does it; what does not fit is computed again in pieces of half the size."""
        try:
            return self._track(images, queries, features)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        with self._alone:  # what is tried again runs one frame at a time
            while True:
                self._halve()
                try:
                    return self._track(images, queries, features)
                except Exception as error:
                    if not is_out_of_memory(error) or self.plan.halved() is None:
                        raise

    def _track(self, images: ImageSet, queries: Queries, features: Any) -> Tracks:
        tracks: Tracks = self.tracker(images, queries, features)
        return tracks

    def _halve(self) -> None:
        smaller = dataclasses.replace(self.plan, side_by_side=1).halved()
        if smaller is not None:
            self.plan, self.halvings = smaller, self.halvings + 1
            set_pieces(self.tracker, smaller.pairs_at_once)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("Out of memory: going on in pieces of %d observations.", self.plan.pairs_at_once)

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for the report."""
        return {**dataclasses.asdict(self.plan), "out_of_memory": self.halvings}


@contextmanager
def in_pieces(tracker: PointTracker, plan: Plan) -> Iterator[FrugalTracker]:
    """The tracker in the pieces of a plan; afterwards it has its own again."""
    before = pieces_of(tracker)
    try:
        yield FrugalTracker(tracker, plan)
    finally:
        if before is not None:
            set_pieces(tracker, before)


def pieces_of(tracker: PointTracker) -> int | None:
    """Observations that a tracker computes together; None for one that has no pieces."""
    if isinstance(tracker, V2Tracker):
        return tracker.config.pairs_at_once
    if isinstance(tracker, CoarseToFineTracker) and isinstance(tracker.judge, TrackTransformer):
        return tracker.judge.config.pairs_at_once
    return None


def set_pieces(tracker: PointTracker, pairs_at_once: int) -> None:
    """Have a tracker compute so many observations together; nothing happens to one that has no pieces."""
    if isinstance(tracker, V2Tracker):
        tracker.config = dataclasses.replace(tracker.config, pairs_at_once=pairs_at_once)
    elif isinstance(tracker, CoarseToFineTracker) and isinstance(tracker.judge, TrackTransformer):
        tracker.judge.config = dataclasses.replace(tracker.judge.config, pairs_at_once=pairs_at_once)
