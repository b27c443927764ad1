"""A tiny task that can really be learned: by how much one signal is shifted against another."""

import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vggsfm_cli.training.task import Task, seed_of

SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    spread: float = 0.01


@dataclass(frozen=True, kw_only=True)
class ShiftConfig:
    width: int = 24
    rows: int = 32
    waves: tuple[float, ...] = (1.0, 2.0)
    dropout: float = 0.1
    noise: NoiseConfig = NoiseConfig()
    broken_steps: tuple[int, ...] = ()  # their batches are not finite
    signal_at: int | None = None  # the batch of that step sends SIGTERM to this process

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("`rows` must be at least 1")

    def build(self, seed: int, device: torch.device) -> "ShiftTask":
        return ShiftTask(self, seed, device)


class ShiftTask(Task):
    module: nn.Sequential
    built: ClassVar[list["ShiftTask"]] = []

    def __init__(self, config: ShiftConfig, seed: int, device: torch.device) -> None:
        self.config, self.seed, self.device = config, seed, device
        self.examples = config.rows
        self.module = nn.Sequential(
            nn.Linear(2 * SAMPLES, config.width),
            nn.BatchNorm1d(config.width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, 1),
        ).to(device)
        self.first_weights = {name: item.detach().clone() for name, item in self.module.named_parameters()}
        ShiftTask.built.append(self)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        if step == self.config.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        signals, shift = self._draw(seed_of(self.seed, step))
        return (signals * math.nan if step in self.config.broken_steps else signals), shift

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        signals, shift = batch
        predicted = self.module(signals)
        error = predicted.float() - shift
        return {"shift": error.square().mean(), "size": 1e-3 * predicted.float().square().mean()}

    def validate(self) -> dict[str, float]:
        assert not self.module.training
        signals, shift = self._draw(seed_of("held out"))
        error = self.module(signals) - shift
        return {"loss": float(error.square().mean()), "mean error": float(error.abs().mean())}

    def export(self, folder: Path) -> None:
        save_file({name: value.cpu() for name, value in self.module.state_dict().items()}, folder / "shift.safetensors")

    def _draw(self, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shift = torch.rand(self.config.rows, 1, generator=generator) - 0.5
        place = torch.linspace(0, math.pi, SAMPLES) + torch.rand(self.config.rows, 1, generator=generator)
        signals = torch.cat(
            [sum(torch.sin(wave * where) for wave in self.config.waves) for where in (place, place + shift)], 1
        )
        signals = signals + self.config.noise.spread * torch.randn(signals.shape, generator=generator)
        return signals.to(self.device), shift.to(self.device)
