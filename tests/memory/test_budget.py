"""Running out of memory is no end, unless the smallest pieces do."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from worlds import WorldConfig, blank_images, make_world

from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.memory.budget import Budget, FrugalTracker
from vggsfm_cli.memory.plan import Need, Plan, Size
from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.threads import available_cores, map_threads
from vggsfm_cli.tracking.interface import PointTracker


def failing_allocation() -> BaseException:
    """What torch raises when the system has no memory for it."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    return caught.value


OUT_OF_MEMORY: list[Callable[[], BaseException]] = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory."),
    failing_allocation,
]


class Greedy(PointTracker):
    """Runs out of memory as long as its pieces are larger than what fits."""

    def __init__(self, fits: int, error: Callable[[], BaseException] = MemoryError, pairs_at_once: int = 0) -> None:
        super().__init__()
        self.fits, self.error, self.pairs_at_once = fits, error, pairs_at_once

    def in_pieces(self, pairs_at_once: int) -> "Greedy":
        return Greedy(self.fits, self.error, pairs_at_once)

    def encode(self, images: ImageSet) -> int:
        if available_cores() > 1:
            raise self.error()
        return available_cores()

    def forward(self, images: ImageSet, queries: Queries, features: Any = None) -> Tracks:
        if self.pairs_at_once > self.fits:
            raise self.error()
        frames, count = images.pixels.shape[1], queries.xy.shape[1]
        return Tracks(
            xy=torch.full((1, frames, count, 2), float(self.pairs_at_once)),
            visibility=torch.ones(1, frames, count),
            covariance=torch.eye(2).expand(1, frames, count, 2, 2),
            query_frame=queries.frame,
            valid=queries.valid,
        )


def budget(plan: Plan) -> Budget:
    return Budget(plan, 10**9, "--max-memory", 10**8)


@pytest.fixture
def scene() -> tuple[ImageSet, Queries]:
    images = blank_images(make_world(WorldConfig(points=50, frames=3), 0), scale=32.0)
    queries = Queries(
        frame=torch.zeros(1, 4, dtype=torch.long), xy=torch.ones(1, 4, 2), valid=torch.ones(1, 4, dtype=torch.bool)
    )
    return images, queries


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_and_goes_on_in_the_open(
    error: Callable[[], BaseException], scene: tuple[ImageSet, Queries], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = FrugalTracker(Greedy(600, error), budget(Plan(side_by_side=2)))
    assert tracker(*scene).xy.unique().tolist() == [512]
    assert dataclasses.asdict(tracker.budget.use()) == {
        "limit": "--max-memory",
        "limit_gb": 1.0,
        "planned_gb": 0.1,
        "pairs_at_once": 512,
        "side_by_side": 1,
        "threads": 1,
        "out_of_memory": 2,
    }
    assert [record.getMessage() for record in caplog.records] == [
        f"Out of memory; going on with {pairs} observations at once." for pairs in (1024, 512)
    ]
    assert tracker(*scene).xy.unique().tolist() == [512]  # later rounds start there
    assert tracker.budget.halvings == 2


def test_fewer_frames_are_encoded_side_by_side(
    scene: tuple[ImageSet, Queries], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vggsfm_cli.threads._limit", 2)
    tracker = FrugalTracker(Greedy(64), budget(Plan(pairs_at_once=512, threads=2)))
    assert tracker.encode(scene[0]) == 1
    assert tracker.budget.plan == Plan(pairs_at_once=512, threads=1)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_the_smallest_pieces_end_it(error: Callable[[], BaseException], scene: tuple[ImageSet, Queries]) -> None:
    tracker = FrugalTracker(Greedy(63, error), budget(Plan()))
    with pytest.raises(NotEnoughMemory, match="even with 64 observations") as caught:
        tracker(*scene)
    assert caught.value.exit_code == 7 and "fewer images" in caught.value.hint


def test_other_errors_are_left_alone() -> None:
    def wrong(plan: Plan) -> None:
        raise RuntimeError("shapes")

    mine = budget(Plan())
    with pytest.raises(RuntimeError, match="shapes"):
        mine.run(wrong)
    assert mine.halvings == 0


def test_frames_followed_side_by_side_halve_once_and_then_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = budget(Plan(pairs_at_once=2048, side_by_side=2, threads=2))
    both, inside, most = threading.Barrier(2), [0], [0]

    def work(plan: Plan) -> int:
        if plan.side_by_side > 1:
            both.wait(timeout=20)
            raise MemoryError
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.02)
        inside[0] -= 1
        return plan.pairs_at_once

    monkeypatch.setattr("vggsfm_cli.threads.available_cores", lambda: 2)
    assert list(map_threads(lambda _: mine.run(work), range(2))) == [1024, 1024]
    assert mine.halvings == 1 and most[0] == 1


def test_the_limit_is_what_was_asked_for_or_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(frames=4, pixels=512**2, stored_pixels=512**2, queries=64, workers=2)
    device, need = torch.device("cpu"), Need(size=size, parts=lambda _: {"all": 10**8}, weights=10**6)
    asked = Budget.make(need, device, 2.0)
    assert (asked.limit_bytes, asked.limit_name) == (2 * 10**9, "--max-memory")
    assert "of 2.0 GB (--max-memory): 2048 observations at once, 2 threads" in str(asked)
    monkeypatch.setattr("vggsfm_cli.memory.budget.usable_bytes", lambda _: 3 * 10**9)
    found = Budget.make(need, device, None)
    assert (found.limit_bytes, found.limit_name) == (3 * 10**9, "free memory")
    monkeypatch.setattr("vggsfm_cli.memory.budget.usable_bytes", lambda _: 10**6)
    with pytest.raises(NotEnoughMemory, match="free memory"):
        Budget.make(need, device, None)
    monkeypatch.setattr("vggsfm_cli.memory.budget.usable_bytes", lambda _: None)
    assert Budget.make(need, device, None).use().limit_gb is None
