"""The training loop: one page, read from top to bottom."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vggsfm_cli.scene import Progress, ProgressCallback, silent
from vggsfm_cli.training.config import TrainingConfig
from vggsfm_cli.training.prefetch import batches
from vggsfm_cli.training.run import Run, check_folder
from vggsfm_cli.training.task import seed_of

Status = Literal["finished", "paused", "interrupted"]
AUTOCAST = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run pauses before its end."""

    minutes: float | None = None  # of this call, all preparations included
    steps: int | None = None  # of this call


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a call of ``train`` ended.

    Attributes:
        status: ``finished`` all steps, ``paused`` at a limit, or ``interrupted``.
        step: steps done since the run began.
        best_loss: lowest validation loss so far.
        export: folder with the exported weights; None when interrupted, or paused before the first validation.
    """

    status: Status
    step: int
    best_loss: float | None
    export: Path | None


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    device: torch.device,
    resume: bool = False,
    limits: Limits | None = None,
    interrupted: threading.Event | None = None,
    progress: ProgressCallback = silent,
) -> Outcome:
    """Train a task; everything goes to ``folder``.

    A run that pauses and is resumed has, on the CPU, the same bits in its weights and its log as one that never paused;
    CUDA adds gradients up in an order of its own.

    Args:
        config: the recipe.
        folder: of the run; new, unless it is resumed.
        device: where the networks run.
        resume: go on with the run in ``folder``.
        limits: pause there, after a checkpoint.
        interrupted: once set, the loop writes a checkpoint and returns.
        progress: told of every step.

    Raises:
        UsageError: the folder is in use, or the recipe is not that of the run to resume.
        InputError: there is no complete checkpoint to resume from.
        TrainingFailed: too many steps in a row without a finite loss and gradient.
    """
    limits, interrupted = limits or Limits(), interrupted or threading.Event()
    deadline = math.inf if limits.minutes is None else time.monotonic() + 60 * limits.minutes
    check_folder(folder, resume=resume)
    with _torch_settings(config, device):
        torch.manual_seed(seed_of(config.seed, "weights"))
        run = Run(config, config.task.build(config.seed, device), folder, device)
        run.load() if resume else run.begin()
        status = _loop(config, run, limits, deadline, interrupted, progress)
        run.save()
        export = run.export() if status != "interrupted" else None
    return Outcome(status=status, step=run.step, best_loss=run.best_loss, export=export)


def _loop(
    config: TrainingConfig,
    run: Run,
    limits: Limits,
    deadline: float,
    interrupted: threading.Event,
    progress: ProgressCallback,
) -> Status:
    task, device = run.task, run.device
    parameters = [item for item in task.module.parameters() if item.requires_grad]
    statistics = [item for part in task.module.modules() if part.training for item in part.buffers(recurse=False)]
    last = config.steps if limits.steps is None else min(config.steps, run.step + limits.steps)
    steps = range(run.step, last)
    with closing(batches(task, steps, config.prefetch)) as prepared:
        for step in steps:
            started = time.perf_counter()
            batch = next(prepared)
            torch.manual_seed(seed_of(config.seed, "step", step))
            rate = run.set_learning_rate(step)
            statistics_before = [item.clone() for item in statistics]
            with torch.autocast(device.type, AUTOCAST[config.precision], enabled=config.precision != "float32"):
                terms = task.losses(batch)
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            run.optimizer.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.unscale_(run.optimizer)
            norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            figures = _fetch({**terms, "loss": loss, "gradient norm": norm})
            if finite := all(map(math.isfinite, figures.values())):
                run.scaler.step(run.optimizer)
                run.average.update()
            else:  # the forward pass may have left its mark
                for item, before in zip(statistics, statistics_before, strict=True):
                    item.copy_(before)
            run.scaler.update()
            run.count(figures, finite=finite, seconds=time.perf_counter() - started)

            if run.step in {1, config.steps} or run.step % config.log_every == 0:
                run.log(rate)
            if run.step % config.validate_every == 0 or run.step == config.steps:
                run.validate()
            if run.step % config.checkpoint_every == 0:
                run.save()
            progress(Progress(stage="training", done=run.step, total=config.steps, detail=run.words))
            if interrupted.is_set():
                return "interrupted"
            if time.monotonic() > deadline:
                break
    return "finished" if run.step == config.steps else "paused"


def _fetch(figures: dict[str, Tensor]) -> dict[str, float]:
    """Numbers from the device, all in one transfer."""
    numbers = torch.stack([value.detach().float() for value in figures.values()]).tolist()
    return dict(zip(figures, numbers, strict=True))


@contextmanager
def _torch_settings(config: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Within this block, torch has the run's threads and random numbers; afterwards those of before."""
    threads = torch.get_num_threads()
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
