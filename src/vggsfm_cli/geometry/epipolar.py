"""Two views: essential and fundamental matrices, Sampson error, the eight-point algorithm, relative poses.

``F`` and ``E`` satisfy ``x2^T F x1 = 0``. Source: Hartley & Zisserman, chapters 9 and 11.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry import pose
from vggsfm_cli.geometry.rotation import closest_rotation, hat
from vggsfm_cli.geometry.triangulate import triangulate_two_view


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


def relative_pose(
    xy1_normalized: Float[Tensor, "*batch N 2"],
    xy2_normalized: Float[Tensor, "*batch N 2"],
    weights: Float[Tensor, "*batch N"],
) -> Float[Tensor, "*batch 3 4"]:
    """``cam2_from_cam1`` with a unit baseline from weighted correspondences, by the eight-point algorithm.

    The preliminary cameras of VGGSfM's training (Sec. 3.2). Of the four poses that the essential matrix allows, the one
    that puts most weight in front of both cameras is taken; that choice is cut from the graph. Differentiable in all
    arguments as long as eight points in general position have weight.

    Args:
        xy1_normalized: undistorted positions on the z = 1 plane of the first camera.
        xy2_normalized: the same points on that of the second.
        weights: not negative; zero for correspondences that do not count.
    """
    motions = poses_from_essential(eight_point(xy1_normalized, xy2_normalized, weights))
    with torch.no_grad():
        shape = (*motions.shape[:-2], *xy1_normalized.shape[-2:])
        first, second = (xy.unsqueeze(-3).expand(shape) for xy in (xy1_normalized, xy2_normalized))
        each = motions.unsqueeze(-3).expand(*shape[:-1], 3, 4)
        xyz1 = triangulate_two_view(first, second, each)
        in_front = (xyz1[..., 2] > 0) & (pose.transform(each, xyz1)[..., 2] > 0)
        best = (in_front * weights.unsqueeze(-2)).sum(-1).argmax(-1)
    return motions.gather(-3, best[..., None, None, None].expand(*best.shape, 1, 3, 4)).squeeze(-3)
