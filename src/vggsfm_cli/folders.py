"""Files and folders that appear whole or not at all: written beside their place first, then put there by renaming.

What is written is on the disk before it gets its name, so neither a killed process nor a power cut leaves half of it.
A folder takes the place of an earlier one in one step where the system can exchange two names (Linux, on most file
systems): at every moment the old or the new one stands there whole. Elsewhere it takes two steps, and a process that is
killed between them leaves the old folder beside its place; ``recover`` puts it back, which everything that writes there
does first.
"""

import ctypes
import errno
import fcntl
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vggsfm_cli.errors import InputError, UsageError

SHOWN_NAMES = 3
UNFINISHED, PREVIOUS = "unfinished", "previous"
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux: paths are relative to the working folder; both names change hands."""

NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV)
"""What a kernel or a file system answers that cannot exchange names."""


def check_writable(out: Path, *, ours: Callable[[Path], bool], holds: str, inside: str, overwrite: bool) -> None:
    """Refuse early what ``whole_folder`` could not put in place after a long run; ``recover`` it first.

    Args:
        out: resolved.
        ours: whether an entry of ``out`` is of the kind that would be written there, so that it may be replaced.
        holds: what a folder of such entries holds, for the message: "a reconstruction".
        inside: name of a folder to suggest instead: beside ``out``, as photographs may lie in it, or inside a mount
            point.
        overwrite: replace what is there, if all of it is ours.

    Raises:
        UsageError: ``out`` is not a folder, holds entries that are not ours, or holds some and ``overwrite`` is not
            set, is a mount point, which cannot be put in place by renaming, or its parent cannot be written to.
    """
    recover(out)
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
        raise UsageError(f"{str(out)!r} holds other files ({shown}).", f"Use a new folder: --out {_free(out, inside)}")
    if entries and not overwrite:
        raise UsageError(f"{str(out)!r} already holds {holds}.", "Add --overwrite, or choose another --out.")
    _check_parents(out)


def _free(out: Path, name: str) -> Path:
    """A place beside ``out`` where nothing is yet."""
    numbers = itertools.chain([""], (f"-{k}" for k in itertools.count(2)))
    return next(path for number in numbers if not (path := out.with_name(f"{out.name}-{name}{number}")).exists())


def _check_parents(out: Path) -> None:
    parent = next(path for path in out.parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{str(parent)!r} is not a folder that can be written to.", "Choose another --out.")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes its true name once it is complete and on the disk.

    After an error inside the block nothing is left of it, and ``path`` is as it was. One writer a file at a time.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(out: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``out`` at the end of the block.

    After an error inside the block nothing is left of it, and ``out`` is as it was. A killed process may leave a hidden
    folder beside ``out``; the next one that writes there removes it.

    Args:
        out: resolved; missing, or a folder that may be replaced.
        check: is called at the start, and again before ``out`` is replaced, as the world may change during a long run.

    Raises:
        UsageError: whatever ``check`` raises.
        InputError: the disk refuses.
    """
    recover(out)
    check()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished, lock = _new_folder(out)
    except OSError as error:
        raise InputError(f"Cannot write to {str(out.parent)!r}: {error.strerror}.", "Choose another --out.") from error
    try:
        yield unfinished
        check()
        _sync_all(unfinished)
        _swap(unfinished, out)
    except OSError as error:
        raise InputError(f"Cannot write {str(out)!r}: {error.strerror}.", "Is the disk full or read-only?") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(lock)


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` for what is on its way there, which is gone after the block.

    What a killed process leaves of it is removed by the next one that writes there.

    Args:
        out: resolved.

    Raises:
        InputError: the disk refuses.
    """
    recover(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _new_folder(out)
    except OSError as error:
        raise InputError(f"Cannot write to {str(out.parent)!r}: {error.strerror}.", "Choose another --out.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def recover(out: Path) -> None:
    """Put back the folder that a killed process had set aside, and remove what killed processes left beside ``out``.

    Folders of running processes are not touched: each is locked by its process for as long as that lives.
    """
    previous = _left_over(out, PREVIOUS)
    if previous and (not out.exists() or (out.is_dir() and not any(out.iterdir()))):
        with suppress(OSError):  # another process did it
            previous.pop().rename(out)
    for folder in [*previous, *_left_over(out, UNFINISHED)]:
        shutil.rmtree(folder, ignore_errors=True)


def _left_over(out: Path, purpose: str) -> list[Path]:
    """Hidden folders beside ``out`` whose process is dead, the oldest first."""
    pattern = re.compile(re.escape(f".{out.name}.") + rf"[0-9a-f]{{8}}\.{purpose}")
    found: list[Path] = []
    with suppress(OSError):  # no such parent, or one that may not be looked into
        found = [path for path in out.parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    return sorted((path for path in found if not _in_use(path)), key=lambda path: path.lstat().st_mtime_ns)


def _in_use(folder: Path) -> bool:
    """Whether a process holds the folder's lock; also if that cannot be told, as on some network disks."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _new_folder(out: Path) -> tuple[Path, int]:
    """A new hidden folder beside ``out``, and the open descriptor that keeps it locked."""
    while True:
        folder = _sibling(out, UNFINISHED)
        folder.mkdir()
        lock = _locked(folder)
        if folder.is_dir():  # else it was taken for a left-over before it was locked
            return folder, lock
        os.close(lock)


def _locked(folder: Path) -> int:
    lock = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # without locks no folder is ever taken for a left-over
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _swap(unfinished: Path, out: Path) -> None:
    """Put ``unfinished`` in the place of ``out``; if that fails, what was there stays.

    Where names can be exchanged, the earlier folder is then called ``unfinished``.
    """
    if not out.exists() or not any(out.iterdir()):
        unfinished.rename(out)
    elif not _exchange(unfinished, out):
        _replace(unfinished, out)
    _sync(out.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change hands in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code))


def _replace(unfinished: Path, out: Path) -> None:
    """As ``_exchange``, in two steps: the earlier folder is set aside, and removed when the new one stands."""
    previous = _sibling(out, PREVIOUS)
    lock = _locked(out)  # goes along with the folder, whatever its name
    try:
        out.rename(previous)
        try:
            unfinished.rename(out)
        except BaseException:
            if not out.exists():
                previous.rename(out)
            raise
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        os.close(lock)


def _sibling(out: Path, purpose: str) -> Path:
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.{purpose}")
