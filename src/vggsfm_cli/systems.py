"""What Unix has and Windows has not: locks of open files, and the limits and the peak memory of a process.

The package is imported on Windows, but writes results on Unix only.
"""

import errno
import sys

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]


def lock(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file or folder against other processes, until it is closed.

    Args:
        descriptor: of the file.
        wait: for another holder to let it go.

    Raises:
        OSError: another process holds it, or the system has no such locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "Files cannot be locked on this system")
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def peak_memory_bytes() -> int:
    """The largest resident set this process has had; 0 where the system does not say."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def address_space_limit() -> int | None:
    """Bytes of addresses this process may have (``ulimit -v``); None without a limit."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else int(limit)
