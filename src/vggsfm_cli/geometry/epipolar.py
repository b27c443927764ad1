"""Two views: essential and fundamental matrices, Sampson error, the eight-point algorithm.

``F`` and ``E`` satisfy ``x2^T F x1 = 0``. Source: Hartley & Zisserman, chapters 9 and 11.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry.rotation import hat


def essential_from_pose(cam2_from_cam1: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 3"]:
    """``E = [t]x R`` of a relative pose, not normalised."""
    return hat(cam2_from_cam1[..., 3]) @ cam2_from_cam1[..., :3]


def fundamental_from_pose(
    cam2_from_cam1: Float[Tensor, "*batch 3 4"], k1: Float[Tensor, "*batch 3 3"], k2: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """``F = K2^-T E K1^-1`` of a relative pose and two calibration matrices."""
    return torch.linalg.inv(k2).mT @ essential_from_pose(cam2_from_cam1) @ torch.linalg.inv(k1)


def _homogeneous(xy: Tensor) -> Tensor:
    return torch.cat([xy, torch.ones_like(xy[..., :1])], -1)


def sampson_error(
    matrix: Float[Tensor, "*batch 3 3"], xy1: Float[Tensor, "*batch N 2"], xy2: Float[Tensor, "*batch N 2"]
) -> Float[Tensor, "*batch N"]:
    """Signed first-order distance of correspondences to the epipolar constraint, in units of ``xy`` (H&Z 11.4.3)."""
    x1, x2 = _homogeneous(xy1), _homogeneous(xy2)
    line2 = x1 @ matrix.mT
    line1 = x2 @ matrix
    algebraic = (x2 * line2).sum(-1)
    squared = line1[..., :2].square().sum(-1) + line2[..., :2].square().sum(-1)
    return algebraic / squared.clamp_min(torch.finfo(squared.dtype).tiny ** 0.5).sqrt()


def _normalisation(xy: Tensor, weights: Tensor) -> Tensor:
    """Similarity that moves weighted points to the origin and their mean distance to sqrt(2) (H&Z 4.4.4)."""
    total = weights.sum(-1, keepdim=True).clamp_min(1e-12)
    mean = (weights.unsqueeze(-1) * xy).sum(-2) / total
    distance = (xy - mean.unsqueeze(-2)).square().sum(-1).clamp_min(1e-24).sqrt()
    scale = 2**0.5 * total.squeeze(-1) / (weights * distance).sum(-1).clamp_min(1e-12)
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    rows = [scale, zero, -scale * mean[..., 0], zero, scale, -scale * mean[..., 1], zero, zero, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def eight_point(
    xy1: Float[Tensor, "*batch N 2"], xy2: Float[Tensor, "*batch N 2"], weights: Float[Tensor, "*batch N"]
) -> Float[Tensor, "*batch 3 3"]:
    """Fundamental matrix of weighted correspondences, linearly (H&Z 11.2), of rank 2 and unit norm.

    Differentiable in all arguments as long as eight points in general position have weight; the sign is arbitrary.
    """
    normalise1, normalise2 = _normalisation(xy1, weights), _normalisation(xy2, weights)
    x1 = _homogeneous(xy1) @ normalise1.mT
    x2 = _homogeneous(xy2) @ normalise2.mT
    rows = (x2.unsqueeze(-1) * x1.unsqueeze(-2)).flatten(-2)
    normal = torch.einsum("...ni,...n,...nj->...ij", rows, weights, rows)
    normal = normal / normal.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp_min(1e-30)
    matrix = torch.linalg.eigh(normal)[1][..., 0].unflatten(-1, (3, 3))
    matrix = normalise2.mT @ nearest_rank_2(matrix) @ normalise1
    return matrix / matrix.norm(dim=(-2, -1), keepdim=True)


def nearest_rank_2(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The closest singular matrix in Frobenius norm."""
    vector = torch.linalg.eigh(matrix.mT @ matrix)[1][..., :1]
    return matrix - matrix @ vector @ vector.mT


def essential_mismatch(
    fundamental: Float[Tensor, "*f 3 3"], k1: Float[Tensor, "*k 3 3"], k2: Float[Tensor, "*k 3 3"]
) -> Float[Tensor, "*broadcast"]:
    """How far ``K2^T F K1`` is from an essential matrix: 0 when its two singular values are equal, up to 1.

    Source: Mendonca & Cipolla, "A simple technique for self-calibration", CVPR 1999.
    """
    values = torch.linalg.svdvals(k2.mT @ fundamental @ k1)
    return (values[..., 0] - values[..., 1]) / values[..., 0].clamp_min(1e-30)


def poses_from_essential(essential: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4 3 4"]:
    """The four relative poses with unit baseline that an essential matrix allows (H&Z 9.6.2)."""
    u, _, vt = torch.linalg.svd(essential)
    u = u * torch.linalg.det(u)[..., None, None].sign()
    vt = vt * torch.linalg.det(vt)[..., None, None].sign()
    turn = essential.new_tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    rotations = torch.stack([u @ turn @ vt, u @ turn @ vt, u @ turn.mT @ vt, u @ turn.mT @ vt], -3)
    t = u[..., 2]
    translations = torch.stack([t, -t, t, -t], -2)
    return torch.cat([rotations, translations.unsqueeze(-1)], -1)
