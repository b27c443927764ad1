"""Time and memory of each stage of a run."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from vggsfm_cli.result import StageCost
from vggsfm_cli.systems import peak_memory_bytes

SAMPLING_SECONDS = 0.02


class StageClock:
    """Seconds and peak memory of named stages; a stage entered again adds up. Stages do not nest.

    Peak memory is the resident set of the whole process: the system's high-water mark where the stage raised it, else
    the largest of samples taken while the stage ran.
    """

    def __init__(self) -> None:
        self._stages: dict[str, StageCost] = {}

    @property
    def stages(self) -> dict[str, StageCost]:
        """In the order they were first entered."""
        return dict(self._stages)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record the block under ``name``, whether it succeeds or raises."""
        on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        if on_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            with _PeakMemory() as memory:
                yield
        finally:
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.synchronize()
                self._raise_to(name, "peak_cuda_mb", torch.cuda.max_memory_allocated() / 2**20)
            self._raise_to(name, "peak_memory_mb", memory.peak_bytes / 2**20)
            entry = self._stages[name]
            seconds = round(entry.seconds + time.perf_counter() - start, 3)
            self._stages[name] = dataclasses.replace(entry, seconds=seconds)

    def _raise_to(self, name: str, peak: Literal["peak_memory_mb", "peak_cuda_mb"], value: float) -> None:
        entry = self._stages.get(name, StageCost())
        highest = max(getattr(entry, peak) or 0.0, round(value, 1))
        self._stages[name] = dataclasses.replace(entry, **{peak: highest})

    def add(self, stages: Mapping[str, StageCost]) -> None:
        """Take over what another clock measured."""
        self._stages.update(stages)


class _PeakMemory:
    """The largest resident set of this process during a block, in bytes."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="memory sampler", daemon=True)

    def __enter__(self) -> "_PeakMemory":
        self._before = peak_memory_bytes()
        self.peak_bytes = _resident_bytes()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sampler.join()
        after = peak_memory_bytes()
        self.peak_bytes = after if after > self._before else max(self.peak_bytes, _resident_bytes())

    def _sample(self) -> None:
        while not self._done.wait(SAMPLING_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _resident_bytes())


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory_bytes()
