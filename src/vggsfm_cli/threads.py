"""Work side by side on CPU threads, on purpose.

Small tensor operations gain nothing from a thread pool inside each of them, and two such pools beside other work can be
several times slower than one thread. So the library runs each operation on one thread and independent pieces of work
side by side: torch releases the interpreter's lock while it computes.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


_limit: int | None = None

_worker = threading.local()
"""Has ``inside`` set on the threads of ``map_threads``, where further work runs one piece after the other."""


_at_most: ContextVar[int | None] = ContextVar("_at_most", default=None)


def limit_cores(count: int | None) -> None:
    """Use at most so many cores from now on; for the start of a program, not for a library."""
    global _limit  # noqa: PLW0603
    _limit = count


def available_cores() -> int:
    """Cores this process may use."""
    most = _at_most.get()
    if most is not None:
        return most
    if _limit is not None:
        return _limit
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Within this block, use no more than so many cores: fewer pieces of work are in memory at the same time."""
    token = _at_most.set(min(count, available_cores()))
    try:
        yield
    finally:
        _at_most.reset(token)


def side_by_side(device: torch.device | str = "cpu") -> int:
    """How many pieces of work ``map_threads`` would do at the same time, if there are enough."""
    if torch.device(device).type != "cpu" or getattr(_worker, "inside", False):
        return 1
    return available_cores()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within this block, torch uses one thread for each operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_threads(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device | str = "cpu"
) -> Iterator[Result]:
    """``map`` on as many threads as there are cores, in the order of ``items``; plain ``map`` on an accelerator.

    Also plain ``map`` inside a function that already runs side by side with others. Whether gradients and autocast are
    on is each thread's own affair in torch; here the threads take it from the caller.
    """
    work = list(items)
    workers = min(side_by_side(device), len(work))
    if workers <= 1:
        yield from map(function, work)
        return
    gradients, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    precision = torch.get_autocast_dtype("cpu")

    def run(item: Item) -> Result:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", precision, enabled=autocast):
            return function(item)

    with ThreadPoolExecutor(workers, initializer=_start_worker) as pool:
        yield from pool.map(run, work)


def _start_worker() -> None:
    torch.set_num_threads(1)  # a setting of each thread
    _worker.inside = True
