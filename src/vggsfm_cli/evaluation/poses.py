"""Errors of camera poses over all pairs of frames: free of the world frame and of the scale."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.geometry import pose, rotation

MIN_BASELINE = 0.005
"""Share of the scene's extent below which the direction between two cameras means nothing."""


def pair_errors_deg(
    found: Float[Tensor, "S 3 4"],
    true: Float[Tensor, "S 3 4"],
    registered: Bool[Tensor, " S"],
) -> Float[Tensor, "P 2"]:
    """Errors of the relative poses of all P = S (S - 1) / 2 pairs of frames, in degrees.

    Args:
        found: ``cam_from_world``; any values where not registered.
        true: ``cam_from_world``; its world and its scale may be others.
        registered: frames whose pose was found.

    Returns:
        Angle of the relative rotation's error, and angle between the directions of the relative translations (their
        sign counts, 0 to 180; 180 where two cameras were found in one place). Both infinite where a frame of the pair
        is not registered. Where the true baseline is below ``MIN_BASELINE`` of the largest one, the direction has no
        error.
    """
    first, second = torch.triu_indices(len(true), len(true), 1, device=true.device)
    relative_true = pose.relative(true[first].double(), true[second].double())
    relative_found = pose.relative(found[first].double(), found[second].double())
    turned = rotation.angle_deg(relative_found[..., :3] @ relative_true[..., :3].mT)
    direction_true, direction_found = relative_true[..., 3], relative_found[..., 3]
    sine = torch.linalg.cross(direction_true, direction_found).norm(dim=-1)
    between = torch.rad2deg(torch.atan2(sine, (direction_true * direction_found).sum(-1)))
    between = torch.where(direction_found.norm(dim=-1) > 0, between, torch.full_like(between, 180.0))
    baseline = direction_true.norm(dim=-1)
    extent = baseline.max() if len(baseline) else baseline.sum()
    between = torch.where(baseline <= MIN_BASELINE * extent, torch.zeros_like(between), between)
    errors = torch.stack([turned, between], -1)
    both = (registered[first] & registered[second])[:, None]
    return torch.where(both, errors, torch.full_like(errors, torch.inf))


def auc_max(errors_deg: Float[Tensor, "P 2"], threshold_deg: float | int) -> float:
    """Area under the share of pairs whose larger error is below a threshold, from 0 to ``threshold_deg``, in percent.

    Exact, not by steps: the measure of the Image Matching Challenge. 0 without pairs.
    """
    if len(errors_deg) == 0:
        return 0.0
    return float(100 * (1 - errors_deg.amax(-1) / threshold_deg).clamp(0, 1).mean())
