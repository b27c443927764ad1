"""What ``vggsfm batch`` says while it runs and when it is done."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vggsfm_cli.cli.console import StageProgress, console

if TYPE_CHECKING:
    from vggsfm_cli.batch.outcome import Outcome
    from vggsfm_cli.batch.run import Event

logger = logging.getLogger(__name__)


class BatchProgress:
    """One bar over all scenes, and a line for each attempt."""

    def __init__(self, progress: StageProgress, scenes: int) -> None:
        self._progress = progress
        self._scenes = scenes
        self.final = 0
        self._draw("")

    def __call__(self, event: "Event") -> None:
        """Take the end of an attempt."""
        outcome = event.outcome
        for warning in outcome.warnings:
            logger.warning("%s: %s", outcome.scene, warning)
        self.final += event.final
        if not outcome.kept:
            again = "" if event.final else " It will be tried again."
            self._progress.announce(f"{outcome.scene}: {describe(outcome)}{again}")
        self._draw(outcome.scene)

    def _draw(self, detail: str) -> None:
        from vggsfm_cli.scene import Progress

        self._progress(Progress(stage="scenes", done=self.final, total=self._scenes, detail=detail))


def describe(outcome: "Outcome") -> str:
    """An outcome in a line."""
    if outcome.failure is not None:
        return outcome.failure.message
    figures = outcome.figures
    return f"{figures['registered']} of {figures['images']} images registered in {outcome.seconds:.1f} s"


def print_batch(outcomes: Sequence["Outcome"], out: Path, *, as_json: bool) -> None:
    """The outcomes on stdout: a table and totals, or JSON."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    counts = {
        "done": len(outcomes) - len(failed),
        "kept": sum(outcome.kept for outcome in outcomes),
        "failed": len(failed),
    }
    if as_json:
        listed = [outcome.as_dict() for outcome in outcomes]
        print(json.dumps({"out": str(out), **counts, "scenes": listed}, indent=2))  # noqa: T201
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("scene")
    table.add_column("status")
    for name in ("images", "points", "error px", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("reason")
    for outcome in outcomes:
        cells = [outcome.scene, "kept" if outcome.kept and outcome.failure is None else outcome.status]
        table.add_row(*(Text(cell) for cell in (*cells, *_figures(outcome))))
    paper = console(sys.stdout)
    paper.print(table)
    paper.print(f"{counts['done']} done ({counts['kept']} kept), {counts['failed']} failed; all in {out}", markup=False)


def _figures(outcome: "Outcome") -> list[str]:
    reason = outcome.failure.message if outcome.failure is not None else ""
    seconds = "" if outcome.kept else f"{outcome.seconds:.1f}"
    if not outcome.figures:
        return ["", "", "", seconds, reason]
    figures = outcome.figures
    error = figures["mean_reprojection_error_px"]
    images = f"{figures['registered']}/{figures['images']}"
    return [images, str(figures["points"]), "" if error is None else f"{error:.3f}", seconds, reason]
