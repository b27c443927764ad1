"""Values of the schedule at places where they are known."""

import itertools
import math

import pytest

from vggsfm_cli.training.schedule import Schedule, average_decay, learning_rate


def rate(step: int, schedule: Schedule, warmup_steps: int = 10) -> float:
    return learning_rate(step, peak=2.0, steps=110, warmup_steps=warmup_steps, schedule=schedule, final_fraction=0.1)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warmup_is_a_line_that_ends_at_the_peak(schedule: Schedule) -> None:
    assert [rate(step, schedule) for step in range(10)] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rate(0, "constant", warmup_steps=0) == 2.0


def test_cosine() -> None:
    assert rate(59, "cosine") == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert rate(34, "cosine") == pytest.approx(2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert rate(109, "cosine") == pytest.approx(0.2) and rate(500, "cosine") == pytest.approx(0.2)
    falling = [rate(step, "cosine") for step in range(9, 110)]
    assert all(a > b for a, b in itertools.pairwise(falling))


def test_constant() -> None:
    assert {rate(step, "constant") for step in range(10, 500)} == {2.0}


def test_the_first_weights_are_soon_forgotten() -> None:
    assert average_decay(0, 0.999) == 0.1
    assert average_decay(10**6, 0.999) == 0.999
    share_of_the_first = math.prod(average_decay(updates, 0.999) for updates in range(100))
    assert share_of_the_first < 1e-9
