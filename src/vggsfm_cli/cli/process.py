"""What the process gives a command: streams that tell a failed write, and signals that end it tidily."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from vggsfm_cli.errors import WriteFailed

ENDING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows knows two of them


class Terminated(KeyboardInterrupt):
    """A signal other than that of Ctrl-C asked the process to end; it ends as tidily."""


_received: list[int] = []
_asked: list[int] = []


def received() -> int | None:
    """The first signal since ``forget`` that ended what was going on.

    Libraries turn the exception of a signal into others, above all while they are imported, so whatever is raised after
    a signal counts as its consequence.
    """
    return _received[0] if _received else None


def forget() -> None:
    """No signal has come."""
    _received.clear()
    _asked.clear()


def asked(number: int) -> None:
    """A signal has come, and what is going on will come to its own end because of it."""
    _asked.append(number)


def ended_by_signal() -> int:
    """The exit code of a process that a signal has ended; without one, that of Ctrl-C."""
    return 128 + next(iter([*_received, *_asked]), signal.SIGINT)


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    _received.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def _tidy_ends() -> Iterator[None]:
    """Within this block ending signals raise; those that whoever started the process has switched off stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Results(io.FileIO):
    """Stdout: what cannot be written is an error, once."""

    failed = False

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        if self.failed:
            return len(data)
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno == errno.EPIPE:  # a reader that has seen enough, as head
                raise
            self.failed = True
            raise WriteFailed(
                f"Cannot write to stdout: {error.strerror}.", "Is its disk full, or is it closed?"
            ) from None


class _Remarks(io.FileIO):
    """Stderr: what cannot be written is lost, and the work goes on."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _occupy_closed() -> None:
    """Open what is closed of the three streams, as the next file would otherwise take its number and its output.

    Stdout is opened for reading: what is written to it fails.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


@contextmanager
def prepared() -> Iterator[None]:
    """Within this block the streams and signals are as a command expects them.

    Raises:
        WriteFailed: something could not be written to stdout.
    """
    _occupy_closed()
    before = sys.stdout, sys.stderr
    results, remarks = _Results(1, "w", closefd=False), _Remarks(2, "w", closefd=False)
    sys.stdout, sys.stderr = _text(results, before[0]), _text(remarks, before[1], always_by_line=True)
    try:
        with _tidy_ends():
            yield
            sys.stdout.flush()
    finally:
        results.failed = True  # what is left has been told
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        if before[0] is not None and before[1] is not None:
            sys.stdout, sys.stderr = before


def _text(raw: io.FileIO, before: TextIO | None, always_by_line: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=getattr(before, "errors", None) or "backslashreplace",
        line_buffering=always_by_line or os.isatty(raw.fileno()),
    )
