"""How good the cameras of a model are, and how two models differ: JSON types only."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.errors import InputError
from vggsfm_cli.evaluation.poses import (
    accuracy,
    aligned_distances,
    auc_max,
    auc_min,
    extent,
    pair_errors,
    umeyama_of,
)
from vggsfm_cli.evaluation.truth import PosedImages, match_names, posed_images
from vggsfm_cli.geometry import alignment, pose, rotation
from vggsfm_cli.report import summarize
from vggsfm_cli.scene import Reconstruction

THRESHOLDS_DEG = (1, 3, 5, 10)
MIN_ALIGNED = 3
"""Fewer positions do not fix a similarity."""


def evaluate_model(reconstruction: Reconstruction, truth: PosedImages) -> dict[str, Any]:
    """Figures of a model against true cameras.

    Every pair of true images counts; one with an image that has no pose is wrong at every threshold. Shares are in
    percent. ``ate`` is over the registered images only, in the units of the truth and in percent of the largest
    distance between true cameras; it is None for fewer than three. ``focal_error_percent`` compares mean focal lengths
    after both are brought to the size of the truth by the longer side.

    Raises:
        InputError: no image of the model is in the truth.
    """
    model = posed_images(reconstruction)
    index = torch.tensor(match_names(truth.names, model.names))
    registered = index >= 0
    if not bool(registered.any()):
        raise _nothing_shared(truth.names, model.names)
    found = model.cam_from_world[index.clamp_min(0)]
    errors = pair_errors(found, truth.cam_from_world, registered)
    both = torch.isfinite(errors.rotation_deg)
    names = zip(truth.names, registered.tolist(), strict=True)
    return {
        "images": len(truth.names),
        "registered": int(registered.sum()),
        "missing": [name for name, there in names if not there],
        "rotation_error_deg": _spread(errors.rotation_deg[both]),
        "translation_error_deg": _spread(errors.translation_deg[both]),
        **{f"RRA@{t}": 100 * accuracy(errors.rotation_deg, t) for t in THRESHOLDS_DEG},
        **{f"RTA@{t}": 100 * accuracy(errors.translation_deg, t) for t in THRESHOLDS_DEG},
        **{f"AUC_max@{t}": 100 * auc_max(errors, t) for t in THRESHOLDS_DEG},
        **{f"AUC_min@{t}": 100 * auc_min(errors, t) for t in THRESHOLDS_DEG},
        **_trajectory(found[registered], truth.cam_from_world[registered], extent(pose.center(truth.cam_from_world))),
        "focal_error_percent": _spread(_focal_errors(model, truth, index)),
        **_counts(reconstruction),
    }


def _trajectory(found: Float[Tensor, "S 3 4"], true: Float[Tensor, "S 3 4"], size: Tensor) -> dict[str, Any]:
    if len(found) < MIN_ALIGNED:
        return {"ate": None, "ate_percent": None, "ate_max": None}
    distance = aligned_distances(found, true)
    ate = float(distance.square().mean().sqrt())
    return {
        "ate": ate,
        "ate_percent": 100 * ate / float(size) if float(size) > 0 else None,
        "ate_max": float(distance.max()),
    }


def _focal_errors(model: PosedImages, truth: PosedImages, index: Tensor) -> Float[Tensor, " S"]:
    kept = index >= 0
    chosen = index[kept]
    scale = truth.size[kept].amax(-1) / model.size[chosen].amax(-1)
    return 100 * (model.focal_px[chosen] * scale / truth.focal_px[kept] - 1).abs()


def compare_models(a: Reconstruction, b: Reconstruction) -> dict[str, Any]:
    """How two models of the same photographs differ.

    - ``pair_*``: relative poses of all pairs of shared images, which the choice of world does not change.
    - ``scale``, ``camera_distance*``, ``camera_rotation_deg``: after the similarity that brings the camera centres of A
      to those of B; distances are in units of B and in percent of the largest distance between its shared cameras. None
      for fewer than three shared images.
    - ``focal_difference_percent``: of B against A, image by image, at the size of A.

    Raises:
        InputError: they share no image.
    """
    first, second = posed_images(a), posed_images(b)
    index = torch.tensor(match_names(first.names, second.names))
    kept = index >= 0
    if not bool(kept.any()):
        raise _nothing_shared(first.names, second.names)
    chosen = index[kept]
    mine, other = first.cam_from_world[kept], second.cam_from_world[chosen]
    errors = pair_errors(mine, other, torch.ones(len(mine), dtype=torch.bool))
    focal = second.focal_px[chosen] * first.size[kept].amax(-1) / second.size[chosen].amax(-1)
    return {
        "shared_images": len(mine),
        "only_in_a": [name for name, there in zip(first.names, kept.tolist(), strict=True) if not there],
        "only_in_b": [name for i, name in enumerate(second.names) if i not in chosen.tolist()],
        "pair_rotation_deg": _spread(errors.rotation_deg),
        "pair_translation_deg": _spread(errors.translation_deg),
        **_aligned(mine, other),
        "focal_difference_percent": _spread(100 * (focal / first.focal_px[kept] - 1).abs()),
        "a": _counts(a),
        "b": _counts(b),
    }


def _aligned(mine: Float[Tensor, "S 3 4"], other: Float[Tensor, "S 3 4"]) -> dict[str, Any]:
    if len(mine) < MIN_ALIGNED:
        return {"scale": None, "camera_distance": None, "camera_distance_percent": None, "camera_rotation_deg": None}
    scale, turn, translation = umeyama_of(pose.center(mine), pose.center(other))
    moved = alignment.apply_to_cameras(scale, turn, translation, mine)
    distance = (pose.center(moved) - pose.center(other)).norm(dim=-1)
    size = float(extent(pose.center(other)))
    return {
        "scale": float(scale),
        "camera_distance": _spread(distance),
        "camera_distance_percent": _spread(100 * distance / size) if size > 0 else None,
        "camera_rotation_deg": _spread(rotation.angle_deg(moved[..., :3] @ other[..., :3].mT)),
    }


def _counts(reconstruction: Reconstruction) -> dict[str, Any]:
    summary = summarize(reconstruction)
    return {
        key: summary[key] for key in ("points", "observations", "mean_track_length", "mean_reprojection_error_px")
    } | {"focal_px": sorted({round(float(f), 3) for f in posed_images(reconstruction).focal_px})}


def _spread(values: Float[Tensor, " n"]) -> dict[str, float] | None:
    """Mean, median and largest of some figures; None if there are none."""
    if len(values) == 0:
        return None
    return {"mean": float(values.mean()), "median": float(values.quantile(0.5)), "max": float(values.max())}


def _nothing_shared(names: tuple[str, ...], others: tuple[str, ...]) -> InputError:
    return InputError(
        "No image is in both.", f"They have names like {names[0]!r} and {others[0]!r}." if names and others else ""
    )
