"""COLMAP's camera models as differentiable functions: project, unproject, Jacobians.

Parameters stand in COLMAP's order and may be padded with zeros at the end, so that cameras of different models share one
tensor. Pixels have a corner origin: the centre of the top-left pixel is (0.5, 0.5). Source: COLMAP's documentation of its
camera models; for the fisheye model, Kannala & Brandt (PAMI 2006) as OpenCV writes it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MIN_DEPTH = 1e-6
"""Points nearer to the camera's plane than this, in units of the scene, count as behind it."""

PARAM_NAMES: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
}


def num_params(model: str) -> int:
    """Number of parameters of a camera model."""
    return len(PARAM_NAMES[model])


def focal_indices(model: str) -> tuple[int, ...]:
    """Where the focal lengths stand among the parameters."""
    return tuple(i for i, name in enumerate(PARAM_NAMES[model]) if name.startswith("f"))


def principal_point_indices(model: str) -> tuple[int, ...]:
    """Where the principal point stands among the parameters."""
    return tuple(i for i, name in enumerate(PARAM_NAMES[model]) if name.startswith("c"))


def distortion_indices(model: str) -> tuple[int, ...]:
    """Where the distortion stands among the parameters."""
    return tuple(i for i, name in enumerate(PARAM_NAMES[model]) if name[0] in "kp")


def _split(model: str, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Focal lengths ``[..., 2]``, principal point ``[..., 2]`` and the distortion parameters of the model."""
    focal = list(focal_indices(model))
    fx_fy = params[..., focal if len(focal) > 1 else focal * 2]
    return fx_fy, params[..., list(principal_point_indices(model))], params[..., list(distortion_indices(model))]


def distort(model: str, extra: Float[Tensor, "*b K"], uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
    """Distorted position on the z = 1 plane of an ideal position there."""
    return distort_jacobian(model, extra, uv)[0]


def distort_jacobian(model: str, extra: Tensor, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``distort``, with its derivatives with respect to ``uv`` ``[..., 2, 2]`` and ``extra`` ``[..., 2, K]``."""
    eye = torch.eye(2, dtype=uv.dtype, device=uv.device)
    r2 = uv.square().sum(-1, keepdim=True)
    outer = uv.unsqueeze(-1) * uv.unsqueeze(-2)
    if model in ("SIMPLE_PINHOLE", "PINHOLE"):
        return uv, eye.expand(*uv.shape[:-1], 2, 2), uv.new_zeros(*uv.shape[:-1], 2, 0)
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        powers = torch.cat([r2, r2 * r2], -1)[..., : extra.shape[-1]]
        slopes = torch.cat([torch.ones_like(r2), 2 * r2], -1)[..., : extra.shape[-1]]
        radial = (extra * powers).sum(-1, keepdim=True)
        slope = (extra * slopes).sum(-1, keepdim=True)
        by_uv = (1 + radial).unsqueeze(-1) * eye + 2 * slope.unsqueeze(-1) * outer
        return uv * (1 + radial), by_uv, uv.unsqueeze(-1) * powers.unsqueeze(-2)
    if model == "OPENCV":
        k1, k2, p1, p2 = extra.unsqueeze(-1).unbind(-2)
        u, v = uv.unsqueeze(-1).unbind(-2)
        radial, slope = k1 * r2 + k2 * r2 * r2, k1 + 2 * k2 * r2
        tangential = torch.cat([2 * p1 * u * v + p2 * (r2 + 2 * u * u), 2 * p2 * u * v + p1 * (r2 + 2 * v * v)], -1)
        cross = 2 * p1 * u + 2 * p2 * v
        by_tangential = torch.stack(
            [torch.cat([2 * p1 * v + 6 * p2 * u, cross], -1), torch.cat([cross, 6 * p1 * v + 2 * p2 * u], -1)], -2
        )
        by_uv = (1 + radial).unsqueeze(-1) * eye + 2 * slope.unsqueeze(-1) * outer + by_tangential
        by_k = uv.unsqueeze(-1) * torch.cat([r2, r2 * r2], -1).unsqueeze(-2)
        by_p = torch.stack(
            [torch.cat([2 * u * v, r2 + 2 * u * u], -1), torch.cat([r2 + 2 * v * v, 2 * u * v], -1)], -2
        )
        return uv * (1 + radial) + tangential, by_uv, torch.cat([by_k, by_p], -1)
    return _fisheye_jacobian(extra, uv, r2, outer, eye)


def _fisheye_jacobian(
    extra: Tensor, uv: Tensor, r2: Tensor, outer: Tensor, eye: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    tiny = r2 < 1e-12  # noqa: PLR2004
    safe = torch.where(tiny, torch.ones_like(r2), r2)
    r = safe.sqrt()
    theta = torch.atan(r)
    t2 = theta * theta
    powers = torch.cat([t2, t2**2, t2**3, t2**4], -1)
    odd = torch.arange(3, 10, 2, dtype=uv.dtype, device=uv.device)
    theta_d = theta * (1 + (extra * powers).sum(-1, keepdim=True))
    slope = 1 + (extra * odd * powers).sum(-1, keepdim=True)
    scale = torch.where(tiny, torch.ones_like(r), theta_d / r)
    # d(scale)/d(r^2) = (slope / (1 + r^2) - scale) / (2 r^2)
    change = torch.where(tiny, torch.zeros_like(r), (slope / (1 + safe) - theta_d / r) / safe)
    by_uv = scale.unsqueeze(-1) * eye + change.unsqueeze(-1) * outer
    by_k = uv.unsqueeze(-1) * torch.where(tiny, torch.zeros_like(powers), theta / r * powers).unsqueeze(-2)
    return uv * scale, by_uv, by_k


def project(
    model: str, params: Float[Tensor, "*p P"], xyz_cam: Float[Tensor, "*b 3"]
) -> tuple[Float[Tensor, "*r 2"], Bool[Tensor, "*r"]]:
    """Pixels of points in camera coordinates; batch axes broadcast.

    Returns:
        xy: pixels, corner origin; finite everywhere, meaningless where ``in_front`` is False.
        in_front: depth above ``MIN_DEPTH``.
    """
    in_front = xyz_cam[..., 2] > MIN_DEPTH
    uv = xyz_cam[..., :2] / torch.where(in_front, xyz_cam[..., 2], torch.ones_like(xyz_cam[..., 2])).unsqueeze(-1)
    focal, principal_point, extra = _split(model, params)
    shape = torch.broadcast_shapes(uv.shape[:-1], extra.shape[:-1])
    xy = focal * distort(model, extra.expand(*shape, -1), uv.expand(*shape, 2)) + principal_point
    return xy, in_front.expand(shape)


def project_jacobian(
    model: str, params: Float[Tensor, "*b P"], xyz_cam: Float[Tensor, "*b 3"]
) -> tuple[Float[Tensor, "*b 2"], Bool[Tensor, "*b"], Float[Tensor, "*b 2 3"], Float[Tensor, "*b 2 P"]]:
    """As ``project``, with derivatives with respect to the point and the parameters (zero where not in front)."""
    in_front = xyz_cam[..., 2] > MIN_DEPTH
    inverse_depth = 1 / torch.where(in_front, xyz_cam[..., 2], torch.ones_like(xyz_cam[..., 2])).unsqueeze(-1)
    uv = xyz_cam[..., :2] * inverse_depth
    focal, principal_point, extra = _split(model, params)
    distorted, by_uv, by_extra = distort_jacobian(model, extra, uv)
    eye = torch.eye(2, dtype=uv.dtype, device=uv.device).expand(*uv.shape[:-1], 2, 2)
    by_focal_uv = focal.unsqueeze(-1) * by_uv * inverse_depth.unsqueeze(-1)
    by_point = torch.cat([by_focal_uv, -(by_focal_uv @ uv.unsqueeze(-1))], -1)
    by_focal = distorted.unsqueeze(-1) * eye if len(focal_indices(model)) > 1 else distorted.unsqueeze(-1)
    by_params = torch.cat([by_focal, eye, focal.unsqueeze(-1) * by_extra], -1)
    padding = by_params.new_zeros(*by_params.shape[:-1], params.shape[-1] - by_params.shape[-1])
    keep = in_front[..., None, None]
    return (
        focal * distorted + principal_point,
        in_front,
        by_point * keep,
        torch.cat([by_params, padding], -1) * keep,
    )


def unproject(
    model: str, params: Float[Tensor, "*p P"], xy: Float[Tensor, "*b 2"], iterations: int = 10
) -> Float[Tensor, "*r 2"]:
    """Ideal positions on the z = 1 plane of pixels, by Newton's method on the distortion.

    Differentiable: the last Newton step is taken with the graph, the ones before it without.
    """
    focal, principal_point, extra = _split(model, params)
    target = (xy - principal_point) / focal
    if extra.shape[-1] == 0:
        return target
    extra = extra.expand(*target.shape[:-1], extra.shape[-1])
    with torch.no_grad():
        uv = target.clone()
        for _ in range(iterations):
            uv = uv - _newton_step(model, extra, uv, target)
    return uv - _newton_step(model, extra, uv, target)


def _newton_step(model: str, extra: Tensor, uv: Tensor, target: Tensor) -> Tensor:
    distorted, by_uv, _ = distort_jacobian(model, extra, uv)
    error = distorted - target
    a, b, c, d = by_uv[..., 0, 0], by_uv[..., 0, 1], by_uv[..., 1, 0], by_uv[..., 1, 1]
    determinant = a * d - b * c
    determinant = torch.where(determinant.abs() < 1e-3, torch.ones_like(determinant), determinant)  # noqa: PLR2004
    e, f = error.unbind(-1)
    return torch.stack([d * e - b * f, a * f - c * e], -1) / determinant.unsqueeze(-1)


def calibration_matrix(model: str, params: Float[Tensor, "*b P"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix ``K`` of a camera, without its distortion."""
    focal, principal_point, _ = _split(model, params)
    zero, one = torch.zeros_like(focal[..., 0]), torch.ones_like(focal[..., 0])
    rows = [focal[..., 0], zero, principal_point[..., 0], zero, focal[..., 1], principal_point[..., 1], zero, zero, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def focal(model: str, params: Float[Tensor, "*b P"]) -> Float[Tensor, "*b"]:
    """Mean focal length in pixels."""
    return params[..., list(focal_indices(model))].mean(-1)


def from_focal(model: str, focal: float, width: int, height: int) -> Float[Tensor, " P"]:
    """Parameters of a camera without distortion whose principal point is the centre of its picture."""
    values = {"f": focal, "fx": focal, "fy": focal, "cx": width / 2, "cy": height / 2}
    return torch.tensor([values.get(name, 0.0) for name in PARAM_NAMES[model]], dtype=torch.float64)
