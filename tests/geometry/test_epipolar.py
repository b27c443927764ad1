"""Two-view matrices."""

import torch

from support.two_views import fundamental_from_pose, sampson_error
from vggsfm_cli.geometry import epipolar, pose, rotation


def two_views(points: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Relative pose, calibration and exact pixels in both views."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(points, 3, generator=generator, dtype=torch.float64) * 4 - 2 + torch.tensor([0.0, 0.0, 6.0])
    turn = rotation.exp(torch.tensor([0.05, -0.3, 0.1], dtype=torch.float64))
    motion = torch.cat([turn, torch.tensor([[1.0], [0.2], [0.1]], dtype=torch.float64)], -1)
    k = torch.tensor([[700.0, 0, 400], [0, 700, 300], [0, 0, 1]], dtype=torch.float64)
    xy = []
    for p in (xyz, pose.transform(motion, xyz)):
        pixels = p @ k.T
        xy.append(pixels[:, :2] / pixels[:, 2:])
    return motion, k, xy[0], xy[1]


def test_pose_explains_its_own_pixels() -> None:
    motion, k, xy1, xy2 = two_views()
    f = fundamental_from_pose(motion, k, k)
    assert sampson_error(f, xy1, xy2).abs().max() < 1e-9


def test_sampson_error_is_a_distance() -> None:
    motion, k, xy1, xy2 = two_views()
    f = fundamental_from_pose(motion, k, k)
    line = torch.cat([xy1, torch.ones_like(xy1[:, :1])], -1) @ f.T
    across = line[:, :2] / line[:, :2].norm(dim=-1, keepdim=True)
    error = sampson_error(f, xy1, xy2 + 2 * across).abs()
    assert (error < 2).all()  # moving both points is cheaper than moving one
    assert (error > 2 / 3).all()


def test_essential_matrix_and_its_poses() -> None:
    motion, k, *_ = two_views()
    essential = epipolar.essential_from_pose(motion)
    unit = torch.cat([motion[:, :3], motion[:, 3:] / motion[:, 3].norm()], -1)
    candidates = epipolar.poses_from_essential(essential)
    assert (candidates - unit).flatten(1).norm(dim=-1).min() < 1e-9
    torch.testing.assert_close(torch.linalg.det(candidates[..., :3]), torch.ones(4, dtype=torch.float64))
    f = fundamental_from_pose(motion, k, k)
    assert epipolar.essential_mismatch(f, k, k) < 1e-9
    off = k.clone()
    off[0, 0] = off[1, 1] = 1000
    assert epipolar.essential_mismatch(f, off, off) > 0.01
