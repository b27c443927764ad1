"""What changes with the step: learning rate and the decay of the averaged weights. Pure functions."""

import math
from typing import Literal

Schedule = Literal["cosine", "constant"]


def learning_rate(
    step: int, *, peak: float, steps: int, warmup_steps: int, schedule: Schedule, final_fraction: float
) -> float:
    """Learning rate of a step, counted from 0.

    It climbs in a line over ``warmup_steps``, reaching ``peak`` on the last of them; then stays (``constant``) or falls
    along half a cosine to ``final_fraction`` of the peak on the last step (``cosine``).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    done = min((step - warmup_steps + 1) / max(steps - warmup_steps, 1), 1.0)
    return peak * (final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * done)))


def average_decay(updates: int, decay: float) -> float:
    """Decay of the averaged weights after so many updates: small at first, so that early weights are soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates))
