"""Derivatives of a solution by the implicit function theorem."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vggsfm_cli.bundle_adjustment.camera_matrix import conjugate_gradients
from vggsfm_cli.bundle_adjustment.normal_equations import SchurSystem, State

PRECONDITIONER_DAMPING = 1e-9
PRECONDITIONER_TOLERANCE = 1e-9
"""Where the preconditioner itself iterates, it must do so to the end: conjugate gradients need a constant one."""

TOLERANCE = 1e-12
MAX_CONJUGATE_STEPS = 100


def implicit_step(system: SchurSystem, state: State) -> tuple[Float[Tensor, " D"], Float[Tensor, "3 K"]]:
    """A step of zero length that carries the derivative of the solution.

    Where the gradient ``g(x, t)`` vanishes, ``dx/dt = -H^-1 dg/dt`` with the full Hessian ``H``.
    """
    normal = system.normal_equations(state)
    flat = _join_step(normal.gradient_cameras, normal.gradient_points)
    return _split_step(system, _Implicit.apply(flat, system, state))  # type: ignore[no-untyped-call]


def _join_step(cameras: Tensor, points: Tensor) -> Tensor:
    return torch.cat([cameras, points.flatten()])


def _split_step(system: SchurSystem, flat: Tensor) -> tuple[Tensor, Tensor]:
    points = flat[system.unknowns.count :].reshape(3, -1)
    return flat[: system.unknowns.count], points if system.problem.points_free else torch.zeros_like(points)


class _Implicit(torch.autograd.Function):
    """Zero in the forward pass; ``-H^-1`` in the backward one."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, system: SchurSystem, state: State) -> Tensor:
        """No step: the state is a minimum already."""
        ctx.system, ctx.state = system, state
        return torch.zeros_like(gradient)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """The Hessian is symmetric, so its inverse is its own adjoint."""
        return -_solve_hessian(ctx.system, ctx.state, upstream), None, None


def _solve_hessian(system: SchurSystem, state: State, rhs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """``H^-1 rhs`` by conjugate gradients, preconditioned by the Gauss-Newton system."""
    constant = State(
        cam_from_world=state.cam_from_world.detach(), params=state.params.detach(), xyz_world=state.xyz_world.detach()
    )
    step = torch.zeros_like(rhs).requires_grad_()
    with torch.enable_grad():
        normal = system.normal_equations(system.move(constant, *_split_step(system, step)))
        gradient = _join_step(normal.gradient_cameras, normal.gradient_points)
    with torch.no_grad():
        factor = system.normal_equations(constant).factor(PRECONDITIONER_DAMPING, PRECONDITIONER_TOLERANCE)

    def precondition(vector: Tensor) -> Tensor:
        return -_join_step(*factor.solve(*_split_step(system, vector)))

    def times(vector: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, step, vector, retain_graph=True)[0]

    rhs = _join_step(*_split_step(system, rhs)).detach()
    return conjugate_gradients(times, precondition, rhs, TOLERANCE, MAX_CONJUGATE_STEPS)
