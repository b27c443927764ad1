"""One process a scene: a lock that dies with the process that holds it, however that ends."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vggsfm_cli import systems
from vggsfm_cli.errors import InputError
from vggsfm_cli.folders import write_failed

LOCKS_FOLDER = ".locks"


@contextmanager
def scene_lock(out: Path, name: str) -> Iterator[bool]:
    """Hold the lock of a scene within this block.

    The file stays when the lock is gone: removing it would let two processes hold locks on two files of one name.

    Args:
        out: the batch's folder.
        name: of the scene.

    Yields:
        Whether it is ours; False if another process has it.

    Raises:
        WriteFailed: the disk refuses.
        InputError: it has no locks.
    """
    path = out / LOCKS_FOLDER / hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise write_failed(out, error) from error
    try:
        yield _take(descriptor, out)
    finally:
        os.close(descriptor)


def _take(descriptor: int, out: Path) -> bool:
    try:
        systems.lock(descriptor)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        hint = "Choose an --out on a disk with locks; Lustre has them when mounted with -o flock."
        raise InputError(f"The disk of {str(out)!r} has no file locks: {error.strerror}.", hint) from error
    return True
