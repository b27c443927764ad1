"""Points from rays: linear triangulation, depth and angle. Everything on the z = 1 plane (undistorted, K removed)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.geometry import pose


def rays(cam_from_world: Float[Tensor, "*b 3 4"], uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 3"]:
    """Unit directions in world coordinates of positions on the z = 1 plane of each camera."""
    directions = torch.cat([uv, torch.ones_like(uv[..., :1])], -1)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return (cam_from_world[..., :3].mT @ directions.unsqueeze(-1)).squeeze(-1)


def midpoint(
    center1: Float[Tensor, "*b 3"], ray1: Float[Tensor, "*b 3"], center2: Float[Tensor, "*b 3"], ray2: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 3"]:
    """Point nearest to two rays (Hartley & Sturm 1997, Sec. 5.2); finite, but far off, for parallel rays."""
    base = center2 - center1
    cosine = (ray1 * ray2).sum(-1, keepdim=True)
    along1, along2 = (base * ray1).sum(-1, keepdim=True), (base * ray2).sum(-1, keepdim=True)
    denominator = (1 - cosine.square()).clamp(min=1e-12)
    depth1 = (along1 - cosine * along2) / denominator
    depth2 = (cosine * along1 - along2) / denominator
    return 0.5 * (center1 + depth1 * ray1 + center2 + depth2 * ray2)


def solve3(matrix: Float[Tensor, "*b 3 3"], rhs: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Solve many symmetric 3 x 3 systems by the adjugate; a singular one gives a finite, meaningless answer."""
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 0, 2]
    d, e, f = matrix[..., 1, 1], matrix[..., 1, 2], matrix[..., 2, 2]
    cofactors = [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
    determinant = a * cofactors[0] + b * cofactors[1] + c * cofactors[2]
    tiny = determinant.abs() < torch.finfo(matrix.dtype).tiny * 1e3
    determinant = torch.where(tiny, torch.ones_like(determinant), determinant)
    p, q, r, s, t, u = cofactors
    adjugate = torch.stack([p, q, r, q, s, t, r, t, u], -1).unflatten(-1, (3, 3))
    return (adjugate @ rhs.unsqueeze(-1)).squeeze(-1) / determinant.unsqueeze(-1)


def triangulate(
    cam_from_world: Float[Tensor, "*b S 3 4"],
    uv: Float[Tensor, "*b S 2"],
    weight: Float[Tensor, "*b S"],
    iterations: int = 3,
) -> Float[Tensor, "*b 3"]:
    """Weighted linear triangulation from many views (DLT, Hartley & Zisserman 12.2, inhomogeneous form).

    The first pass weights every view alike; later ones divide each equation by the depth found before, so that the
    algebraic error becomes the reprojection error on the z = 1 plane. Differentiable.

    Args:
        cam_from_world: of each view.
        uv: observations.
        weight: of each view; zero leaves it out.
        iterations: passes.
    """
    rows = uv.unsqueeze(-1) * cam_from_world[..., 2:3, :] - cam_from_world[..., :2, :]
    a, b = rows[..., :3], -rows[..., 3]
    scale = weight
    xyz = uv.new_zeros(*uv.shape[:-2], 3)
    for _ in range(iterations):
        weighted = a * scale[..., None, None]
        normal = torch.einsum("...sij,...sik->...jk", weighted, a)
        rhs = torch.einsum("...sij,...si->...j", weighted, b)
        ridge = 1e-12 * normal.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-30
        xyz = solve3(normal + torch.diag_embed(ridge.unsqueeze(-1).expand(*ridge.shape, 3)), rhs)
        depth = (cam_from_world[..., 2, :3] * xyz.unsqueeze(-2)).sum(-1) + cam_from_world[..., 2, 3]
        scale = weight / depth.detach().square().clamp(min=1e-6)
    return xyz


def largest_angle_deg(
    centers: Float[Tensor, "S 3"], xyz_world: Float[Tensor, "N 3"], seen: Bool[Tensor, "S N"], chunk: int = 4096
) -> Float[Tensor, " N"]:
    """Largest angle between the rays to a point from two centres that see it, in degrees."""
    angles = []
    for begin in range(0, xyz_world.shape[0], chunk):
        offset = xyz_world[begin : begin + chunk, None] - centers
        unit = offset / offset.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        cosine = unit @ unit.mT
        here = seen[:, begin : begin + chunk].T
        pairs = here[:, :, None] & here[:, None]
        cosine = torch.where(pairs, cosine, torch.ones_like(cosine))
        angles.append(torch.rad2deg(torch.acos(cosine.flatten(1).min(-1).values.clamp(-1, 1))))
    return torch.cat(angles) if angles else xyz_world.new_zeros(0)


def depth(cam_from_world: Float[Tensor, "*b 3 4"], xyz_world: Float[Tensor, "*p 3"]) -> Float[Tensor, "*r"]:
    """Depth of points in cameras; batch axes broadcast."""
    return pose.transform(cam_from_world, xyz_world)[..., 2]
