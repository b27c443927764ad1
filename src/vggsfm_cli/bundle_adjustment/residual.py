"""The residual of an observation and its derivatives, for many observations at once.

Observations come as ``F`` rows of ``n``, one frame a row, and every quantity as ``[F, components, n]``: elementwise
arithmetic on components and products of whole rows are both fast that way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import robust

BEHIND_RESIDUAL = 1000.0
"""Residual norm (in standard deviations) of a point behind its camera; constant, so it only discourages such steps."""

POSE = 6
"""Coordinates of a pose's update: a rotation vector and a translation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What rows of observations of one camera model depend on.

    Attributes:
        model: of the cameras.
        cam_from_world, params: of each row's frame and camera.
        xyz_world: point of each observation.
        xy: observed stored pixels.
        whitening: upper triangular ``L^T`` of the information ``L L^T``, its two columns one after the other.
    """

    model: str
    cam_from_world: Float[Tensor, "F 3 4"]
    params: Float[Tensor, "F P"]
    xyz_world: Float[Tensor, "F 3 n"]
    xy: Float[Tensor, "F 2 n"]
    whitening: Float[Tensor, "F 2 2 n"]

    @property
    def xyz_cam(self) -> Float[Tensor, "F 3 n"]:
        """The points in their cameras."""
        return torch.baddbmm(self.cam_from_world[..., 3:], self.cam_from_world[..., :3], self.xyz_world)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slopes:
    """Whitened, weighted residuals and their derivatives.

    Attributes:
        columns: derivatives by the wanted coordinates of the row's block, and the residual as the last.
        by_point: derivatives by the point.
        in_front: False where the residual is the constant for points behind the camera, without derivatives.
        value: robust loss of the residual.
    """

    columns: Float[Tensor, "F W 2 n"]
    by_point: Float[Tensor, "F 3 2 n"]
    in_front: Bool[Tensor, "F n"]
    value: Float[Tensor, "F n"]


def residual_rows(rows: Rows) -> Float[Tensor, "F 2 n"]:
    """Whitened residuals, projection minus observation."""
    xyz_cam = rows.xyz_cam.movedim(1, -1)
    projected, in_front = camera_models.project(rows.model, rows.params[:, None], xyz_cam)
    return _whitened(rows, projected[..., 0], projected[..., 1], in_front)


def _whitened(rows: Rows, x: Tensor, y: Tensor, in_front: Tensor) -> Float[Tensor, "F 2 n"]:
    error = _combine(rows.whitening.unbind(1), x - rows.xy[:, 0], y - rows.xy[:, 1])
    return torch.where(in_front[:, None], error, BEHIND_RESIDUAL / 2**0.5)


def _combine(columns: Sequence[Tensor], x: Tensor | None, y: Tensor | None) -> Tensor:
    """A 2 x 2 matrix, given by its columns, times a vector whose components may be absent, which is zero."""
    if x is None:
        assert y is not None
        return columns[1] * y[:, None]
    first = columns[0] * x[:, None]
    return first if y is None else torch.addcmul(first, columns[1], y[:, None])


def _minus(value: Tensor, factor: Tensor, other: Tensor) -> Tensor:
    """``value - factor * other`` in one pass."""
    return torch.addcmul(value, factor, other, value=-1)


def linearize_rows(
    rows: Rows, wanted: Sequence[int], loss: robust.Loss = robust.Loss.NONE, loss_scale: float = 1.0
) -> Slopes:
    """Residuals as ``residual_rows`` gives them, weighted as iterated least squares asks, with derivatives.

    Args:
        rows: the observations.
        wanted: coordinates of a row's block to differentiate by: 0-5 the pose's update, from 6 the camera's parameters.
        loss: its derivative is the squared weight.
        loss_scale: residual norm, in standard deviations, at which it bends.
    """
    x, y, z = rows.xyz_cam.unbind(1)
    seen = camera_models.project_slopes(rows.model, rows.params[:, None], x, y, z)
    residual = _whitened(rows, seen.x, seen.y, seen.in_front)
    value, weight = robust.evaluate(loss, residual.square().sum(1), loss_scale)
    if loss is robust.Loss.NONE:
        scale = seen.regular.to(x.dtype)[:, None]
    else:
        root = weight.sqrt()
        residual = residual * root[:, None]
        scale = torch.where(seen.regular, root, 0.0)[:, None]
    whitening = [column * scale for column in rows.whitening.unbind(1)]
    a = _combine(whitening, *seen.by_u) * seen.inverse_depth[:, None]
    b = _combine(whitening, *seen.by_v) * seen.inverse_depth[:, None]
    c = _minus(-seen.u[:, None] * a, seen.v[:, None], b)
    columns: list[Tensor] = []
    if any(k < POSE for k in wanted):
        x, y, z = x[:, None], y[:, None], z[:, None]
        # d(exp(w) x)/dw = -hat(x), and -a^T hat(x) = x cross a
        columns = [_minus(y * c, z, b), _minus(z * a, x, c), _minus(x * b, y, a), a, b, c]
    of_model = POSE + len(seen.by_params)
    zero = torch.zeros_like(a) if any(k >= of_model for k in wanted) else a
    chosen = []
    for k in wanted:
        of_params = _combine(whitening, *seen.by_params[k - POSE]) if POSE <= k < of_model else zero
        chosen.append(columns[k] if k < POSE else of_params)
    by_cam = torch.stack([a, b, c], 1)
    by_point = (rows.cam_from_world[..., :3].mT @ by_cam.flatten(2)).reshape(by_cam.shape)
    return Slopes(columns=torch.stack([*chosen, residual], 1), by_point=by_point, in_front=seen.in_front, value=value)
