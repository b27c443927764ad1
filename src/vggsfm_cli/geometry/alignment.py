"""Similarity transforms between point sets."""

import torch
from jaxtyping import Float
from torch import Tensor


def umeyama(
    source: Float[Tensor, "*batch N 3"], target: Float[Tensor, "*batch N 3"], weights: Float[Tensor, "*batch N"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """The similarity with the smallest weighted squared distance ``|scale R source + t - target|^2``.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.

    Returns:
        scale: positive; 1 where the source points coincide.
        rotation: proper (determinant +1), also for planar and mirrored point sets.
        translation: in target coordinates.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
    mean_source = (weights.unsqueeze(-1) * source).sum(-2)
    mean_target = (weights.unsqueeze(-1) * target).sum(-2)
    centred_source = source - mean_source.unsqueeze(-2)
    centred_target = target - mean_target.unsqueeze(-2)
    covariance = torch.einsum("...n,...ni,...nj->...ij", weights, centred_target, centred_source)
    u, values, vt = torch.linalg.svd(covariance)
    sign = torch.ones_like(values)
    sign = torch.cat([sign[..., :2], (torch.linalg.det(u) * torch.linalg.det(vt)).sign().unsqueeze(-1)], -1)
    rotation = (u * sign.unsqueeze(-2)) @ vt
    variance = (weights * centred_source.square().sum(-1)).sum(-1)
    degenerate = variance < 1e-24  # noqa: PLR2004
    safe = torch.where(degenerate, torch.ones_like(variance), variance)
    scale = torch.where(degenerate, torch.ones_like(variance), (values * sign).sum(-1) / safe)
    translation = mean_target - scale.unsqueeze(-1) * (rotation @ mean_source.unsqueeze(-1)).squeeze(-1)
    return scale, rotation, translation


def align_cameras(
    source: Float[Tensor, "*batch S 3 4"], target: Float[Tensor, "*batch S 3 4"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """The similarity that brings cameras onto others, from their rotations first, so that a line of them suffices.

    The rotation is the mean of those between corresponding cameras; scale and translation are then least squares on
    the translations, in the axes of each source camera.

    Args:
        source: ``cam_from_world`` of the cameras to move.
        target: ``cam_from_world`` of where they should be.

    Returns:
        What ``apply_to_cameras`` takes; the scale is 1 for a single camera.
    """
    u, _, vt = torch.linalg.svd((source[..., :3].mT @ target[..., :3]).mean(-3))
    sign = (torch.linalg.det(u) * torch.linalg.det(vt)).sign()[..., None, None]
    turned = torch.cat([u[..., :2], u[..., 2:] * sign], -1) @ vt
    ours = (source[..., :3].mT @ source[..., 3:]).squeeze(-1)
    theirs = (source[..., :3].mT @ target[..., 3:]).squeeze(-1)
    spread = ours - ours.mean(-2, keepdim=True)
    variance = spread.square().mean((-1, -2))
    scale = (spread * (theirs - theirs.mean(-2, keepdim=True))).mean((-1, -2)) / variance.clamp_min(1e-9)
    scale = torch.where(variance > 0, scale, torch.ones_like(scale))
    shift = theirs.mean(-2) - scale.unsqueeze(-1) * ours.mean(-2)
    return scale, turned.mT, -(turned.mT @ shift.unsqueeze(-1)).squeeze(-1)


def apply_to_points(
    scale: Float[Tensor, "*batch"],
    rotation: Float[Tensor, "*batch 3 3"],
    translation: Float[Tensor, "*batch 3"],
    xyz: Float[Tensor, "*batch N 3"],
) -> Float[Tensor, "*batch N 3"]:
    """``scale R x + t`` of every point."""
    return scale[..., None, None] * (xyz @ rotation.mT) + translation.unsqueeze(-2)


def apply_to_cameras(
    scale: Float[Tensor, "*batch"],
    rotation: Float[Tensor, "*batch 3 3"],
    translation: Float[Tensor, "*batch 3"],
    cam_from_world: Float[Tensor, "*batch S 3 4"],
) -> Float[Tensor, "*batch S 3 4"]:
    """The same cameras seen from the moved world: what ``apply_to_points`` moves projects as before.

    Depths grow by ``scale``.
    """
    new_rotation = cam_from_world[..., :3] @ rotation.mT.unsqueeze(-3)
    moved = (new_rotation @ translation[..., None, :, None]).squeeze(-1)
    new_translation = scale[..., None, None] * cam_from_world[..., 3] - moved
    return torch.cat([new_rotation, new_translation.unsqueeze(-1)], -1)
