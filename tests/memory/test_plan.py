"""Memory is planned before it is used: what was measured is bounded, and what does not fit is said."""

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.memory.plan import Need, Plan, Size, plan_within, weight_bytes
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.nn.dinov2 import DINOv2Config
from vggsfm_cli.recipes import small
from vggsfm_cli.recipes.v2 import memory as v2_memory
from vggsfm_cli.recipes.v2.cameras import V2CameraPredictorConfig
from vggsfm_cli.recipes.v2.iterative import FINE, IterativeTrackerConfig
from vggsfm_cli.recipes.v2.tracker import V2TrackerConfig
from vggsfm_cli.recipes.v2.transformer import UpdateTransformerConfig
from vggsfm_cli.recipes.v2.weights import V2

SMALL = VGGSfMConfig()
WIDE = dataclasses.replace(
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

SIZE = Size(frames=10, pixels=1024 * 768, stored_pixels=4000 * 3000, queries=1024, at_once=2, workers=2)


@cache
def weights(config: VGGSfMConfig) -> int:
    with torch.device("meta"):
        return weight_bytes(config.build())


def need(size: Size, config: VGGSfMConfig) -> Need:
    """As the recipe of the model says it."""
    if config.recipe == "v2":
        return Need(size=size, parts=lambda plan: v2_memory.memory_parts(size, config, plan), weights=weights(config))
    return Need(size=size, parts=lambda plan: small.memory_parts(size, plan), weights=weights(config))


def estimate(size: Size, config: VGGSfMConfig, plan: Plan) -> int:
    return need(size, config).estimate(plan)


def plans() -> Iterator[Plan]:
    plan: Plan | None = SIZE.largest_plan()
    while plan is not None:
        yield plan
        plan = plan.halved()


PLANS = list(plans())

MEASURED = [
    # frames, pixels, queries, pairs at once, side by side, threads, peak in MiB
    (SMALL, 4, 512 * 384, 512, (2048, 1, 2), 543),
    (SMALL, 16, 512 * 384, 512, (2048, 2, 2), 747),
    (SMALL, 16, 512 * 384, 512, (512, 1, 1), 628),
    (SMALL, 16, 1024 * 768, 1024, (2048, 2, 2), 1210),
    (WIDE, 2, 256**2, 64, (2048, 1, 2), 667),
    (WIDE, 4, 512**2, 256, (2048, 1, 2), 1127),
    (WIDE, 8, 256**2, 256, (256, 1, 2), 842),
    (WIDE, 8, 256**2, 256, (2048, 1, 2), 1208),
]
"""Resident set of a process that tracks photographs of the reading corner: small from three frames of
them, v2 from one."""


@pytest.mark.parametrize("run", MEASURED)
def test_what_was_measured_is_bounded(run: Any) -> None:
    config, frames, pixels, queries, (pairs, side_by_side, threads), peak_mb = run
    plan = Plan(pairs_at_once=pairs, side_by_side=side_by_side, threads=threads)
    size = Size(frames=frames, pixels=pixels, stored_pixels=1024 * 768, queries=queries, query_frames=3)
    assert peak_mb * 2**20 <= estimate(size, config, plan) <= 1.5 * peak_mb * 2**20


@pytest.mark.parametrize("config", [SMALL, V2, WIDE])
def test_smaller_plans_take_less(config: VGGSfMConfig) -> None:
    assert PLANS[0] == Plan(pairs_at_once=2048, side_by_side=2, threads=2)
    assert PLANS[-1] == Plan(pairs_at_once=64)
    sizes = [estimate(SIZE, config, plan) for plan in PLANS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.05 * sizes[-1]
    for name in ("frames", "pixels", "queries"):
        larger = dataclasses.replace(SIZE, **{name: 2 * getattr(SIZE, name)})
        assert estimate(larger, config, Plan()) > estimate(SIZE, config, Plan()), name


@pytest.mark.parametrize("config", [SMALL, V2])
def test_the_largest_plan_that_fits_is_taken(config: VGGSfMConfig) -> None:
    assert plan_within(need(SIZE, config), 10**12, "--max-memory") == PLANS[0]
    sizes = [estimate(SIZE, config, plan) for plan in PLANS]
    for limit in sizes:
        expected = next(plan for plan, needed in zip(PLANS, sizes, strict=True) if needed <= limit)
        assert plan_within(need(SIZE, config), limit, "--max-memory") == expected
    smallest = sizes[-1]
    said = r"10 images with 1024 tracks a frame need about \d+\.\d\d GB .* more than the \d+\.\d\d GB of free memory"
    with pytest.raises(NotEnoughMemory, match=said) as caught:
        plan_within(need(SIZE, config), smallest - 1, "free memory")
    assert caught.value.exit_code == 7
    assert "--max-memory" in caught.value.hint


def test_an_accelerator_gets_large_pieces_and_no_threads() -> None:
    size = dataclasses.replace(SIZE, frames=100, in_process=False)
    assert size.largest_plan() == Plan(pairs_at_once=2**17)
    assert estimate(size, V2, Plan()) < estimate(
        dataclasses.replace(size, in_process=True), V2, Plan()
    )  # the libraries' code lies elsewhere
    limit = estimate(size, V2, Plan(pairs_at_once=2**14))
    assert plan_within(need(size, V2), limit, "free memory").pairs_at_once == 2**14


def test_a_plan_is_said_in_words() -> None:
    assert str(SIZE.largest_plan()) == "2048 observations at once, 2 frames at a time, 2 threads"
    assert str(Plan(pairs_at_once=64)) == "64 observations at once"
