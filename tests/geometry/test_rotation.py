"""Rotations: the maps undo each other, also at the angles where formulas break."""

import math

import pytest
import torch

from vggsfm_cli.geometry import rotation


def vectors(angle: float, count: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    axis = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return angle * axis / axis.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1e-3, 1.0, 3.0, math.pi - 1e-6])
def test_log_undoes_exp(angle: float) -> None:
    turned = rotation.exp(vectors(angle))
    eye = torch.eye(3, dtype=torch.float64).expand_as(turned)
    torch.testing.assert_close(turned @ turned.mT, eye)
    torch.testing.assert_close(rotation.log(turned), vectors(angle), atol=1e-7, rtol=0)
    torch.testing.assert_close(rotation.angle_deg(turned), torch.full((50,), math.degrees(angle)).double())


@pytest.mark.parametrize("angle", [0.0, 1.0, math.pi])
def test_quaternions_are_the_same_rotation(angle: float) -> None:
    turned = rotation.exp(vectors(angle))
    quaternion = rotation.to_quaternion(turned)
    torch.testing.assert_close(quaternion.norm(dim=-1), torch.ones(50, dtype=torch.float64))
    assert (quaternion[:, 0] >= 0).all()
    torch.testing.assert_close(rotation.from_quaternion(quaternion), turned)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    turned = rotation.exp(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    x, y = torch.eye(3, dtype=torch.float64)[:2]
    torch.testing.assert_close(turned @ x, y)


def test_exp_is_differentiable_at_zero() -> None:
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation.exp, zero)


def test_closest_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = rotation.exp(vectors(1.0)) + 0.2 * torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix)
    torch.testing.assert_close(rotation.closest_rotation(matrix), u @ vt)
    equal = (2 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rotation.closest_rotation, equal)
