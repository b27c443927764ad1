"""Files and folders that appear whole or not at all: written beside their place first, then put there by renaming.

What is written is on the disk before it gets its name, so neither a killed process nor a power cut leaves half of it.
A folder takes the place of an earlier one in one step where the system can exchange two names (Linux, on most file
systems): at every moment the old or the new one stands there whole. Elsewhere it takes two steps, and a process that is
killed between them leaves the old folder beside its place; ``recover`` puts it back, which everything that writes there
does first.

One process writes to a place: ``claimed`` holds a lock that ends with its process, however that ends.
"""

import ctypes
import errno
import itertools
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vggsfm_cli import systems
from vggsfm_cli.errors import FULL, UsageError, WriteFailed, write_reason

SHOWN_NAMES = 3
UNFINISHED, PREVIOUS = "unfinished", "previous"
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux: paths are relative to the working folder; both names change hands."""

NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)
"""What a kernel, a file system or a container's filter answers that cannot exchange names."""

placed: list[Path] = []
"""Folders that this process has put in place, for what is said when it ends early."""

_claims: dict[Path, int] = {}
"""How often this process has claimed a place."""


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
def claimed(out: Path) -> Iterator[None]:
    """Keep other processes from writing to ``out`` within this block; the same process may claim it again.

    The lock is a hidden file beside ``out`` that names its owner. It is the lock on that file that counts, which ends
    with its process; where a disk has no locks, the owner counts for as long as it runs.

    Args:
        out: resolved; a file or a folder, which need not exist.

    Raises:
        UsageError: another process has claimed it.
        WriteFailed: the disk refuses.
    """
    if out in _claims:
        _claims[out] += 1
        try:
            yield
        finally:
            _claims[out] -= 1
        return
    lock = _lock_of(out)
    with _parents_of(out):
        try:
            descriptor = _take(lock, out)
        except OSError as error:
            raise write_failed(out.parent, error) from error
        _claims[out] = 1
        try:
            yield
        finally:
            del _claims[out]
            with suppress(OSError):
                lock.unlink()  # while it is held: whoever waits for it sees that the name is gone
            os.close(descriptor)


@contextmanager
def _parents_of(out: Path) -> Iterator[None]:
    """Make the folders above ``out``; those of them that are still empty at the end of the block are removed."""
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(out.parent, error) from error
    try:
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _lock_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


def _remove_unheld(lock: Path) -> None:
    """Remove a lock whose process is dead."""
    descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        systems.lock(descriptor)
        if _same_file(descriptor, lock):
            lock.unlink()
    finally:
        os.close(descriptor)


def _take(lock: Path, out: Path) -> int:
    """The open descriptor of a lock that is now ours.

    Raises:
        UsageError: it is another's.
        OSError: the disk refuses.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            systems.lock(descriptor)
            held = False
        except OSError as error:
            held = error.errno in (errno.EWOULDBLOCK, errno.EACCES) or _runs(_owner(descriptor))
        if held:
            process, host = _owner(descriptor)
            os.close(descriptor)
            owner = f" (process {process} on {host})" if host else ""
            raise UsageError(
                f"Another process is writing to {str(out)!r}{owner}.", "Wait for it, or choose another --out."
            )
        if _same_file(descriptor, lock):
            with suppress(OSError):  # a full disk: the lock holds all the same
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # its owner removed it between our two steps


def _owner(descriptor: int) -> tuple[int, str]:
    """Process and host that a lock names; 0 and nothing where it names none."""
    match = re.match(rb"(\d{1,9}) (\S+)\n", os.pread(descriptor, 300, 0))
    return (int(match[1]), match[2].decode(errors="replace")) if match else (0, "")


def _runs(owner: tuple[int, str]) -> bool:
    """Whether an owner still runs, for disks without locks; also if it runs elsewhere, as that cannot be told."""
    process, host = owner
    if not host or process == os.getpid():
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def write_failed(where: Path, error: BaseException) -> WriteFailed:
    """What a user is told when the disk refuses ``where``."""
    told = error.strerror if isinstance(error, OSError) else write_reason(error, where)
    reason = (told or str(error)).rstrip(".")
    full = isinstance(error, OSError) and error.errno in FULL
    hint = "Free some space, or choose another --out." if full else "Is the disk full, read-only or damaged?"
    return WriteFailed(f"Cannot write {str(where)!r}: {reason}.", hint)


@contextmanager
def refusals(where: Path, folder: Path) -> Iterator[None]:
    """Whatever says within this block that something cannot be written becomes a ``WriteFailed``.

    Args:
        where: what is written, for the message.
        folder: that holds it; errors that name files elsewhere are left alone.
    """
    try:
        yield
    except Exception as error:
        if write_reason(error, folder) is None:
            raise
        raise write_failed(where, error) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes its true name once it is complete and on the disk.

    After an error inside the block nothing is left of it, and ``path`` is as it was. One writer a file at a time; what
    a killed process left of it is written over by the next one.

    Raises:
        WriteFailed: the disk refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    with refusals(path, path.parent):
        try:
            yield partial
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
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
        UsageError: whatever ``check`` raises; or another process writes there.
        WriteFailed: the disk refuses.
    """
    check()
    with claimed(out), _hidden_folder(out) as unfinished, refusals(out, out.parent):
        yield unfinished
        check()
        _sync_all(unfinished)
        _swap(unfinished, out)
        placed.append(out)
        _sync(out.parent)


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` for what is on its way there, which is gone after the block.

    What a killed process leaves of it is removed by the next one that writes there.

    Args:
        out: resolved.

    Raises:
        UsageError: another process writes there.
        WriteFailed: the disk refuses.
    """
    with claimed(out), _hidden_folder(out) as folder:
        yield folder


@contextmanager
def _hidden_folder(out: Path) -> Iterator[Path]:
    recover(out)
    with refusals(out, out.parent):
        folder, lock = _new_folder(out)
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
    if out not in _claims:
        with suppress(OSError):
            _remove_unheld(_lock_of(out))


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
        systems.lock(lock)
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
        systems.lock(lock)
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
