"""Folders that appear whole or not at all: written beside their place first, then put there by renaming."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vggsfm_cli.errors import InputError, UsageError

SHOWN_NAMES = 3


def check_writable(out: Path, *, ours: Callable[[Path], bool], holds: str, inside: str, overwrite: bool) -> None:
    """Refuse early what ``whole_folder`` could not put in place after a long run.

    Args:
        out: resolved.
        ours: whether an entry of ``out`` is of the kind that would be written there, so that it may be replaced.
        holds: what a folder of such entries holds, for the message: "a reconstruction".
        inside: name of a folder inside ``out`` to suggest instead.
        overwrite: replace what is there, if all of it is ours.

    Raises:
        UsageError: ``out`` is not a folder, holds entries that are not ours, or holds some and ``overwrite`` is not
            set, is a mount point, which cannot be put in place by renaming, or its parent cannot be written to.
    """
    if not out.exists():
        _check_parents(out)
        return
    if not out.is_dir():
        raise UsageError(f"{str(out)!r} is a file.", "Choose a folder for --out.")
    if out.is_mount():
        raise UsageError(f"{str(out)!r} is a mount point.", f"Use a folder inside it: --out {out / inside}")
    entries = sorted(path.name for path in out.iterdir())
    foreign = [name for name in entries if not ours(out / name)]
    if foreign:
        shown = ", ".join(foreign[:SHOWN_NAMES]) + (", ..." if len(foreign) > SHOWN_NAMES else "")
        raise UsageError(f"{str(out)!r} holds other files ({shown}).", f"Use a new folder: --out {out / inside}")
    if entries and not overwrite:
        raise UsageError(f"{str(out)!r} already holds {holds}.", "Add --overwrite, or choose another --out.")
    _check_parents(out)


def _check_parents(out: Path) -> None:
    parent = next(path for path in out.parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{str(parent)!r} is not a folder that can be written to.", "Choose another --out.")


@contextmanager
def whole_folder(out: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``out`` at the end of the block.

    After an error inside the block nothing is left of it, and ``out`` is as it was.

    Args:
        out: resolved; missing, or a folder that may be replaced.
        check: is called at the start, and again before ``out`` is replaced, as the world may change during a long run.

    Raises:
        UsageError: whatever ``check`` raises.
        InputError: the disk refuses.
    """
    check()
    unfinished = _sibling(out, "unfinished")
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"Cannot write to {str(out.parent)!r}: {error.strerror}.", "Choose another --out.") from error
    try:
        yield unfinished
        check()
        _swap(unfinished, out)
    except OSError as error:
        raise InputError(f"Cannot write {str(out)!r}: {error.strerror}.", "Is the disk full or read-only?") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _swap(unfinished: Path, out: Path) -> None:
    """Put ``unfinished`` in the place of ``out``; if that fails, what was there stays."""
    if not out.exists() or not any(out.iterdir()):
        unfinished.rename(out)
        return
    previous = _sibling(out, "previous")
    out.rename(previous)
    try:
        unfinished.rename(out)
    except OSError:
        previous.rename(out)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _sibling(out: Path, purpose: str) -> Path:
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.{purpose}")
