"""Batches in the order of their steps, prepared ahead in the background."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from vggsfm_cli.training.task import Task


def batches(task: Task, steps: range, ahead: int) -> Generator[Any, None, None]:
    """The batch of each step; up to ``ahead`` of them are prepared at once, each by one thread.

    A batch is a pure function of its step, so the result is the same however many threads there are. Close the iterator
    to end the threads.
    """
    if ahead == 0 or len(steps) == 0:
        yield from (_prepare(task, step) for step in steps)
        return
    workers = min(ahead, len(steps))
    # the number of threads of one operation is a setting of each thread
    pool = ThreadPoolExecutor(workers, "batch", initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting: deque[Future[Any]] = deque(pool.submit(_prepare, task, step) for step in steps[:workers])
        for step in steps:
            batch = waiting.popleft().result()
            if step + workers < steps.stop:
                waiting.append(pool.submit(_prepare, task, step + workers))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@torch.no_grad()
def _prepare(task: Task, step: int) -> Any:
    return task.batch(step)
