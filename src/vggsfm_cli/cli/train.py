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

from vggsfm_cli.cli.choices import Device
from vggsfm_cli.cli.console import StageProgress, say, set_up_logging

RUNS = Path("runs")


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The recipe: what is trained and how.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run from its last checkpoint.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME if not given.", metavar="DIR", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in all, instead of the recipe's.", min=1)] = None,
    device: Annotated[Device, typer.Option(help="Where the networks are trained.")] = "auto",
    stop_after_minutes: Annotated[
        float | None, typer.Option(help="Write a checkpoint and stop after so many minutes.", min=0)
    ] = None,
    stop_after_steps: Annotated[
        int | None, typer.Option(help="Write a checkpoint and stop after so many steps.", min=1)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv says all.")] = 0,
) -> None:
    """Train a part of the model.

    Writes checkpoints, log.jsonl and curves.png into the run's folder and prints the path of the exported weights.
    Ctrl-C writes a checkpoint too; --resume goes on from it.

    Example: vggsfm train benchmarks/training/smoke.toml
    """
    set_up_logging(verbose, quiet)
    from vggsfm_cli.devices import choose_device
    from vggsfm_cli.training.config import read_config
    from vggsfm_cli.training.loop import Limits
    from vggsfm_cli.training.loop import train as run_training

    recipe = read_config(config, steps=steps)
    folder = out or RUNS / recipe.name
    chosen_device = choose_device(device)
    try:
        with interruptible() as interrupted, StageProgress(quiet).drawing() as progress:
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
        raise typer.Exit(130) from None
    if outcome.export is not None:
        print(outcome.export)  # noqa: T201
    if outcome.status != "finished":
        if not quiet:
            say(f"{outcome.status} at step {outcome.step} of {recipe.steps}; --resume goes on from {str(folder)!r}.")
        if outcome.status == "interrupted":
            raise typer.Exit(130)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Within this block, Ctrl-C and SIGTERM set an event; a second one ends the program as ever."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        restore()
        event.set()
        print("\nFinishing this step and writing a checkpoint; once more to stop at once.", file=sys.stderr)  # noqa: T201

    for number in before:
        signal.signal(number, ask)
    try:
        yield event
    finally:
        restore()
