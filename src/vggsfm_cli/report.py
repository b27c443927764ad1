"""The content of ``report.json``: what a run says about itself, as JSON types."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch

from vggsfm_cli import __version__
from vggsfm_cli.clock import StageClock
from vggsfm_cli.geometry.camera import PARAM_NAMES
from vggsfm_cli.result import RunResult, StageCost
from vggsfm_cli.scene import ImageSet, Reconstruction

REPORTED_PACKAGES = ("torch", "pycolmap", "numpy", "opencv-python-headless", "pillow", "kornia")


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
    result: RunResult,
    *,
    options: Mapping[str, Any],
    seed: int,
    clock: StageClock,
) -> dict[str, Any]:
    """The content of ``report.json``: JSON types only.

    Args:
        images: what was read; a ``skipped`` attribute lists files that could not be.
        result: of the run.
        options: everything the user chose.
        seed: of the random choices.
        clock: of all stages, those of the run added.
    """
    stages = clock.stages
    return _jsonable(
        {
            "version": __version__,
            "versions": versions(),
            "machine": machine(),
            "options": dict(options),
            "seed": seed,
            **dataclasses.asdict(result.settings),
            "memory": None if result.memory is None else dataclasses.asdict(result.memory),
            "stages": stages_as_dict(stages),
            "seconds": round(sum(stage.seconds for stage in stages.values()), 3),
            "peak_memory_mb": max((stage.peak_memory_mb for stage in stages.values()), default=0.0),
            "models": [summarize(model) for model in result],
            "images": _images(images, result),
        }
    )


def stages_as_dict(stages: Mapping[str, StageCost]) -> dict[str, dict[str, float]]:
    """JSON types; figures that were not measured are left out."""
    return {
        name: {key: value for key, value in dataclasses.asdict(stage).items() if value is not None}
        for name, stage in stages.items()
    }


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
        **model.report,
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


def _images(images: ImageSet, result: RunResult) -> list[dict[str, Any]]:
    placed = {
        row["name"]: {**row, "model": m} for m, model in reversed(list(enumerate(result))) for row in image_rows(model)
    }
    listed = []
    for name in images.names[0]:
        row = placed.get(name)
        if row is None:
            reason = result.unregistered.get(name, "not connected to any model")
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
