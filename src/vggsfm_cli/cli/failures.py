"""The one table from exceptions to a message, a hint and an exit code."""

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

import typer

from vggsfm_cli.errors import VGGSfMError, is_out_of_memory

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
    130: "interrupted",
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
    if isinstance(error, VGGSfMError):
        return Failure(error.message, error.hint, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("Interrupted.", "Nothing was written.", 130)
    if is_out_of_memory(error):
        return Failure("Out of memory.", "Try --max-memory, fewer images, or on a GPU --device cpu.", 7)
    if isinstance(error, OSError) and error.strerror:
        where = f"{str(error.filename)!r}: " if error.filename is not None else ""
        return Failure(f"{where}{error.strerror}.", "Check the path, its permissions and the free disk space.", 3)
    text = (str(error).splitlines() or [""])[0]
    return Failure(
        f"Internal error: {type(error).__name__}: {text}",
        "Set VGGSFM_DEBUG=1 to see where; please report it with the output of `vggsfm doctor`.",
        1,
    )


def explained(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose failures end in a sentence and an exit code; ``VGGSFM_DEBUG=1`` adds the traceback."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
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
