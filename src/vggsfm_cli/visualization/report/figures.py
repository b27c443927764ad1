"""What the page says in numbers: reprojection errors, track lengths, triangulation angles, covisibility."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose
from vggsfm_cli.scene import Reconstruction

CHUNK = 1_000_000
"""Observations that are reprojected at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFigures:
    """Measured on all points and observations of a model.

    Attributes:
        reprojected: of each observation, stored pixels; NaN behind the camera, and for camera models that are not in
            ``geometry.camera``.
        error_px: distance of each observation from it.
        length: images that see each point.
        angle_deg: largest angle between the rays of each point, 0 for fewer than two.
        covisibility: points that two images share, on the diagonal the points of one; of more images than were asked
            for, neighbours are taken together.
        frames_per_cell: how many.
    """

    reprojected: Float[np.ndarray, "m 2"]
    error_px: Float[np.ndarray, " m"]
    length: Int[np.ndarray, " n"]
    angle_deg: Float[np.ndarray, " n"]
    covisibility: Int[np.ndarray, "c c"]
    frames_per_cell: int


def measure(model: Reconstruction, max_cells: int = 400) -> ModelFigures:
    """All figures of a model.

    Args:
        model: with or without observations.
        max_cells: side of the covisibility matrix at most.
    """
    reprojected = _reproject(model)
    frame, point = model.frame.cpu().numpy(), model.point.cpu().numpy()
    seen = np.unique(np.stack([point, frame], 1), axis=0)  # once, where an image sees a point twice
    point, frame = seen[:, 0], seen[:, 1]
    per_cell = -(-len(model.names) // max_cells) or 1
    cell = frame // per_cell
    cells = -(-len(model.names) // per_cell)
    counts = np.bincount(cell * cells + cell, minlength=cells * cells)
    chord = np.zeros(len(model.xyz_world))
    rays = _rays(model, frame, point)
    for first, second in _pairs(point):
        counts += np.bincount(cell[first] * cells + cell[second], minlength=cells * cells)
        counts += np.bincount(cell[second] * cells + cell[first], minlength=cells * cells)
        # the chord is accurate for small angles, where the cosine is not
        np.fmax.at(chord, point[first], np.linalg.norm(rays[first] - rays[second], axis=1))
    return ModelFigures(
        reprojected=reprojected,
        error_px=np.linalg.norm(reprojected - model.xy.detach().cpu().double().numpy(), axis=1),
        length=np.bincount(point, minlength=len(model.xyz_world)),
        angle_deg=np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1))),
        covisibility=counts.reshape(cells, cells),
        frames_per_cell=per_cell,
    )


def _reproject(model: Reconstruction) -> Float[np.ndarray, "m 2"]:
    cameras = model.cameras.detach().to("cpu")
    out = torch.full((len(model.frame), 2), torch.nan, dtype=torch.float64)
    frame, point, xyz = model.frame.cpu(), model.point.cpu(), model.xyz_world.detach().cpu().double()
    for start in range(0, len(frame), CHUNK):
        part = slice(start, start + CHUNK)
        xyz_cam = pose.transform(cameras.cam_from_world[0].double()[frame[part]], xyz[point[part]])
        params = cameras.frame_params[0].double()[frame[part]]
        index = cameras.camera_index[0][frame[part]]
        for c, name in enumerate(cameras.models):
            if name in camera_models.PARAM_NAMES:
                chosen = index == c
                xy, in_front = camera_models.project(name, params[chosen], xyz_cam[chosen])
                out[part][chosen] = torch.where(in_front[:, None], xy, torch.nan)
    return out.numpy()


def _rays(
    model: Reconstruction, frame: Int[np.ndarray, " m"], point: Int[np.ndarray, " m"]
) -> Float[np.ndarray, "m 3"]:
    """Unit vectors from the points to the cameras that see them."""
    centers = model.cameras.centers[0].detach().cpu().double().numpy()
    rays = centers[frame] - model.xyz_world.detach().cpu().double().numpy()[point]
    return rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-30)


def _pairs(point: Int[np.ndarray, " m"]) -> Iterator[tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]]:
    """All pairs of observations of one point, as places in the list of observations sorted by point."""
    first = np.arange(len(point))
    for step in itertools.count(1):
        first = first[first + step < len(point)]
        first = first[point[first] == point[first + step]]
        if len(first) == 0:
            return
        yield first, first + step


def histogram(values: Float[np.ndarray, " n"], *, bins: int = 32, top_percentile: float = 99.0) -> dict[str, Any]:
    """Counts of non-negative values in equal bins, for the page.

    The bins end at a percentile, so that a few outliers do not squeeze the rest into one bin; what lies above is in the
    last one. NaN does not count.
    """
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return {"top": 0.0, "counts": [], "count": 0, "median": None, "mean": None, "max": None}
    top = float(np.percentile(known, top_percentile)) or 1.0
    counts, _ = np.histogram(np.minimum(known, top), bins=bins, range=(0.0, top))
    return {"top": top, "counts": counts.tolist(), **_moments(known)}


def length_histogram(length: Int[np.ndarray, " n"], *, bins: int = 40) -> dict[str, Any]:
    """Counts of track lengths: the first is that of length 0, the last holds all longer ones too."""
    if len(length) == 0:
        return {"counts": [], "count": 0, "median": None, "mean": None, "max": None}
    counts = np.bincount(np.minimum(length, bins), minlength=min(int(length.max()), bins) + 1)
    return {"counts": counts.tolist(), **_moments(length.astype(np.float64))}


def _moments(values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    return {
        "count": len(values),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "max": float(values.max()),
    }


def image_figures(model: Reconstruction, figures: ModelFigures) -> list[Mapping[str, Any]]:
    """Observations of each image, and mean and 95th percentile of their errors; None where there are none."""
    frame = model.frame.cpu().numpy()
    order = np.argsort(frame, kind="stable")
    bounds = np.searchsorted(frame[order], np.arange(len(model.names) + 1))
    rows: list[Mapping[str, Any]] = []
    for s in range(len(model.names)):
        errors = figures.error_px[order[bounds[s] : bounds[s + 1]]]
        known = errors[np.isfinite(errors)]
        rows.append(
            {
                "observations": len(errors),
                "mean_error_px": float(known.mean()) if len(known) else None,
                "high_error_px": float(np.percentile(known, 95)) if len(known) else None,
            }
        )
    return rows
