"""Points from several views: linear triangulation, refinement, triangulation angles.

Everything works on the z = 1 plane of the cameras (undistorted, K removed) and for any batch axes; ``V`` is the axis of
the views. Source: Hartley & Zisserman 12.2 (linear method, iterated as in Hartley & Sturm 1997).
"""

import torch
from jaxtyping import Float
from torch import Tensor

MAX_DISTANCE = 1e8
"""Coordinates are clamped to this, so that points at infinity stay finite."""


def solve3(matrix: Float[Tensor, "*batch 3 3"], right: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Solution of small symmetric systems by cofactors: much faster than a batched factorisation, and differentiable.

    A singular system gives a finite, meaningless answer.
    """
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 0, 2]
    d, e, f = matrix[..., 1, 1], matrix[..., 1, 2], matrix[..., 2, 2]
    p, q, r = d * f - e * e, c * e - b * f, b * e - c * d
    s, t, u = a * f - c * c, b * c - a * e, a * d - b * b
    determinant = a * p + b * q + c * r
    tiny = determinant.abs() < torch.finfo(matrix.dtype).tiny * 1e3
    determinant = torch.where(tiny, torch.ones_like(determinant), determinant)
    x, y, z = right.unbind(-1)
    numerator = torch.stack([p * x + q * y + r * z, q * x + s * y + t * z, r * x + t * y + u * z], -1)
    return numerator / determinant.unsqueeze(-1)


def triangulate(
    xy_normalized: Float[Tensor, "*batch V 2"],
    cam_from_world: Float[Tensor, "*batch V 3 4"],
    weights: Float[Tensor, "*batch V"],
    reweightings: int = 1,
) -> Float[Tensor, "*batch 3"]:
    """The point that fits all views best, linearly.

    Each view gives two rows ``u p3 - p1`` and ``v p3 - p2`` of the system; their error is the reprojection error times
    the depth, so the system is solved again with weights ``1 / depth^2``.

    Args:
        xy_normalized: undistorted positions on the z = 1 plane.
        cam_from_world: pose of each view.
        weights: of each view, zero for views that do not count.
        reweightings: how often the depths are divided out.

    Returns:
        Points in world coordinates; finite everywhere, meaningless with fewer than two views or without parallax.
    """
    rotation, translation = cam_from_world[..., :3], cam_from_world[..., 3]
    rows = xy_normalized.unsqueeze(-1) * rotation[..., 2:3, :] - rotation[..., :2, :]
    right = translation[..., :2] - xy_normalized * translation[..., 2:3]
    # origin at the mean camera centre: the system is better scaled there
    centers = -(rotation.mT @ translation.unsqueeze(-1)).squeeze(-1)
    total = weights.sum(-1, keepdim=True).clamp_min(1e-12)
    origin = (centers * weights.unsqueeze(-1)).sum(-2) / total
    right = right - (rows @ origin[..., None, :, None]).squeeze(-1)
    xyz = _solve_rows(rows, right, weights)
    for _ in range(reweightings):
        depth = (rotation[..., 2, :] * (xyz + origin).unsqueeze(-2)).sum(-1) + translation[..., 2]
        depth = depth.detach().abs()
        closest = 1e-3 * depth.amax(-1, keepdim=True).clamp_min(1e-9)
        xyz = _solve_rows(rows, right, weights / torch.maximum(depth, closest).square())
    return (xyz + origin).clamp(-MAX_DISTANCE, MAX_DISTANCE)


def _solve_rows(rows: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    weights = weights / weights.amax(-1, keepdim=True).clamp_min(1e-30)
    # sqrt is not differentiable at zero, so the weights enter once, on one side
    weighted = (rows * weights[..., None, None]).flatten(-3, -2)
    normal = weighted.mT @ rows.flatten(-3, -2)
    moment = (weighted * right.flatten(-2).unsqueeze(-1)).sum(-2)
    return solve3(normal, moment)


def ray_forms(
    rays: Float[Tensor, "*batch V 3"], cam_from_world: Float[Tensor, "*batch V 3 4"]
) -> Float[Tensor, "*batch V 4 4"]:
    """Quadratic forms: the squared distance of a homogeneous point's direction from each view's ray, times its range.

    Args:
        rays: unit directions in camera coordinates.
        cam_from_world: pose of each view.
    """
    across = cam_from_world.mT @ rays.unsqueeze(-1)
    return cam_from_world.mT @ cam_from_world - across @ across.mT


def triangulate_forms(form: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
    """The homogeneous point with the smallest value of a weighted sum of ``ray_forms``; behind the views as well.

    Not differentiable where the two smallest eigenvalues are equal; not finite for a point at infinity.
    """
    homogeneous = torch.linalg.eigh(form)[1][..., 0]
    return homogeneous[..., :3] / homogeneous[..., 3:]


def triangulate_two_view(
    xy1_normalized: Float[Tensor, "*batch 2"],
    xy2_normalized: Float[Tensor, "*batch 2"],
    cam2_from_cam1: Float[Tensor, "*batch 3 4"],
) -> Float[Tensor, "*batch 3"]:
    """Points of two views in coordinates of the first, by ``triangulate``."""
    first = torch.eye(3, 4, dtype=cam2_from_cam1.dtype, device=cam2_from_cam1.device).expand_as(cam2_from_cam1)
    xy = torch.stack([xy1_normalized, xy2_normalized], -2)
    return triangulate(xy, torch.stack([first, cam2_from_cam1], -3), torch.ones_like(xy[..., 0]))


def refine(
    xyz_world: Float[Tensor, "*batch 3"],
    xy_normalized: Float[Tensor, "*batch V 2"],
    cam_from_world: Float[Tensor, "*batch V 3 4"],
    weights: Float[Tensor, "*batch V"],
    iterations: int = 2,
) -> Float[Tensor, "*batch 3"]:
    """Gauss-Newton on the reprojection error on the z = 1 plane; views behind which the point lies do not count."""
    rotation, translation = cam_from_world[..., :3], cam_from_world[..., 3]
    for _ in range(iterations):
        xyz_cam = (rotation @ xyz_world[..., None, :, None]).squeeze(-1) + translation
        front = xyz_cam[..., 2:] > 1e-9  # noqa: PLR2004
        inverse_depth = front / torch.where(front, xyz_cam[..., 2:], torch.ones_like(xyz_cam[..., 2:]))
        uv = xyz_cam[..., :2] * inverse_depth
        rows = (rotation[..., :2, :] - uv.unsqueeze(-1) * rotation[..., 2:3, :]) * inverse_depth.unsqueeze(-1)
        xyz_world = xyz_world + _solve_rows(rows, xy_normalized - uv, weights * front.squeeze(-1))
    return xyz_world.clamp(-MAX_DISTANCE, MAX_DISTANCE)


def angle_deg(
    xyz_world: Float[Tensor, "*batch 3"], center1: Float[Tensor, "*batch 3"], center2: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch"]:
    """Angle in degrees, 0 to 180, between the rays from a point to two camera centres."""
    ray1, ray2 = center1 - xyz_world, center2 - xyz_world
    cross = torch.linalg.cross(ray1, ray2).norm(dim=-1)
    return torch.rad2deg(torch.atan2(cross, (ray1 * ray2).sum(-1)))


def fold_deg(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Angles between lines, 0 to 90, of angles between directions: lines that meet head-on fix no point either."""
    return torch.minimum(angle, 180 - angle)


def max_angle_deg(
    xyz_world: Float[Tensor, "*batch 3"],
    centers: Float[Tensor, "*batch V 3"],
    weights: Float[Tensor, "*batch V"],
) -> Float[Tensor, "*batch"]:
    """Largest angle in degrees between the rays to any two views whose weight is not zero (0 with fewer than two)."""
    rays = centers - xyz_world.unsqueeze(-2)
    rays = rays / rays.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    # the chord is accurate for small angles, where the cosine is not
    chord = (rays.unsqueeze(-2) - rays.unsqueeze(-3)).norm(dim=-1)
    seen = weights > 0
    chord = torch.where(seen.unsqueeze(-1) & seen.unsqueeze(-2), chord, torch.zeros_like(chord))
    return torch.rad2deg(2 * torch.asin((0.5 * chord.flatten(-2).amax(-1)).clamp(max=1)))
