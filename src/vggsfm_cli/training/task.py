"""What the loop trains: the contract between the loop and the tasks."""

import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Task(ABC):
    """One thing to train: its module, its endless seeded data, its loss, its validation.

    The loop seeds torch's own generator before every step from the seed and the step, so dropout is reproducible too.

    Attributes:
        module: all trained parameters; frozen ones have ``requires_grad`` False. It trains in the mode (``train`` or
            ``eval``, part by part) in which the task hands it over, and is all in ``eval`` while it is validated.
        examples: in one batch, for the rate in the log.
    """

    module: nn.Module
    examples: int = 1

    @abstractmethod
    def batch(self, step: int) -> Any:
        """The training example of that step: a pure function of the seed and ``step``.

        It may run in another thread, beside ``losses`` and other calls of itself, and without gradients.
        """

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is minimised. Runs under autocast; the names never change."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures on fixed held-out data with the module's present weights; among them ``loss``, lower is better."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write what inference needs from the module's present weights into a folder that exists and is empty."""


@runtime_checkable
class TaskConfig(Protocol):
    """Configuration of a task: a frozen dataclass, filled from the ``[task]`` table."""

    def build(self, seed: int, device: torch.device) -> Task:
        """The task on a device, its module with fresh weights from the seed."""
        ...


def seed_of(*parts: int | str) -> int:
    """One seed from several parts (a seed, a step, a word): different parts give unrelated seeds, on every machine."""
    return random.Random("/".join(map(str, parts))).getrandbits(63)
