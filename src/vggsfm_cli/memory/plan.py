"""In which pieces networks and tracks fit in the memory there may be: estimated before anything is computed.

The factors were measured on the CPU. What is estimated grows with the images and the tracks; the adjustment of cameras
and points, which comes after it, is not part of it.
"""

import dataclasses
from dataclasses import dataclass
from functools import cache

import torch

from vggsfm_cli.camera_estimation.v2 import V2CameraPredictorConfig
from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.io.photographs import halvings_of
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.scene import ImageSet
from vggsfm_cli.threads import available_cores
from vggsfm_cli.tracking.v2.patches import PAIRS_PER_PATCH
from vggsfm_cli.tracking.v2.tracker import V2TrackerConfig

GB = 10**9
PROCESS_BYTES = 420_000_000
"""Python, torch and the other libraries, on the CPU; on CUDA their code is not in the memory that is planned."""

SMALLEST_PIECE = 64
"""Observations; fewer save nothing worth the time."""

ENOUGH = 512
"""Observations; with fewer at once the time grows, so that other things are given up first."""

ON_CPU, ON_ACCELERATOR = 2048, 2**17
"""Observations of the largest pieces: more do not fit a processor's cache, fewer leave an accelerator idle."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pieces.

    Attributes:
        pairs_at_once: observations, a track in a frame each, that go through a layer together.
        side_by_side: frames whose tracks are followed at the same time; v2 always follows those of one.
        threads: pieces computed at the same time.
    """

    pairs_at_once: int = ON_CPU
    side_by_side: int = 1
    threads: int = 1

    def halved(self) -> "Plan | None":
        """The next smaller plan; None if this is the smallest."""
        if self.pairs_at_once > ENOUGH:
            return dataclasses.replace(self, pairs_at_once=self.pairs_at_once // 2)
        if self.side_by_side > 1:
            return dataclasses.replace(self, side_by_side=self.side_by_side // 2)
        if self.threads > 1:
            return dataclasses.replace(self, threads=self.threads // 2)
        if self.pairs_at_once > SMALLEST_PIECE:
            return dataclasses.replace(self, pairs_at_once=self.pairs_at_once // 2)
        return None

    def __str__(self) -> str:
        frames = f", {self.side_by_side} frames at a time" if self.side_by_side > 1 else ""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.pairs_at_once} observations at once{frames}{threads}"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the memory of a reconstruction depends on.

    Attributes:
        frames: number of images.
        pixels: of one picture as the networks see it.
        stored_pixels: of one file as it is looked at, the largest.
        queries: tracks that a frame starts or carries on.
        query_frames: at most so many frames start tracks.
        at_once: frames that start tracks at the same time, where the plan allows it.
        workers: threads there are.
        in_process: whether the memory is that of the process, and not that of an accelerator.
    """

    frames: int
    pixels: int
    stored_pixels: int
    queries: int
    query_frames: int = 50
    at_once: int = 1
    workers: int = 1
    in_process: bool = True

    def largest_plan(self) -> Plan:
        """The pieces that are fastest, if there is memory enough."""
        if not self.in_process:
            return Plan(pairs_at_once=ON_ACCELERATOR)
        return Plan(pairs_at_once=ON_CPU, side_by_side=min(self.at_once, self.workers), threads=self.workers)


def size_of(
    images: ImageSet, config: VGGSfMConfig, *, queries: int, query_frames: int, at_once: int, side_px: int
) -> Size:
    """The size of a reconstruction of one scene (B = 1).

    Args:
        images: where the networks will run.
        config: of the model.
        queries: tracks that a frame starts or carries on.
        query_frames: at most so many frames start tracks.
        at_once: frames that start tracks at the same time.
        side_px: of the squares that v2 sees.
    """
    on_cpu = images.pixels.device.type == "cpu"
    height, width = images.pixels.shape[-2:]
    return Size(
        frames=images.pixels.shape[1],
        pixels=side_px**2 if isinstance(config.tracker, V2TrackerConfig) else height * width,
        stored_pixels=max(
            width * height >> 2 * halvings_of(width, height, max(images.pixels.shape[-2:]))
            for width, height in images.stored_size[0].tolist()
        ),
        queries=queries,
        query_frames=query_frames,
        at_once=at_once,
        workers=available_cores() if on_cpu else 1,
        in_process=on_cpu,
    )


def estimate(size: Size, config: VGGSfMConfig, plan: Plan) -> int:
    """Bytes at the peak of the networks and the tracks, what the process itself takes included."""
    parts = _v2(size, config, plan) if isinstance(config.tracker, V2TrackerConfig) else _small(size, plan)
    return round(sum(parts.values()) + _weights(config) + (PROCESS_BYTES if size.in_process else 0))


@cache
def _weights(config: VGGSfMConfig) -> int:
    with torch.device("meta"):
        model = config.build()
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _small(size: Size, plan: Plan) -> dict[str, int | float]:
    pairs, at_once = size.frames * size.queries, plan.side_by_side
    workers = plan.threads if at_once == 1 else at_once
    aligned = min(size.stored_pixels, 4 * size.pixels)  # of a file, after what is finer was halved
    return {
        # colours, mask, descriptors, scores; brightness of the files
        "pictures": size.frames * (21 * size.pixels + 6 * aligned),
        "encoder": plan.threads * max(130 * size.pixels, 20 * size.stored_pixels),
        "search": workers * 512 * size.pixels / 64 * 8,
        "templates": at_once * 30_000 * size.queries,
        "pieces": workers * 40_000 * min(plan.pairs_at_once, size.queries),
        "evidence": at_once * 5_000 * pairs,
        "tracks": 28 * min(size.frames, size.query_frames) * pairs,
    }


def _v2(size: Size, config: VGGSfMConfig, plan: Plan) -> dict[str, int | float]:
    tracker, predictor = config.tracker, config.camera_estimator
    assert isinstance(tracker, V2TrackerConfig)
    pairs = size.frames * size.queries
    looking = 0.0
    if isinstance(predictor, V2CameraPredictorConfig):
        token = 4 * predictor.backbone.width
        tokens = (predictor.side_px / predictor.backbone.patch) ** 2
        together = plan.threads if size.in_process else min(8, size.frames)
        looking = token * tokens * (14 * size.frames + 16 * together)
    encoding = 350 * size.pixels * plan.threads
    following = (
        pairs * 4 * 8 * tracker.coarse.transformer.width
        + 440_000 * min(max(plan.pairs_at_once // PAIRS_PER_PATCH, size.frames) * plan.threads, pairs)  # patches
        + 40_000 * min(max(plan.pairs_at_once, size.frames) * plan.threads, pairs)
        + plan.threads * min(100_000 * plan.pairs_at_once, 80_000_000)  # cells read at once for the correlation
    )
    return {
        "pictures": size.frames * 2 * 13 * size.pixels,
        "features": size.frames * size.pixels / 64 * tracker.coarse.channels * 4 * 2.4,
        "tracks": 56 * size.query_frames * pairs,
        # one after the other; but a process keeps what threads have freed, each for itself
        "networks": max(looking, encoding) + following if size.in_process else max(looking, encoding, following),
    }


def plan_within(size: Size, config: VGGSfMConfig, limit_bytes: int, limit_name: str) -> Plan:
    """The largest pieces that fit.

    Raises:
        NotEnoughMemory: the smallest pieces do not; ``limit_name`` says what is too little.
    """
    plan = size.largest_plan()
    while estimate(size, config, plan) > limit_bytes:
        smaller = plan.halved()
        if smaller is None:
            needed = estimate(size, config, plan) / GB
            raise NotEnoughMemory(
                f"{size.frames} images with {size.queries} tracks a frame need about {needed:.2f} GB even in the "
                f"smallest pieces, more than the {limit_bytes / GB:.2f} GB of {limit_name}.",
                "Take fewer images, a smaller --long-side or fewer --query-points; "
                f"--max-memory {needed + 0.1:.1f} tries it all the same.",
            )
        plan = smaller
    return plan
