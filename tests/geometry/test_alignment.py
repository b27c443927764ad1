"""Similarities."""

import torch

from vggsfm_cli.geometry import alignment, pose, rotation


def cloud(points: int = 12) -> torch.Tensor:
    return torch.randn(points, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def moved(xyz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    scale = torch.tensor(2.5, dtype=torch.float64)
    turn = rotation.exp(torch.tensor([0.4, -1.2, 2.0], dtype=torch.float64))
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return scale, turn, shift, alignment.apply_to_points(scale, turn, shift, xyz)


def test_exact_similarity_is_found() -> None:
    xyz = cloud()
    scale, turn, shift, target = moved(xyz)
    target = target.clone()
    target[0] += 10
    weights = torch.ones(len(xyz), dtype=torch.float64)
    weights[0] = 0
    for found, expected in zip(alignment.umeyama(xyz, target, weights), (scale, turn, shift), strict=True):
        torch.testing.assert_close(found, expected)


def test_mirrored_points_get_a_proper_rotation() -> None:
    xyz = cloud()
    _, turn, _ = alignment.umeyama(xyz, xyz * torch.tensor([1.0, 1.0, -1.0]), torch.ones(len(xyz)).double())
    torch.testing.assert_close(torch.linalg.det(turn), torch.tensor(1.0, dtype=torch.float64))


def test_points_that_coincide_keep_scale_one() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    scale, turn, shift = alignment.umeyama(same, same + 1, torch.ones(4, dtype=torch.float64))
    assert scale == 1
    assert torch.isfinite(turn).all()
    assert torch.isfinite(shift).all()


def test_cameras_move_with_the_world() -> None:
    xyz = cloud()
    scale, turn, shift, target = moved(xyz)
    twist = rotation.exp(torch.tensor([[0.1, 0.2, 0.3], [-1.0, 0.5, 0.0]], dtype=torch.float64))
    poses = torch.cat([twist, torch.randn(2, 3, 1, dtype=torch.float64)], -1)
    after = alignment.apply_to_cameras(scale, turn, shift, poses)
    before = pose.transform(poses[:, None], xyz)
    torch.testing.assert_close(pose.transform(after[:, None], target), scale * before)


def test_gradients() -> None:
    xyz = cloud(6)
    target = moved(xyz)[-1] + 0.1 * xyz.flip(0)
    weights = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
    inputs = tuple(value.clone().requires_grad_() for value in (xyz, target, weights))
    assert torch.autograd.gradcheck(alignment.umeyama, inputs)
