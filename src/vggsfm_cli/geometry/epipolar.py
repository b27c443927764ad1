"""Two views: essential matrices and the poses that they allow.

``F`` and ``E`` satisfy ``x2^T F x1 = 0``. Source: Hartley & Zisserman, chapters 9 and 11.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry.rotation import closest_rotation, hat


def essential_from_pose(cam2_from_cam1: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 3"]:
    """``E = [t]x R`` of a relative pose, not normalised."""
    return hat(cam2_from_cam1[..., 3]) @ cam2_from_cam1[..., :3]


def essential_mismatch(
    fundamental: Float[Tensor, "*f 3 3"], k1: Float[Tensor, "*k 3 3"], k2: Float[Tensor, "*k 3 3"]
) -> Float[Tensor, "*broadcast"]:
    """How far ``K2^T F K1`` is from an essential matrix: 0 when its two singular values are equal, up to 1.

    Source: Mendonca & Cipolla, "A simple technique for self-calibration", CVPR 1999.
    """
    values = torch.linalg.svdvals(k2.mT @ fundamental @ k1)
    return (values[..., 0] - values[..., 1]) / values[..., 0].clamp_min(1e-30)


def poses_from_essential(essential: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4 3 4"]:
    """The four relative poses with unit baseline that an essential matrix allows (H&Z 9.6.2).

    Differentiable, also where the two singular values are equal, as they should be: no singular vectors are taken. With
    ``E = [t]x R`` and a unit ``t``, ``R = [t]x^T E + cof(E)``, since the cofactors of ``[t]x`` are ``t t^T`` (Horn,
    "Recovering baseline and orientation from essential matrix", 1990). Where the two values differ, the closest
    rotation to that is the one that the singular vectors give.
    """
    columns = essential.mT
    products = torch.linalg.cross(columns, columns.roll(1, -2), dim=-1)  # all along t, as t^T E = 0
    largest = products.square().sum(-1).argmax(-1)[..., None, None].expand(*essential.shape[:-2], 1, 3)
    t = products.gather(-2, largest).squeeze(-2)
    t = t / t.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    essential = essential * (2**0.5 / essential.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-30))
    turned, cofactors = hat(t).mT @ essential, _cofactors(essential)
    rotations = closest_rotation(torch.stack([cofactors + turned, cofactors + turned, cofactors - turned], -3))
    rotations = torch.cat([rotations, rotations[..., 2:, :, :]], -3)
    translations = torch.stack([t, -t, t, -t], -2)
    return torch.cat([rotations, translations.unsqueeze(-1)], -1)


def _cofactors(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrix of cofactors: its rows are the cross products of the other two rows."""
    a, b, c = matrix.unbind(-2)
    return torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
