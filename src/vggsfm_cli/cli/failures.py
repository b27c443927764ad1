"""The one table from exceptions to a message, a hint and an exit code."""

import errno
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

import typer

from vggsfm_cli import folders
from vggsfm_cli.cli import process
from vggsfm_cli.errors import VGGSfMError, WriteFailed, is_out_of_memory, write_reason
from vggsfm_cli.systems import address_space_limit

Parameters = ParamSpec("Parameters")

EXIT_CODES = {
    0: "done",
    1: "internal error",
    2: "usage: an invalid option or combination of options",
    3: "input that cannot be read, or too little input",
    4: "reconstruction failed, or that of at least one scene of a batch",
    5: "fewer images registered than --min-registered (the model is written)",
    6: "weights unavailable",
    7: "out of memory",
    8: "training failed: no finite loss",
    9: "the disk, or stdout, is full or refuses what is written",
    130: "interrupted",
    143: "terminated by a signal, as by a scheduler",
}
EXIT_CODE_HELP = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
"""For the end of a help page; the leading backspace keeps the lines as they are."""


@dataclass(frozen=True)
class Failure:
    """What the user is told."""

    message: str
    hint: str
    exit_code: int


def explain(error: BaseException) -> Failure:
    """Message, hint and exit code of an exception."""
    if isinstance(error, KeyboardInterrupt) or process.received() is not None:
        number = process.received() or signal.SIGINT
        message = "Interrupted." if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}."
        return Failure(message, what_stands() or "Nothing was written.", process.ended_by_signal())
    if isinstance(error, VGGSfMError):
        return Failure(error.message, f"{error.hint} {what_stands()}".strip(), error.exit_code)
    if is_out_of_memory(error):
        return Failure(f"Out of memory{_address_space()}.", OUT_OF_MEMORY_HINT, 7)
    if isinstance(error, OSError) and error.strerror:
        where = f"{str(error.filename)!r}: " if error.filename is not None else ""
        writing = error.filename is None or write_reason(error, Path(os.devnull)) is not None
        hint = "Check the path, its permissions and the free disk space."
        return Failure(f"{where}{error.strerror}.", hint, WriteFailed.exit_code if writing else 3)
    text = (str(error).splitlines() or [""])[0]
    return Failure(
        f"Internal error: {type(error).__name__}: {text}",
        "Set VGGSFM_DEBUG=1 to see where; please report it with the output of `vggsfm doctor`.",
        1,
    )


OUT_OF_MEMORY_HINT = "Try --max-memory, fewer images, or on a GPU --device cpu."


def _address_space() -> str:
    """A limit on the address space of this process, which libraries alone may exceed."""
    limit = address_space_limit()
    if limit is None:
        return ""
    return f" within the {limit / 1e9:.1f} GB that `ulimit -v` lets it address; its libraries alone take about 1 GB"


def what_stands() -> str:
    """What this process has written whole so far, in a sentence; empty if that is nothing."""
    standing = [repr(str(folder)) for folder in dict.fromkeys(folders.placed) if folder.exists()]
    verb = "is" if len(standing) == 1 else "are"
    return f"{' and '.join(standing)} {verb} whole." if standing else ""


def explained(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose failures end in a sentence and an exit code; ``VGGSFM_DEBUG=1`` adds the traceback."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        folders.placed.clear()
        process.forget()
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except BaseException as error:
            if isinstance(error, SystemExit) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
                raise
            raise typer.Exit(tell(error)) from None

    return run


def tell(error: BaseException) -> int:
    """Print message and hint on stderr; the exit code."""
    failure = explain(error)
    if os.environ.get("VGGSFM_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    print(f"error: {failure.message}", file=sys.stderr)  # noqa: T201
    if failure.hint:
        print(f"hint: {failure.hint}", file=sys.stderr)  # noqa: T201
    return failure.exit_code
