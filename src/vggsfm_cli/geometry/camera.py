"""COLMAP's camera models as differentiable functions: project, unproject, Jacobians.

Parameters stand in COLMAP's order and may be padded with zeros at the end, so that cameras of different models share
one tensor. Pixels have a corner origin: the centre of the top-left pixel is (0.5, 0.5). Source: COLMAP's documentation
of its camera models; for the fisheye model, Kannala & Brandt (PAMI 2006) as OpenCV writes it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MIN_DEPTH = 1e-6
"""Points nearer to the camera's plane than this, in units of the scene, count as behind it."""

TINY = 1e-12
"""Squared radius below which a fisheye's axis is met, and determinant below which a distortion cannot be inverted."""

MAX_SLOPE = 1e5
"""Positions on the z = 1 plane are held below this, so that no power of them overflows, not even in float32."""

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
    """Focal lengths ``[..., 1 or 2]``, principal point ``[..., 2]`` and distortion parameters ``[..., K]``."""
    foci, count = len(focal_indices(model)), num_params(model)
    return params[..., :foci], params[..., foci : foci + 2], params[..., foci + 2 : count]


def _join(*rows: list[Tensor]) -> Tensor:
    """A vector ``[..., n]`` of one list of components, or a matrix ``[..., r, n]`` of r of them.

    In memory each component is contiguous over the batch: elementwise arithmetic on components is then vectorised.
    """
    flat = torch.stack(torch.broadcast_tensors(*[entry for row in rows for entry in row]))
    if len(rows) == 1:
        return flat.movedim(0, -1)
    return flat.reshape(len(rows), -1, *flat.shape[1:]).movedim((0, 1), (-2, -1))


def _radial(model: str, extra: tuple[Tensor, ...], r2: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Factor by which a model stretches a position at squared radius ``r2``, less one.

    Returns:
        stretch: the factor less one.
        slope: its derivative with respect to ``r2``.
        by_extra: its derivatives with respect to the radial parameters.
    """
    if model == "OPENCV_FISHEYE":
        return _fisheye_radial(extra, r2)
    if model == "SIMPLE_RADIAL":
        return extra[0] * r2, extra[0], [r2]
    r4 = r2 * r2
    return extra[0] * r2 + extra[1] * r4, extra[0] + 2 * extra[1] * r2, [r2, r4]


def _fisheye_radial(extra: tuple[Tensor, ...], r2: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    tiny = r2 < TINY
    safe = torch.where(tiny, torch.ones_like(r2), r2)
    r = safe.sqrt()
    theta = torch.atan(r)
    angle = torch.where(tiny, torch.ones_like(r), theta / r)
    distorted, slope, by_extra, power = angle, torch.ones_like(r), [], torch.ones_like(r)
    for i, k in enumerate(extra):
        power = power * theta * theta
        by_extra.append(torch.where(tiny, torch.zeros_like(r), angle * power))
        distorted = distorted + k * by_extra[-1]
        slope = slope + (2 * i + 3) * k * power
    # d(theta_d / r) / d(r^2) = (d theta_d / d theta / (1 + r^2) - theta_d / r) / (2 r^2); at the axis k1 - 1/3
    change = torch.where(tiny, extra[0] - 1 / 3, (slope / (1 + safe) - distorted) / (2 * safe))
    return distorted - 1, change, by_extra


def distort(model: str, extra: Float[Tensor, "*k K"], uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*r 2"]:
    """Distorted position on the z = 1 plane of an ideal position there; batch axes broadcast."""
    if extra.shape[-1] == 0:
        return uv
    u, v = uv.unbind(-1)
    k = extra.unbind(-1)
    r2 = u * u + v * v
    stretch, _, _ = _radial(model, k, r2)
    x, y = u + u * stretch, v + v * stretch
    if model == "OPENCV":
        p1, p2 = k[2:]
        x = x + 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
        y = y + 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
    return _join([x, y])


def distort_jacobian(
    model: str, extra: Float[Tensor, "*k K"], uv: Float[Tensor, "*b 2"]
) -> tuple[Float[Tensor, "*r 2"], Float[Tensor, "*r 2 2"], Float[Tensor, "*r 2 K"]]:
    """As ``distort``, with its derivatives with respect to ``uv`` and to the distortion parameters."""
    uv = uv.expand(*torch.broadcast_shapes(uv.shape[:-1], extra.shape[:-1]), 2)
    u, v = uv.unbind(-1)
    one = torch.ones_like(u)
    if extra.shape[-1] == 0:
        return uv, _join([one, 0 * one], [0 * one, one]), uv.new_zeros(*uv.shape, 0)
    k = extra.unbind(-1)
    r2 = u * u + v * v
    stretch, slope, by_radial = _radial(model, k, r2)
    x, y = u + u * stretch, v + v * stretch
    x_by_u, x_by_v, y_by_v = 1 + stretch + 2 * slope * u * u, 2 * slope * u * v, 1 + stretch + 2 * slope * v * v
    x_by_extra, y_by_extra = [u * power for power in by_radial], [v * power for power in by_radial]
    if model == "OPENCV":
        p1, p2 = k[2:]
        mixed, across, along = 2 * u * v, r2 + 2 * u * u, r2 + 2 * v * v
        x, y = x + p1 * mixed + p2 * across, y + p2 * mixed + p1 * along
        x_by_u, y_by_v = x_by_u + 2 * p1 * v + 6 * p2 * u, y_by_v + 6 * p1 * v + 2 * p2 * u
        x_by_v = x_by_v + 2 * p1 * u + 2 * p2 * v
        x_by_extra, y_by_extra = [*x_by_extra, mixed, across], [*y_by_extra, along, mixed]
    return _join([x, y]), _join([x_by_u, x_by_v], [x_by_v, y_by_v]), _join(x_by_extra, y_by_extra)


def _perspective(xyz_cam: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Position on the z = 1 plane, held in ``MAX_SLOPE``; inverse depth; in front; in front and not held."""
    in_front = xyz_cam[..., 2] > MIN_DEPTH
    inverse_depth = 1 / torch.where(in_front, xyz_cam[..., 2], torch.ones_like(xyz_cam[..., 2]))
    uv = xyz_cam[..., :2] * inverse_depth.unsqueeze(-1)
    held = uv.clamp(-MAX_SLOPE, MAX_SLOPE)
    return held, inverse_depth, in_front, in_front & (held == uv).all(-1)


def project(
    model: str, params: Float[Tensor, "*p P"], xyz_cam: Float[Tensor, "*b 3"]
) -> tuple[Float[Tensor, "*r 2"], Bool[Tensor, "*r"]]:
    """Pixels of points in camera coordinates; batch axes broadcast.

    Returns:
        xy: pixels, corner origin; finite everywhere, meaningless where ``in_front`` is False.
        in_front: depth above ``MIN_DEPTH``.
    """
    uv, _, in_front, _ = _perspective(xyz_cam)
    focal, principal_point, extra = _split(model, params)
    xy = focal * distort(model, extra, uv) + principal_point
    return xy, in_front.expand(xy.shape[:-1])


def project_jacobian(
    model: str, params: Float[Tensor, "*p P"], xyz_cam: Float[Tensor, "*b 3"]
) -> tuple[Float[Tensor, "*r 2"], Bool[Tensor, "*r"], Float[Tensor, "*r 2 3"], Float[Tensor, "*r 2 P"]]:
    """As ``project``, with derivatives with respect to the point and the parameters.

    Returns:
        xy: as ``project`` gives it.
        in_front: as ``project`` gives it.
        by_xyz: derivative with respect to the point; zero where not in front.
        by_params: derivative with respect to the parameters; zero where not in front and for padding.
    """
    uv, inverse_depth, in_front, regular = _perspective(xyz_cam)
    focal, principal_point, extra = _split(model, params)
    distorted, by_uv, by_extra = distort_jacobian(model, extra, uv)
    u, v = uv.unbind(-1)
    x, y = distorted.unbind(-1)
    keep = regular.to(x.dtype)
    fx, fy = focal.expand(*focal.shape[:-1], 2).unbind(-1)
    scale_x, scale_y = fx * inverse_depth * keep, fy * inverse_depth * keep
    x_by_x, x_by_y = scale_x * by_uv[..., 0, 0], scale_x * by_uv[..., 0, 1]
    y_by_x, y_by_y = scale_y * by_uv[..., 1, 0], scale_y * by_uv[..., 1, 1]
    by_xyz = _join([x_by_x, x_by_y, -(x_by_x * u + x_by_y * v)], [y_by_x, y_by_y, -(y_by_x * u + y_by_y * v)])
    keep = keep.expand(torch.broadcast_shapes(x.shape, fx.shape))
    zero = torch.zeros_like(keep)
    first = [x * keep] if focal.shape[-1] == 1 else [x * keep, zero]
    second = [y * keep] if focal.shape[-1] == 1 else [zero, y * keep]
    padding = [zero] * (params.shape[-1] - num_params(model))
    by_params = _join(
        [*first, keep, zero, *(fx * keep * d for d in by_extra[..., 0, :].unbind(-1)), *padding],
        [*second, zero, keep, *(fy * keep * d for d in by_extra[..., 1, :].unbind(-1)), *padding],
    )
    return focal * distorted + principal_point, in_front.expand(keep.shape), by_xyz, by_params


def unproject(
    model: str, params: Float[Tensor, "*p P"], xy: Float[Tensor, "*b 2"], iterations: int = 12
) -> Float[Tensor, "*r 2"]:
    """Ideal positions on the z = 1 plane of pixels, by Newton's method on the distortion; batch axes broadcast.

    Differentiable: the last Newton step is taken with the graph, the ones before it without. Finite everywhere; a
    pixel that no point is mapped to (beyond the fold of a negative radial term, or 90 degrees off a fisheye's axis)
    gives some position far out.
    """
    focal, principal_point, extra = _split(model, params)
    target = (xy - principal_point) / focal
    if extra.shape[-1] == 0:
        return target
    with torch.no_grad():
        uv = _fisheye_start(extra, target) if model == "OPENCV_FISHEYE" else target.clone()
        for _ in range(iterations):
            step = _newton_step(model, extra, uv, target)
            limit = 0.5 * (1 + uv.norm(dim=-1, keepdim=True))
            uv = uv - step * (limit / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    return uv - _newton_step(model, extra, uv, target)


def _fisheye_start(extra: Tensor, target: Tensor) -> Tensor:
    """Newton's method on the angle alone, which unlike its tangent stays small."""
    distorted = target.norm(dim=-1)
    theta = distorted.clamp(max=1.5)
    for _ in range(10):
        value, slope, power = theta, torch.ones_like(theta), torch.ones_like(theta)
        for i, k in enumerate(extra.unbind(-1)):
            power = power * theta * theta
            value, slope = value + k * power * theta, slope + (2 * i + 3) * k * power
        theta = (theta - (value - distorted) / slope.clamp(min=1e-2)).clamp(0, 1.57)
    return target * (theta.tan() / distorted.clamp(min=1e-9)).unsqueeze(-1)


def _newton_step(model: str, extra: Tensor, uv: Tensor, target: Tensor) -> Tensor:
    distorted, by_uv, _ = distort_jacobian(model, extra, uv)
    e, f = (distorted - target).unbind(-1)
    a, b, c, d = by_uv[..., 0, 0], by_uv[..., 0, 1], by_uv[..., 1, 0], by_uv[..., 1, 1]
    determinant = a * d - b * c
    determinant = torch.where(determinant.abs() < TINY, torch.ones_like(determinant), determinant)
    return _join([(d * e - b * f) / determinant, (a * f - c * e) / determinant])


def calibration_matrix(model: str, params: Float[Tensor, "*b P"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix ``K`` of a camera, without its distortion."""
    focal, principal_point, _ = _split(model, params)
    fx, fy = focal.expand(*focal.shape[:-1], 2).unbind(-1)
    cx, cy = principal_point.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).reshape(*fx.shape, 3, 3)


def focal(model: str, params: Float[Tensor, "*b P"]) -> Float[Tensor, "*b"]:
    """Mean focal length in pixels."""
    return params[..., : len(focal_indices(model))].mean(-1)


def from_focal(model: str, focal: float, width: int, height: int) -> Float[Tensor, " P"]:
    """Parameters of a camera without distortion whose principal point is the centre of its picture."""
    values = {"f": focal, "fx": focal, "fy": focal, "cx": width / 2, "cy": height / 2}
    return torch.tensor([values.get(name, 0.0) for name in PARAM_NAMES[model]], dtype=torch.float64)
