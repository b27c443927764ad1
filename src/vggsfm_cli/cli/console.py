"""Words and bars on the terminal: results to stdout, everything else to stderr."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from vggsfm_cli.scene import Progress

WIDTH_WITHOUT_TERMINAL = 160


def console(stream: TextIO) -> "Console":
    """A rich console; pipes and files get plain text that is not folded at 80 columns."""
    from rich.console import Console

    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def say(text: str) -> None:
    """One line on stderr."""
    console(sys.stderr).print(text, markup=False)


def set_up_logging(verbose: int, quiet: bool) -> None:
    """Show the package's warnings, with ``-v`` its steps, with ``-vv`` everything, with ``-q`` errors only."""
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    level = logging.ERROR if quiet else levels[min(verbose, 2)]
    logger = logging.getLogger("vggsfm_cli")
    logger.setLevel(level)
    logger.handlers = [_StderrHandler()]
    logger.propagate = False
    warnings.filterwarnings("ignore", module="PIL")  # on oddities of files, which are read or skipped with a reason


class _StderrHandler(logging.Handler):
    """Prints above the progress bars, if there are any."""

    bars: "Bars | None" = None

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {self.format(record)}"
        if self.bars is not None:
            self.bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr)  # noqa: T201


class StageProgress:
    """Draws the events of a run: bars on a terminal, one line a finished stage elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._finished: set[str] = set()

    def __call__(self, event: "Progress") -> None:
        """Take one event."""
        self._started.setdefault(event.stage, time.perf_counter())
        if self._bars is not None:
            if event.stage not in self._tasks:
                self._tasks[event.stage] = self._bars.add_task(event.stage, total=event.total, detail="")
            self._bars.update(
                self._tasks[event.stage], completed=event.done, total=event.total, detail=event.detail, refresh=False
            )
        elif not self._quiet and event.done >= event.total and event.stage not in self._finished:
            self._finished.add(event.stage)
            seconds = time.perf_counter() - self._started[event.stage]
            print(f"{event.stage:<14} {event.done}/{event.total}  {seconds:.1f} s  {event.detail}", file=sys.stderr)  # noqa: T201

    def say(self, text: str) -> None:
        """One line on stderr, above the bars if there are any."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def announce(self, text: str) -> None:
        """One line like ``say``'s, but nothing when quiet."""
        if not self._quiet:
            self.say(text)

    @contextmanager
    def drawing(self) -> Iterator["StageProgress"]:
        """Draw within this block; the finished bars stay on the terminal."""
        if self._quiet or not sys.stderr.isatty():
            yield self
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
        )
        handlers = [h for h in logging.getLogger("vggsfm_cli").handlers if isinstance(h, _StderrHandler)]
        with Progress(*columns, console=console(sys.stderr)) as bars:
            self._bars = bars
            for handler in handlers:
                handler.bars = bars
            try:
                yield self
            finally:
                self._bars = None
                for handler in handlers:
                    handler.bars = None
