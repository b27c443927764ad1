"""Means with intervals, and differences of paired measurements with theirs."""

from collections.abc import Sequence

import numpy as np

DRAWS = 4000
LEVEL = 0.95


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the bounds of its bootstrap interval (percentiles of resampled means)."""
    array = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(array), (DRAWS, len(array)))
    low, high = np.quantile(array[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(array.mean()), float(low), float(high)


def difference(values: Sequence[float], others: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean of the differences of pairs, and its interval; pairs are drawn, not values."""
    return interval([a - b for a, b in zip(values, others, strict=True)], seed)


def median_ratio(
    values: Sequence[Sequence[float]], others: Sequence[Sequence[float]], seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of the medians of pooled errors, and its interval when whole scenes are drawn."""
    generator = np.random.default_rng(seed)
    a, b = [np.asarray(v) for v in values], [np.asarray(v) for v in others]

    def ratio(chosen: Sequence[int]) -> float:
        return float(
            np.median(np.concatenate([a[i] for i in chosen])) / np.median(np.concatenate([b[i] for i in chosen]))
        )

    drawn = [ratio(generator.integers(0, len(a), len(a)).tolist()) for _ in range(DRAWS // 8)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return ratio(range(len(a))), float(low), float(high)
