"""The matrix products of a computation alone: how many operations they are, and how long they take by themselves."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.baddbmm.default: (1, 2),
}
"""Operations that multiply matrices, and where among their arguments these are."""

REPEATS = 6
"""Products of one shape that are timed; the rest is taken to be as fast."""


class Products(TorchDispatchMode):
    """Counts the matrix products that are computed within, by their shapes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not say its types
        self.shapes: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            left, right = (tuple(args[i].shape) for i in PRODUCTS[func])
            self.shapes[left, right] += 1
        return func(*args, **(kwargs or {}))

    def operations(self) -> float:
        """Multiplications and additions."""
        return float(
            sum(2 * torch.Size(left).numel() * right[-1] * count for (left, right), count in self.shapes.items())
        )

    def processor_seconds(self) -> float:
        """What these products take alone, on random numbers, on the threads that torch has."""
        total = 0.0
        for (left, right), count in self.shapes.items():
            a, b = torch.rand(left), torch.rand(*right[:-2], right[-1], right[-2]).mT  # weights lie transposed
            a @ b
            start, repeats = time.process_time(), min(count, REPEATS)
            for _ in range(repeats):
                a @ b
            total += (time.process_time() - start) * count / repeats
        return total


@torch.no_grad()
def products_of(function: Callable[[], Any]) -> dict[str, float]:
    """Operations and seconds of the matrix products in ``function``, which must compute on this thread."""
    with Products() as products:
        function()
    return {
        "gigaflop": round(products.operations() / 1e9, 1),
        "processor_seconds": round(products.processor_seconds(), 2),
    }
