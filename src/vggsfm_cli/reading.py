"""Reading of small files that users name: never a pipe that nobody writes to, a device without an end, or a giant."""

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 256 * 2**20
"""Of a file that is read whole; lists, settings, cameras and reports have a small part of that."""


def check_regular(path: Path) -> os.stat_result:
    """Refuse what is no file.

    Raises:
        OSError: it is not there, or is a folder, a pipe, a socket or a device.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "It is a pipe or a device, not a file", str(path))
    return status


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Args:
        path: of the file.
        limit: bytes it may have.

    Raises:
        OSError: the system refuses, it is no file, or it is too large.
    """
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"It has more than {limit >> 20} MiB", str(path))
    return data


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The content of a file, in UTF-8; see ``read_bytes``.

    Raises:
        OSError: as ``read_bytes``.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8")
