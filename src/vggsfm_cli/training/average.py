"""Averaged weights: a second set that follows the trained one and is validated and exported in its stead."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vggsfm_cli.training.schedule import average_decay


class AveragedWeights:
    """Exponential moving average of a module's trained parameters; buffers are those of the module.

    Attributes:
        state: averaged tensors by parameter name.
        updates: how many went into them.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._parameters = {name: item for name, item in module.named_parameters() if item.requires_grad}
        self._decay = decay
        self.updates = 0
        self.state = {name: item.detach().clone() for name, item in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights in."""
        weight = 1 - average_decay(self.updates, self._decay)
        torch._foreach_lerp_(list(self.state.values()), list(self._parameters.values()), weight)
        self.updates += 1

    def load(self, state: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average."""
        for name, item in self.state.items():
            item.copy_(state[name])
        self.updates = updates

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this block the module has the averaged weights."""
        before = {name: item.detach().clone() for name, item in self._parameters.items()}
        self._put(self.state)
        try:
            yield
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, state: dict[str, Tensor]) -> None:
        for name, item in self._parameters.items():
            item.copy_(state[name])
