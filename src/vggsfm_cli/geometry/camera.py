"""COLMAP's camera models as differentiable functions: project, unproject, Jacobians.

Parameters stand in COLMAP's order and may be padded with zeros at the end, so that cameras of different models share
one tensor. Pixels have a corner origin: the centre of the top-left pixel is (0.5, 0.5). Source: COLMAP's documentation
of its camera models; for the fisheye model, Kannala & Brandt (PAMI 2006) as OpenCV writes it.
"""

from dataclasses import dataclass

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


Components = tuple[Tensor, ...]
"""One tensor for each component of a vector."""


def _split(model: str, params: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Components]:
    """Focal lengths (twice the same tensor where there is one), principal point and distortion parameters."""
    values = params.unbind(-1)[: num_params(model)]
    foci = len(focal_indices(model))
    return (values[0], values[foci - 1]), (values[foci], values[foci + 1]), values[foci + 2 :]


def _join(components: list[Tensor]) -> Tensor:
    """A vector ``[..., n]`` of its components; in memory each component is contiguous over the batch."""
    return torch.stack(torch.broadcast_tensors(*components)).movedim(0, -1)


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


def _distort(model: str, extra: Components, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Distorted position on the z = 1 plane of an ideal position there."""
    if not extra:
        return u, v
    r2 = u * u + v * v
    stretch, _, _ = _radial(model, extra, r2)
    x, y = u + u * stretch, v + v * stretch
    if model == "OPENCV":
        p1, p2 = extra[2:]
        x = x + 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
        y = y + 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
    return x, y


def _distort_slopes(
    model: str, extra: Components, u: Tensor, v: Tensor
) -> tuple[Components, Components, list[Components]]:
    """As ``_distort``, with derivatives.

    Returns:
        position: x and y.
        slopes: dx/du, dx/dv (equal to dy/du in all models) and dy/dv.
        by_extra: the derivatives of x and y by each distortion parameter.
    """
    if not extra:
        one = torch.ones_like(u)
        return (u, v), (one, torch.zeros_like(u), one), []
    r2 = u * u + v * v
    stretch, slope, by_radial = _radial(model, extra, r2)
    factor, along = 1 + stretch, 2 * slope * u
    x, y = u * factor, v * factor
    x_by_u, x_by_v, y_by_v = factor + along * u, along * v, factor + 2 * slope * v * v
    by_extra: list[Components] = [(u * power, v * power) for power in by_radial]
    if model == "OPENCV":
        p1, p2 = extra[2:]
        mixed, across, down = 2 * u * v, r2 + 2 * u * u, r2 + 2 * v * v
        x, y = x + p1 * mixed + p2 * across, y + p2 * mixed + p1 * down
        x_by_u, y_by_v = x_by_u + 2 * p1 * v + 6 * p2 * u, y_by_v + 6 * p1 * v + 2 * p2 * u
        x_by_v = x_by_v + 2 * p1 * u + 2 * p2 * v
        by_extra += [(mixed, down), (across, mixed)]
    return (x, y), (x_by_u, x_by_v, y_by_v), by_extra


def _perspective(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Position on the z = 1 plane, held in ``MAX_SLOPE``; inverse depth; in front; in front and not held."""
    in_front = z > MIN_DEPTH
    inverse_depth = torch.where(in_front, z, 1.0).reciprocal()
    u, v = x * inverse_depth, y * inverse_depth
    held_u, held_v = u.clamp(-MAX_SLOPE, MAX_SLOPE), v.clamp(-MAX_SLOPE, MAX_SLOPE)
    return held_u, held_v, inverse_depth, in_front, in_front & (held_u == u) & (held_v == v)


def project(
    model: str, params: Float[Tensor, "*p P"], xyz_cam: Float[Tensor, "*b 3"]
) -> tuple[Float[Tensor, "*r 2"], Bool[Tensor, "*r"]]:
    """Pixels of points in camera coordinates; batch axes broadcast.

    Returns:
        xy: pixels, corner origin; finite everywhere, meaningless where ``in_front`` is False.
        in_front: depth above ``MIN_DEPTH``.
    """
    u, v, _, in_front, _ = _perspective(*xyz_cam.unbind(-1))
    (fx, fy), (cx, cy), extra = _split(model, params)
    x, y = _distort(model, extra, u, v)
    xy = _join([fx * x + cx, fy * y + cy])
    return xy, in_front.expand(xy.shape[:-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectionSlopes:
    """Pixels of points and what their derivatives are made of, one tensor a component: fast on many points.

    Attributes:
        x, y: pixels, finite everywhere, meaningless where not ``in_front``.
        in_front: depth above ``MIN_DEPTH``.
        regular: where the derivatives hold: in front, and not so far off the axis that the position was held.
        u, v: position on the z = 1 plane.
        inverse_depth: of the point.
        by_u, by_v: derivatives of x and y by ``u`` and by ``v``.
        by_params: derivatives of x and y by each parameter of the model; None where one is zero everywhere.
    """

    x: Tensor
    y: Tensor
    in_front: Tensor
    regular: Tensor
    u: Tensor
    v: Tensor
    inverse_depth: Tensor
    by_u: tuple[Tensor, Tensor]
    by_v: tuple[Tensor, Tensor]
    by_params: tuple[tuple[Tensor | None, Tensor | None], ...]


def project_slopes(
    model: str,
    params: Float[Tensor, "*p P"],
    x_cam: Float[Tensor, "*b"],
    y_cam: Float[Tensor, "*b"],
    z_cam: Float[Tensor, "*b"],
) -> ProjectionSlopes:
    """As ``project``, with derivatives; by the point they are ``inverse_depth * (by_u, by_v, -u by_u - v by_v)``."""
    u, v, inverse_depth, in_front, regular = _perspective(x_cam, y_cam, z_cam)
    (fx, fy), (cx, cy), extra = _split(model, params)
    (x, y), (x_by_u, x_by_v, y_by_v), by_extra = _distort_slopes(model, extra, u, v)
    across = fx * x_by_v
    one = torch.ones_like(fx * x)
    by_focal = ((x, y),) if fx is fy else ((x, None), (None, y))
    return ProjectionSlopes(
        x=fx * x + cx,
        y=fy * y + cy,
        in_front=in_front,
        regular=regular,
        u=u,
        v=v,
        inverse_depth=inverse_depth,
        by_u=(fx * x_by_u, across if fx is fy else fy * x_by_v),
        by_v=(across, fy * y_by_v),
        by_params=(*by_focal, (one, None), (None, one), *((fx * dx, fy * dy) for dx, dy in by_extra)),
    )


def unproject(
    model: str, params: Float[Tensor, "*p P"], xy: Float[Tensor, "*b 2"], iterations: int = 12
) -> Float[Tensor, "*r 2"]:
    """Ideal positions on the z = 1 plane of pixels, by Newton's method on the distortion; batch axes broadcast.

    Differentiable: the last Newton step is taken with the graph, the ones before it without. Finite everywhere; a
    pixel that no point is mapped to (beyond the fold of a negative radial term, or 90 degrees off a fisheye's axis)
    gives some position far out.
    """
    (fx, fy), (cx, cy), extra = _split(model, params)
    x, y = xy.unbind(-1)
    target = _join([(x - cx) / fx, (y - cy) / fy])
    if not extra:
        return target
    with torch.no_grad():
        uv = _fisheye_start(extra, target) if model == "OPENCV_FISHEYE" else target.clone()
        for _ in range(iterations):
            step = _newton_step(model, extra, uv, target)
            limit = 0.5 * (1 + uv.norm(dim=-1, keepdim=True))
            uv = uv - step * (limit / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    return uv - _newton_step(model, extra, uv, target)


def _fisheye_start(extra: Components, target: Tensor) -> Tensor:
    """Newton's method on the angle alone, which unlike its tangent stays small."""
    distorted = target.norm(dim=-1)
    theta = distorted.clamp(max=1.5)
    for _ in range(10):
        value, slope, power = theta, torch.ones_like(theta), torch.ones_like(theta)
        for i, k in enumerate(extra):
            power = power * theta * theta
            value, slope = value + k * power * theta, slope + (2 * i + 3) * k * power
        theta = (theta - (value - distorted) / slope.clamp(min=1e-2)).clamp(0, 1.57)
    return target * (theta.tan() / distorted.clamp(min=1e-9)).unsqueeze(-1)


def _newton_step(model: str, extra: Components, uv: Tensor, target: Tensor) -> Tensor:
    (x, y), (a, b, d), _ = _distort_slopes(model, extra, *uv.unbind(-1))
    goal_x, goal_y = target.unbind(-1)
    e, f = x - goal_x, y - goal_y
    determinant = a * d - b * b
    determinant = torch.where(determinant.abs() < TINY, torch.ones_like(determinant), determinant)
    return _join([(d * e - b * f) / determinant, (a * f - b * e) / determinant])


def calibration_matrix(model: str, params: Float[Tensor, "*b P"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix ``K`` of a camera, without its distortion."""
    (fx, fy), (cx, cy), _ = _split(model, params)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).reshape(*fx.shape, 3, 3)


def focal(model: str, params: Float[Tensor, "*b P"]) -> Float[Tensor, "*b"]:
    """Mean focal length in pixels."""
    return params[..., : len(focal_indices(model))].mean(-1)


def from_focal(model: str, focal: float, width: int, height: int) -> Float[Tensor, " P"]:
    """Parameters of a camera without distortion whose principal point is the centre of its picture."""
    values = {"f": focal, "fx": focal, "fy": focal, "cx": width / 2, "cy": height / 2}
    return torch.tensor([values.get(name, 0.0) for name in PARAM_NAMES[model]], dtype=torch.float64)
