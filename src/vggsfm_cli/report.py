"""What a run says about itself: time and memory of each stage, and the content of ``report.json``."""

import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vggsfm_cli import __version__
from vggsfm_cli.geometry.camera import PARAM_NAMES
from vggsfm_cli.scene import ImageSet, Reconstruction

REPORTED_PACKAGES = ("torch", "pycolmap", "numpy", "opencv-python-headless", "pillow", "kornia")
SAMPLING_SECONDS = 0.02


class StageClock:
    """Seconds and peak memory of named stages; a stage entered again adds up. Stages do not nest.

    Peak memory is the resident set of the whole process: the system's high-water mark where the stage raised it, else
    the largest of samples taken while the stage ran.
    """

    def __init__(self) -> None:
        self._stages: dict[str, dict[str, float]] = {}

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
            entry = self._stages.setdefault(name, {})
            entry["seconds"] = round(entry.get("seconds", 0.0) + time.perf_counter() - start, 3)
            self._raise_to(name, "peak_memory_mb", memory.peak_bytes / 2**20)

    def _raise_to(self, name: str, key: str, value: float) -> None:
        entry = self._stages.setdefault(name, {})
        entry[key] = max(entry.get(key, 0.0), round(value, 1))

    def add(self, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Take over what another clock's ``as_dict`` says."""
        self._stages.update({name: dict(entry) for name, entry in stages.items()})

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Stages in the order they were first entered: ``seconds``, ``peak_memory_mb``, on CUDA ``peak_cuda_mb``."""
        return {name: dict(sorted(entry.items(), reverse=True)) for name, entry in self._stages.items()}


class _PeakMemory:
    """The largest resident set of this process during a block, in bytes."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="memory sampler", daemon=True)

    def __enter__(self) -> "_PeakMemory":
        self._before = _high_water_bytes()
        self.peak_bytes = _resident_bytes()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sampler.join()
        after = _high_water_bytes()
        self.peak_bytes = after if after > self._before else max(self.peak_bytes, _resident_bytes())

    def _sample(self) -> None:
        while not self._done.wait(SAMPLING_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _resident_bytes())


def _high_water_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _high_water_bytes()


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that shape a result."""
    found = {"vggsfm-cli": __version__, "python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def machine() -> dict[str, Any]:
    """System, cores and accelerator of this machine."""
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def build_report(
    images: ImageSet,
    reconstructions: Sequence[Reconstruction],
    *,
    options: Mapping[str, Any],
    seed: int,
    clock: StageClock,
) -> dict[str, Any]:
    """The content of ``report.json``: JSON types only.

    Two keys of a reconstruction's own report describe the run, not the model, and do not stay with it: ``stages`` (of
    the pipeline's clock) and ``unregistered`` (image name to reason).

    Args:
        images: what was read; a ``skipped`` attribute lists files that could not be.
        reconstructions: the result, largest first.
        options: everything the user chose.
        seed: of the random choices.
        clock: of all stages, those of the pipeline added.
    """
    stages = clock.as_dict()
    reasons = {
        name: reason for model in reconstructions for name, reason in model.report.get("unregistered", {}).items()
    }
    return _jsonable(
        {
            "version": __version__,
            "versions": versions(),
            "machine": machine(),
            "options": dict(options),
            "seed": seed,
            "stages": stages,
            "seconds": round(sum(stage.get("seconds", 0.0) for stage in stages.values()), 3),
            "peak_memory_mb": max((stage.get("peak_memory_mb", 0.0) for stage in stages.values()), default=0.0),
            "models": [summarize(model) for model in reconstructions],
            "images": _images(images, reconstructions, reasons),
        }
    )


def summarize(model: Reconstruction) -> dict[str, Any]:
    """Counts, means and cameras of a model, and its own report."""
    points = len(model.xyz_world)
    return {
        "images": len(model.names),
        "points": points,
        "observations": len(model.frame),
        "mean_track_length": round(len(model.frame) / points, 3) if points else 0.0,
        "mean_reprojection_error_px": _mean_error(model),
        "cameras": _cameras(model),
        **{key: value for key, value in model.report.items() if key not in ("stages", "unregistered")},
    }


def _mean_error(model: Reconstruction) -> float | None:
    """Mean over the observations, as COLMAP's; None where a file holds no errors."""
    if len(model.frame) == 0 or bool((model.error_px < 0).any()):
        return None
    length = torch.bincount(model.point, minlength=len(model.error_px)).to(model.error_px.dtype)
    return round(float((model.error_px * length).sum() / length.sum()), 4)


def _cameras(model: Reconstruction) -> list[dict[str, Any]]:
    index = model.cameras.camera_index[0].tolist()
    listed = []
    for c, name in enumerate(model.cameras.models):
        frames = [s for s, camera in enumerate(index) if camera == c]
        if frames:
            width, height = model.sizes[frames[0]].tolist()
            used = len(PARAM_NAMES.get(name, model.cameras.params[0, c]))
            params = [round(value, 6) for value in model.cameras.params[0, c, :used].tolist()]
            listed.append(
                {"id": c + 1, "model": name, "width": width, "height": height, "params": params, "images": len(frames)}
            )
    return listed


def image_rows(model: Reconstruction) -> list[dict[str, Any]]:
    """Name, camera, observations and mean reprojection error (of the points seen) of every image of a model."""
    frames = len(model.names)
    count = torch.bincount(model.frame, minlength=frames)
    error = torch.zeros(frames, dtype=torch.float64)
    error.index_add_(0, model.frame, model.error_px[model.point].double())
    mean = (error / count.clamp(min=1)).tolist()
    return [
        {
            "name": name,
            "camera": model.cameras.camera_index[0].tolist()[s] + 1,
            "observations": int(count[s]),
            "mean_point_error_px": round(mean[s], 4),
        }
        for s, name in enumerate(model.names)
    ]


def _images(
    images: ImageSet, reconstructions: Sequence[Reconstruction], reasons: Mapping[str, str]
) -> list[dict[str, Any]]:
    placed = {
        row["name"]: {**row, "model": m}
        for m, model in reversed(list(enumerate(reconstructions)))
        for row in image_rows(model)
    }
    listed = []
    for name in images.names[0]:
        row = placed.get(name)
        if row is None:
            reason = reasons.get(name, "not connected to any model")
            listed.append({"name": name, "registered": False, "model": None, "observations": 0, "reason": reason})
        else:
            listed.append({"registered": True, "reason": None, **row})
    for item in getattr(images, "skipped", ()):
        reason = f"skipped: {item.reason}"
        listed.append({"name": item.name, "registered": False, "model": None, "observations": 0, "reason": reason})
    return listed


def _jsonable(value: Any) -> Any:
    """Tensors to lists, paths and other objects to text, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if hasattr(value, "item"):
        return _jsonable(value.item())
    return str(value)
