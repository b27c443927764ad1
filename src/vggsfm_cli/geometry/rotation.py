"""Rotations: exponential and logarithm of SO(3), quaternions, angles.

Rotation matrices act on column vectors. Quaternions are ``(w, x, y, z)``, scalar first, of unit length.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SMALL_ANGLE = 1e-4
"""Below this angle (radians) series replace quotients whose denominators vanish."""


def hat(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Skew-symmetric matrix of ``v``: ``hat(v) @ u == cross(v, u)``."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def exp(rotation_vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a rotation vector (axis times angle in radians), by Rodrigues' formula.

    Differentiable everywhere, also at zero.
    """
    squared = rotation_vector.square().sum(-1, keepdim=True).unsqueeze(-1)
    small = squared < SMALL_ANGLE**2
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    sine = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / angle.square())
    skew = hat(rotation_vector)
    eye = torch.eye(3, dtype=skew.dtype, device=skew.device)
    return eye + sine * skew + cosine * (skew @ skew)


def to_quaternion(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion ``(w, x, y, z)`` with ``w >= 0``.

    Takes the best conditioned of the four textbook solutions, so it is exact at every angle including 180 degrees.
    """
    m = rotation
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1)
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    rows = torch.stack(
        [
            torch.stack([squares[..., 0], wx, wy, wz], -1),
            torch.stack([wx, squares[..., 1], xy, xz], -1),
            torch.stack([wy, xy, squares[..., 2], yz], -1),
            torch.stack([wz, xz, yz, squares[..., 3]], -1),
        ],
        dim=-2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = rows.gather(-2, best).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a quaternion ``(w, x, y, z)``; it is normalised first."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def log(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector of a rotation matrix, angle in [0, pi]."""
    quaternion = to_quaternion(rotation)
    w, v = quaternion[..., :1], quaternion[..., 1:]
    squared = v.square().sum(-1, keepdim=True)
    small = squared < SMALL_ANGLE**2
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    factor = torch.where(small, 2 + squared / 3, 2 * torch.atan2(sine, w) / sine)
    return factor * v


def between_rays(
    source: Float[Tensor, "*batch N 3"], target: Float[Tensor, "*batch N 3"], weights: Float[Tensor, "*batch N"]
) -> Float[Tensor, "*batch 3 3"]:
    """The rotation that turns weighted directions ``source`` best into ``target`` (Wahba's problem, by SVD)."""
    covariance = torch.einsum("...n,...ni,...nj->...ij", weights, target, source)
    u, _, vt = torch.linalg.svd(covariance)
    sign = (torch.linalg.det(u) * torch.linalg.det(vt)).sign()
    last = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], -1)
    return last @ vt


def mean(rotations: Float[Tensor, "R *batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Mean over the first axis: the quaternions, turned to the side of the first one, averaged and normalised."""
    quaternions = to_quaternion(rotations)
    opposite = (quaternions * quaternions[:1]).sum(-1, keepdim=True) < 0
    return from_quaternion(torch.where(opposite, -quaternions, quaternions).mean(0))


def closest_rotation(matrix: Float[Tensor, "*batch 3 3"], iterations: int = 8) -> Float[Tensor, "*batch 3 3"]:
    """The rotation nearest to a matrix of positive determinant, by Newton's method on the polar factor.

    Differentiable where singular values are equal, which the decomposition into singular vectors is not. Source:
    Higham, "Computing the polar decomposition", 1986; scaled by the Frobenius norms, it converges in a few steps.
    """
    for _ in range(iterations):
        inverse = torch.linalg.inv_ex(matrix)[0].mT
        scale = (inverse.norm(dim=(-2, -1), keepdim=True) / matrix.norm(dim=(-2, -1), keepdim=True)).sqrt()
        matrix = 0.5 * (scale * matrix + inverse / scale)
    return matrix


def angle_deg(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Rotation angle in degrees, 0 to 180, accurate for small angles."""
    sine = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    ).norm(dim=-1)
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.rad2deg(torch.atan2(0.5 * sine, 0.5 * (trace - 1)))
