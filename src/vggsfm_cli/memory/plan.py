"""In which pieces networks and tracks fit in the memory there may be: estimated before anything is computed.

Each recipe says what its parts take. What is estimated grows with the images and the tracks; the adjustment of cameras
and points, which comes after it, is not part of it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.io.photographs import halvings_of
from vggsfm_cli.scene import ImageSet
from vggsfm_cli.threads import available_cores

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
        side_by_side: frames whose tracks are followed at the same time.
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


def size_of(images: ImageSet, *, queries: int, query_frames: int, at_once: int, pixels: int | None = None) -> Size:
    """The size of a reconstruction of one scene (B = 1).

    Args:
        images: where the networks will run.
        queries: tracks that a frame starts or carries on.
        query_frames: at most so many frames start tracks.
        at_once: frames that start tracks at the same time.
        pixels: of a picture as the networks see it; None if that is ``images.pixels``.
    """
    on_cpu = images.pixels.device.type == "cpu"
    height, width = images.pixels.shape[-2:]
    return Size(
        frames=images.pixels.shape[1],
        pixels=height * width if pixels is None else pixels,
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


def weight_bytes(model: nn.Module) -> int:
    """What the weights of a model take."""
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


@dataclass(frozen=True, kw_only=True)
class Need:
    """What the networks and the tracks of one scene take.

    Attributes:
        size: of the scene.
        parts: bytes of each part at the peak, by the pieces.
        weights: bytes.
    """

    size: Size
    parts: Callable[[Plan], Mapping[str, float]]
    weights: int

    def estimate(self, plan: Plan) -> int:
        """Bytes at the peak, what the process itself takes included."""
        process = PROCESS_BYTES if self.size.in_process else 0
        return round(sum(self.parts(plan).values()) + self.weights + process)


def plan_within(need: Need, limit_bytes: int, limit_name: str) -> Plan:
    """The largest pieces that fit.

    Raises:
        NotEnoughMemory: the smallest pieces do not; ``limit_name`` says what is too little.
    """
    size, plan = need.size, need.size.largest_plan()
    while need.estimate(plan) > limit_bytes:
        smaller = plan.halved()
        if smaller is None:
            needed = need.estimate(plan) / GB
            raise NotEnoughMemory(
                f"{size.frames} images with {size.queries} tracks a frame need about {needed:.2f} GB even in the "
                f"smallest pieces, more than the {limit_bytes / GB:.2f} GB of {limit_name}.",
                "Take fewer images, a smaller --long-side or fewer --query-points; "
                f"--max-memory {needed + 0.1:.1f} tries it all the same.",
            )
        plan = smaller
    return plan
