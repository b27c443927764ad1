"""``vggsfm train``: a recipe becomes a run, and the run becomes weights."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from vggsfm_cli.cli import process
from vggsfm_cli.cli.console import StageProgress, say, set_up_logging
from vggsfm_cli.options import Device

RUNS = Path("runs")


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Recipe of the training.")],
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run from its last checkpoint.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/NAME.", metavar="DIR", show_default=False)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Total number of steps, instead of that in the recipe.", min=1)
    ] = None,
    device: Annotated[Device, typer.Option(help="Device for training.")] = "auto",
    stop_after_minutes: Annotated[
        float | None, typer.Option(help="Write a checkpoint and stop after this many minutes.", min=0)
    ] = None,
    stop_after_steps: Annotated[
        int | None, typer.Option(help="Write a checkpoint and stop after this many steps.", min=1)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv shows all.")] = 0,
) -> None:
    """Train one stage of the networks.

    Writes checkpoints, log.jsonl and curves.png to the folder of the run and prints the path of the exported weights.
    Ctrl-C writes a checkpoint; --resume continues from it.

    Example: vggsfm train benchmarks/training/smoke.toml
    """
    set_up_logging(verbose, quiet)
    from vggsfm_cli.devices import choose_device
    from vggsfm_cli.folders import claimed
    from vggsfm_cli.training.config import read_config
    from vggsfm_cli.training.loop import Limits
    from vggsfm_cli.training.loop import train as run_training

    recipe = read_config(config, steps=steps)
    folder = out or RUNS / recipe.name
    chosen_device = choose_device(device)
    try:
        with claimed(folder.resolve()), interruptible() as interrupted, StageProgress(quiet).drawing() as progress:
            outcome = run_training(
                recipe,
                folder,
                device=chosen_device,
                resume=resume,
                limits=Limits(minutes=stop_after_minutes, steps=stop_after_steps),
                interrupted=interrupted,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"stopped at once; --resume goes on from the last checkpoint in {str(folder)!r}, if there is one.")
        raise typer.Exit(process.ended_by_signal()) from None
    if outcome.export is not None:
        print(outcome.export)  # noqa: T201
    if outcome.status != "finished":
        if not quiet:
            say(f"{outcome.status} at step {outcome.step} of {recipe.steps}; --resume goes on from {str(folder)!r}.")
        if outcome.status == "interrupted":
            raise typer.Exit(process.ended_by_signal())


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Within this block, Ctrl-C and SIGTERM set an event; a second one ends the program at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        restore()
        process.asked(number)
        event.set()
        print("\nFinishing this step and writing a checkpoint; once more to stop at once.", file=sys.stderr)  # noqa: T201

    for number in before:
        signal.signal(number, ask)
    try:
        yield event
    finally:
        restore()
