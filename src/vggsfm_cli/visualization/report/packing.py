"""A model as the page's script reads it: JSON, with long columns of numbers as base64 of little-endian arrays."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.visualization.arrangement import corner_rays, frustum_depth, upright_axes
from vggsfm_cli.visualization.report.figures import ModelFigures, histogram, image_figures, length_histogram
from vggsfm_cli.visualization.report.pictures import Picture

FITTED_PERCENTILES = (3.0, 97.0)
"""Of the points along each axis: what the first view is fitted to."""


@dataclass(frozen=True, kw_only=True)
class Thinning:
    """Which points and tracks a page carries: every so-many-th of them."""

    point_step: int
    track_step: int


def plan_thinning(models: Sequence[Reconstruction], *, max_points: int, max_observations: int) -> Thinning:
    """Steps that keep all models of a page together below the limits.

    Observations are spread over the points evenly enough, so that every k-th point has about every k-th of them.
    """
    points = sum(len(model.xyz_world) for model in models)
    observations = sum(len(model.frame) for model in models)
    point_step = max(1, math.ceil(points / max_points))
    track_step = point_step * max(1, math.ceil(observations / point_step / max_observations))
    return Thinning(point_step=point_step, track_step=track_step)


def pack_model(
    model: Reconstruction, figures: ModelFigures, pictures: Sequence[Picture | None], thinning: Thinning
) -> dict[str, Any]:
    """One model for the page.

    Args:
        model: with one frame or more.
        figures: ``measure`` of it.
        pictures: one per frame, or None.
        thinning: which points and tracks to carry; figures and counts are those of all.
    """
    shown = np.arange(0, len(model.xyz_world), thinning.point_step)
    view = _view(model)
    return {
        "points": _points(model, figures, shown, np.array(view["middle"])),
        "observations": _observations(model, figures, shown, thinning.track_step),
        "cameras": _cameras(model, figures, pictures),
        "view": view,
        "covisibility": {
            "side": len(figures.covisibility),
            "framesPerCell": figures.frames_per_cell,
            "counts": pack(figures.covisibility, "<u4"),
        },
        "histograms": {
            "error": histogram(figures.error_px),
            "length": length_histogram(figures.length),
            "angle": histogram(figures.angle_deg, top_percentile=100.0),
        },
    }


def pack(values: Shaped[np.ndarray, "..."], dtype: str) -> str:
    """Base64 of the values in row order; integers are held within the range of ``dtype``."""
    if np.dtype(dtype).kind == "u":
        values = np.minimum(values, np.iinfo(dtype).max)
    with np.errstate(over="ignore"):  # what is beyond single precision is infinite there
        narrow = np.ascontiguousarray(values, dtype=dtype)
    return base64.b64encode(narrow.tobytes()).decode("ascii")


def unpack(text: str, dtype: str) -> Shaped[np.ndarray, " n"]:
    """The inverse of ``pack``, flat."""
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def _points(
    model: Reconstruction, figures: ModelFigures, shown: Int[np.ndarray, " k"], middle: Float[np.ndarray, "3"]
) -> dict[str, Any]:
    """Places are told from the middle of the view, as single precision would not do for surveyors' coordinates."""
    color = model.color.detach().cpu().double().numpy()[shown]
    point, known = model.point.cpu().numpy(), np.isfinite(figures.error_px)
    count = np.bincount(point[known], minlength=len(model.xyz_world))
    total = np.bincount(point[known], weights=figures.error_px[known], minlength=len(model.xyz_world))
    error = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return {
        "count": len(model.xyz_world),
        "index": pack(shown, "<u4"),
        "xyz": pack(model.xyz_world.detach().cpu().double().numpy()[shown] - middle, "<f4"),
        "color": pack((color * 255).round().clip(0, 255), "u1"),
        "error": pack(error[shown], "<f4"),
        "length": pack(figures.length[shown], "<u2"),
        "angle": pack(figures.angle_deg[shown], "<f4"),
    }


def _observations(
    model: Reconstruction, figures: ModelFigures, shown: Int[np.ndarray, " k"], track_step: int
) -> dict[str, Any]:
    """Sorted by frame; ``point`` counts the points that the page carries."""
    frame, point = model.frame.cpu().numpy(), model.point.cpu().numpy()
    carried: Bool[np.ndarray, " m"] = point % track_step == 0  # a multiple of the points' step
    order = np.flatnonzero(carried)
    order = order[np.lexsort((point[order], frame[order]))]
    xy = model.xy.detach().cpu().double().numpy()
    return {
        "count": len(frame),
        "start": np.searchsorted(frame[order], np.arange(len(model.names) + 1)).tolist(),
        "point": pack(np.searchsorted(shown, point[order]), "<u4"),
        "xy": pack(xy[order], "<f4"),
        "residual": pack((figures.reprojected - xy)[order], "<f4"),
    }


def _cameras(
    model: Reconstruction, figures: ModelFigures, pictures: Sequence[Picture | None]
) -> list[Mapping[str, Any]]:
    poses = model.cameras.cam_from_world[0].detach().cpu().double().numpy()
    centers = model.cameras.centers[0].detach().cpu().double().numpy()
    corners = np.einsum("sji,sjk->ski", poses[:, :, :3], corner_rays(model))
    index = model.cameras.camera_index[0].tolist()
    rows = image_figures(model, figures)
    return [
        {
            "name": name,
            "size": model.sizes[s].tolist(),
            "camera": index[s] + 1,
            "center": _rounded(centers[s]),
            "corners": [_rounded(corner) for corner in corners[s]],
            "forward": _rounded(poses[s, 2, :3]),
            "picture": picture.uri if picture else None,
            "orientation": picture.orientation if picture else 1,
            **rows[s],
        }
        for s, (name, picture) in enumerate(zip(model.names, pictures, strict=True))
    ]


def _rounded(vector: Float[np.ndarray, "3"]) -> list[float]:
    return [float(f"{value:.9g}") for value in vector]


def _view(model: Reconstruction) -> dict[str, Any]:
    """Where the scene is, how large, and the directions right, down and away for a spectator behind the cameras."""
    poses = model.cameras.cam_from_world[0].detach().cpu().double().numpy()
    centers = model.cameras.centers[0].detach().cpu().double().numpy()
    axes = upright_axes(poses[:, :, :3])
    xyz = model.xyz_world.detach().cpu().double().numpy()
    everything = np.concatenate([_inner(xyz[np.isfinite(xyz).all(1)] @ axes.T), centers @ axes.T])
    middle = (everything.min(0) + everything.max(0)) / 2
    radius = float(np.linalg.norm(everything - middle, axis=1).max()) or 1.0
    return {
        "axes": [_rounded(axis) for axis in axes],
        "middle": _rounded(middle @ axes),
        "radius": radius,
        "depth": frustum_depth(centers, radius, smallest=0.01),
    }


def _inner(xyz: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 3"]:
    """Points without the farthest along each axis."""
    if len(xyz) == 0:
        return xyz
    low, high = np.percentile(xyz, FITTED_PERCENTILES, axis=0)
    return xyz[((xyz >= low) & (xyz <= high)).all(1)]
