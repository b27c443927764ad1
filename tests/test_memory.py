"""Memory is planned before it is used, and running out of it is no end."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vggsfm_cli.camera_estimation.v2 import V2CameraPredictorConfig
from vggsfm_cli.checkpoints.official_v2 import V2
from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.memory import Plan, Size, estimate, in_pieces, pieces_of, plan_within, sentence
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.nn.dinov2 import DINOv2Config
from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.synthetic.worlds import WorldConfig, blank_images, make_world
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.v2.iterative import FINE, IterativeTrackerConfig
from vggsfm_cli.tracking.v2.tracker import V2Tracker, V2TrackerConfig
from vggsfm_cli.tracking.v2.transformer import UpdateTransformerConfig

SMALL = VGGSfMConfig()
SHALLOW = dataclasses.replace(
    V2,
    tracker=V2TrackerConfig(
        coarse=IterativeTrackerConfig(iterations=1, transformer=UpdateTransformerConfig(blocks=1)),
        fine=dataclasses.replace(FINE, iterations=1, transformer=dataclasses.replace(FINE.transformer, blocks=1)),
    ),
    camera_estimator=V2CameraPredictorConfig(
        backbone=DINOv2Config(blocks=1), image_blocks=1, trunk_blocks=1, iterations=1
    ),
)
"""As wide as v2, so that only its weights take less."""

SIZE = Size(frames=10, pixels=1024 * 768, stored_pixels=4000 * 3000, queries=1024, workers=2)

MEASURED = [
    # frames, pixels, queries, frames at once, pairs at once, side by side, peak in MiB
    (SMALL, 4, 512 * 384, 512, 1, 2048, 2, 580),
    (SMALL, 16, 512 * 384, 512, 2, 2048, 2, 980),
    (SMALL, 4, 1024 * 768, 1024, 1, 2048, 2, 795),
    (SMALL, 16, 1024 * 768, 1024, 2, 2048, 2, 1291),
    (SMALL, 16, 1024 * 768, 1024, 1, 2048, 1, 1172),
    (SHALLOW, 2, 256**2, 64, 1, 2048, 2, 626),
    (SHALLOW, 4, 512**2, 128, 1, 512, 2, 712),
    (SHALLOW, 8, 256**2, 256, 1, 256, 2, 835),
    (SHALLOW, 8, 256**2, 256, 1, 2048, 2, 869),
]
"""Resident set of a process on two cores that tracks photographs of the reading corner, from three frames of them with
small and from one with v2."""


@pytest.mark.parametrize("run", MEASURED)
def test_what_was_measured_is_bounded(run: Any) -> None:
    config, frames, pixels, queries, at_once, pairs, side_by_side, peak_mb = run
    size = Size(frames=frames, pixels=pixels, stored_pixels=1024 * 768, queries=queries, at_once=at_once, workers=2)
    guess = estimate(size, config, Plan(pairs_at_once=pairs, side_by_side=side_by_side))
    assert peak_mb * 2**20 <= guess <= 1.5 * peak_mb * 2**20


@pytest.mark.parametrize("config", [SMALL, V2])
def test_smaller_plans_take_less(config: VGGSfMConfig) -> None:
    plan, sizes = Plan(), []
    while plan is not None:
        sizes.append(estimate(SIZE, config, plan))
        plan = plan.halved()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.05 * sizes[-1]
    assert estimate(dataclasses.replace(SIZE, frames=20), config, Plan()) > sizes[0]


@pytest.mark.parametrize("config", [SMALL, V2])
def test_the_largest_plan_that_fits_is_taken(config: VGGSfMConfig) -> None:
    assert plan_within(SIZE, config, 10**12) == Plan()
    smallest = Plan(pairs_at_once=64, side_by_side=1)
    needed = estimate(SIZE, config, smallest)
    assert plan_within(SIZE, config, needed) == smallest
    middle = Plan(pairs_at_once=512, side_by_side=1)
    assert plan_within(SIZE, config, estimate(SIZE, config, middle)) == middle
    with pytest.raises(NotEnoughMemory, match=r"10 images with 1024 tracks a frame need about \d+\.\d\d GB") as caught:
        plan_within(SIZE, config, needed - 1)
    assert caught.value.exit_code == 7
    assert "512 observations" in sentence(SIZE, config, middle)


class Greedy(PointTracker):
    """Runs out of memory a few times."""

    def __init__(self, errors: list[BaseException]) -> None:
        super().__init__()
        self.errors = errors

    def encode(self, images: ImageSet) -> None:
        return None

    def forward(self, images: ImageSet, queries: Queries, features: Any = None) -> Tracks:
        if self.errors:
            raise self.errors.pop()
        frames, count = images.pixels.shape[1], queries.xy.shape[1]
        return Tracks(
            xy=torch.zeros(1, frames, count, 2),
            visibility=torch.ones(1, frames, count),
            covariance=torch.eye(2).expand(1, frames, count, 2, 2),
            query_frame=queries.frame,
            valid=queries.valid,
        )


OUT_OF_MEMORY: list[Callable[[], BaseException]] = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory."),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
]


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
    with in_pieces(Greedy([error(), error()]), Plan()) as tracker:
        assert tracker(*scene).xy.shape[2] == 4
    assert tracker.as_dict() == {"pairs_at_once": 512, "side_by_side": 1, "out_of_memory": 2}
    assert [record.getMessage() for record in caplog.records] == [
        f"Out of memory: going on in pieces of {pairs} observations." for pairs in (1024, 512)
    ]


def test_the_smallest_pieces_and_other_errors_end_it(scene: tuple[ImageSet, Queries]) -> None:
    with in_pieces(Greedy([MemoryError() for _ in range(99)]), Plan()) as tracker, pytest.raises(MemoryError):
        tracker(*scene)
    assert tracker.plan.halved() is None
    with in_pieces(Greedy([RuntimeError("shapes")]), Plan()) as tracker, pytest.raises(RuntimeError, match="shapes"):
        tracker(*scene)
    assert tracker.halvings == 0


def test_a_model_keeps_its_own_pieces() -> None:
    with torch.device("meta"):
        model = V2.build()
    assert isinstance(model.tracker, V2Tracker)
    with in_pieces(model.tracker, Plan(pairs_at_once=128)):
        assert pieces_of(model.tracker) == 128
    assert pieces_of(model.tracker) == 2048
