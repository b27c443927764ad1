"""Random numbers of the kinds that scenes are made of."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class Dice:
    """Draws from a CPU generator, so that a seed gives the same scene on every device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: int | float, high: int | float) -> float:
        """A number between two."""
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def scale(self, low: int | float, high: int | float) -> float:
        """A factor between two; equal ratios are equally likely."""
        return low * (high / low) ** self.uniform(0, 1)

    def normal(self, spread: int | float) -> float:
        """A number about 0, within two and a half standard deviations."""
        value = float(torch.randn((), generator=self.generator, dtype=torch.float64))
        return spread * min(max(value, -2.5), 2.5)

    def chance(self, probability: int | float) -> bool:
        """Whether something happens."""
        return self.uniform(0, 1) < probability

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def pick(self, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
        """One of several."""
        if weights is None:
            return items[self.whole(0, len(items) - 1)]
        share = torch.tensor(list(weights), dtype=torch.float64)
        return items[int(torch.multinomial(share, 1, generator=self.generator))]

    def angle(self) -> float:
        """Any angle in radians."""
        return self.uniform(0, 2 * math.pi)

    def uniforms(self, low: int | float, high: int | float, *shape: int) -> Tensor:
        """Many numbers between two, in double precision."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def normals(self, *shape: int) -> Tensor:
        """Many normal numbers, in double precision."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def order(self, count: int) -> Tensor:
        """A permutation."""
        return torch.randperm(count, generator=self.generator)
