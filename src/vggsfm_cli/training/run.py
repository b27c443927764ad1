"""A run: its folder, what it carries from step to step, and what it writes.

``config.json`` says what the run is; ``log.jsonl`` and ``curves.png`` show how it went; ``last.pt`` is where it goes on
from; ``best.pt`` holds the averaged weights with the lowest validation loss, ``export/`` the same for inference.
"""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vggsfm_cli
from vggsfm_cli.errors import TrainingFailed, UsageError
from vggsfm_cli.folders import refusals, whole_file, whole_folder
from vggsfm_cli.training.average import AveragedWeights
from vggsfm_cli.training.checkpoint import read_checkpoint, write_checkpoint
from vggsfm_cli.training.config import TrainingConfig, check_same_run, config_as_data
from vggsfm_cli.training.log import append_line, cut_log, panels_of, read_log
from vggsfm_cli.training.schedule import learning_rate
from vggsfm_cli.training.task import Task, seed_of
from vggsfm_cli.visualization.curves import save_curves

logger = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 20
"""Steps without a finite loss and gradient; float16 alone skips a few at its start, until its scale has settled."""

CHECKPOINT, BEST, LOG, CONFIG, CURVES, EXPORT = (
    "last.pt",
    "best.pt",
    "log.jsonl",
    "config.json",
    "curves.png",
    "export",
)


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that a new run would write over, or that holds no run to resume.

    Raises:
        UsageError: says which.
    """
    if resume and not (folder / CHECKPOINT).is_file():
        raise UsageError(f"There is no run to resume in {str(folder)!r}.", "Leave out --resume to start it.")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{str(folder)!r} exists already.",
            "Go on with that run with --resume, or choose another folder with --out.",
        )


class Run:
    """The state of a run and its files.

    Attributes:
        step: steps done.
        best_loss: lowest validation loss, None before the first validation.
        words: the present state in a few words.
    """

    def __init__(self, config: TrainingConfig, task: Task, folder: Path, device: torch.device) -> None:
        self.config, self.task, self.folder, self.device = config, task, folder, device
        self.optimizer = _optimizer(config, task.module)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.average = AveragedWeights(task.module, config.ema_decay)
        self.step = 0
        self.best_loss: float | None = None
        self.words = ""
        self._skipped, self._skipped_in_a_row, self._seconds = 0, 0, 0.0
        self._sums: dict[str, float] = {}
        self._counted, self._interval_steps, self._interval_seconds = 0, 0, 0.0
        self._saved_at: int | None = None

    def begin(self) -> None:
        """Create the folder, with a checkpoint of step 0, so that a run can be resumed from its first moment on."""
        with refusals(self.folder, self.folder.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.save()
        self._write_config()

    def load(self) -> None:
        """Go on from the last checkpoint, forgetting what was logged after it.

        Raises:
            UsageError: the recipe is not that of the run.
            InputError: the checkpoint is damaged.
        """
        state = read_checkpoint(self.folder / CHECKPOINT)
        check_same_run(self.config, json.loads(state["config"]))
        self.task.module.load_state_dict(state["weights"])
        self.average.load(state.get("average", {}), state["updates"])
        moments = state.get("moments", {})
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best_loss = state["step"], state["best_loss"]
        self._skipped, self._skipped_in_a_row, self._seconds = state["skipped"], state["in_a_row"], state["seconds"]
        self._sums, self._counted = state.get("sums", {}), state["counted"]
        self._interval_steps, self._interval_seconds = state["interval_steps"], state["interval_seconds"]
        cut_log(self.folder / LOG, self.step)
        self._write_config()
        self._saved_at = self.step

    def save(self) -> None:
        """Write the checkpoint, if there was a step since the last one, and draw the curves."""
        if self._saved_at == self.step:
            return
        state = {
            "step": self.step,
            "config": json.dumps(config_as_data(self.config)),
            "weights": self.task.module.state_dict(),
            "average": self.average.state,
            "updates": self.average.updates,
            "moments": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "best_loss": self.best_loss,
            "skipped": self._skipped,
            "in_a_row": self._skipped_in_a_row,
            "seconds": self._seconds,
            "sums": self._sums,
            "counted": self._counted,
            "interval_steps": self._interval_steps,
            "interval_seconds": self._interval_seconds,
        }
        write_checkpoint(self.folder / CHECKPOINT, state)
        self._saved_at = self.step
        self.draw()

    def set_learning_rate(self, step: int) -> float:
        """Set and return the learning rate of a step."""
        config = self.config
        rate = learning_rate(
            step,
            peak=config.learning_rate,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            schedule=config.schedule,
            final_fraction=config.final_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def count(self, figures: dict[str, float], *, finite: bool, seconds: float) -> None:
        """Take note of a step that was done, or skipped because something in it was not finite.

        Raises:
            TrainingFailed: that happened too often in a row.
        """
        self.step += 1
        self._seconds += seconds
        self._interval_steps += 1
        self._interval_seconds += seconds
        if finite:
            self._skipped_in_a_row = 0
            self._counted += 1
            for name, value in figures.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            return
        self._skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            broken = ", ".join(name for name, value in figures.items() if not math.isfinite(value))
            raise TrainingFailed(
                f"{self._skipped_in_a_row} steps in a row had no finite loss and gradient, the last one step "
                f"{self.step} (not finite: {broken}).",
                "Try a smaller learning_rate, a longer warm-up, or precision = 'float32'. last.pt is from before.",
            )

    def log(self, rate: float) -> None:
        """One line of means over the steps since the last one; without figures if all of them were skipped."""
        line: dict[str, Any] = {"step": self.step, "learning_rate": rate, "skipped": self._skipped}
        if self._counted:
            means = {name: value / self._counted for name, value in self._sums.items()}
            line |= {"loss": means.pop("loss"), "gradient_norm": means.pop("gradient norm"), "terms": means}
            self.words = f"loss {line['loss']:.4g}"
            if self.best_loss is not None:
                self.words += f", best validation {self.best_loss:.4g}"
        rate_of_examples = self._interval_steps * self.task.examples / max(self._interval_seconds, 1e-9)
        line |= {"seconds": round(self._seconds, 3), "examples_per_second": round(rate_of_examples, 2)}
        append_line(self.folder / LOG, line)
        self._sums, self._counted, self._interval_steps, self._interval_seconds = {}, 0, 0, 0.0

    def validate(self) -> None:
        """Validate the averaged weights; keep them in ``best.pt`` if none were better."""
        started = time.perf_counter()
        module = self.task.module
        torch.manual_seed(seed_of(self.config.seed, "validation"))
        modes = {part: part.training for part in module.modules()}
        with self.average.in_place(), torch.no_grad():
            module.eval()
            figures = self.task.validate()
            for part, training in modes.items():
                part.training = training
            if math.isfinite(figures["loss"]) and (self.best_loss is None or figures["loss"] < self.best_loss):
                self.best_loss = figures["loss"]
                write_checkpoint(
                    self.folder / BEST, {"step": self.step, "loss": self.best_loss, "weights": module.state_dict()}
                )
        shown = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        seconds = round(time.perf_counter() - started, 3)
        append_line(self.folder / LOG, {"step": self.step, "validation": shown, "seconds": seconds})
        listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        logger.info("step %d of %d: %s; validation: %s", self.step, self.config.steps, self.words, listed)

    def draw(self) -> None:
        """Draw the curves of the log."""
        if lines := read_log(self.folder / LOG):
            with whole_file(self.folder / CURVES) as partial:
                save_curves(panels_of(lines), partial)

    def export(self) -> Path | None:
        """Export the best weights; the module has them from then on. None before the first validation."""
        if not (self.folder / BEST).is_file():
            return None
        self.task.module.load_state_dict(read_checkpoint(self.folder / BEST)["weights"])
        folder = self.folder / EXPORT
        self.task.module.eval()
        with whole_folder(folder.resolve(), lambda: None) as unfinished:
            self.task.export(unfinished)
        return folder

    def _write_config(self) -> None:
        versions = {"vggsfm-cli": vggsfm_cli.__version__, "torch": torch.__version__}
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        text = json.dumps({"config": config_as_data(self.config), "versions": versions, "device": device}, indent=2)
        with whole_file(self.folder / CONFIG) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def _optimizer(config: TrainingConfig, module: nn.Module) -> torch.optim.AdamW:
    """AdamW whose decay leaves out vectors: biases, scales and shifts have no reason to be small."""
    trained = [item for item in module.parameters() if item.requires_grad]
    groups = [
        {"params": [item for item in trained if item.ndim >= 2], "weight_decay": config.weight_decay},  # noqa: PLR2004
        {"params": [item for item in trained if item.ndim < 2], "weight_decay": 0.0},  # noqa: PLR2004
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
