"""Two-view matrices."""

import torch

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
    f = epipolar.fundamental_from_pose(motion, k, k)
    assert epipolar.sampson_error(f, xy1, xy2).abs().max() < 1e-9


def test_sampson_error_is_a_distance() -> None:
    motion, k, xy1, xy2 = two_views()
    f = epipolar.fundamental_from_pose(motion, k, k)
    line = torch.cat([xy1, torch.ones_like(xy1[:, :1])], -1) @ f.T
    across = line[:, :2] / line[:, :2].norm(dim=-1, keepdim=True)
    error = epipolar.sampson_error(f, xy1, xy2 + 2 * across).abs()
    assert (error < 2).all()  # moving both points is cheaper than moving one
    assert (error > 2 / 3).all()


def test_eight_point_finds_the_matrix() -> None:
    motion, k, xy1, xy2 = two_views()
    expected = epipolar.fundamental_from_pose(motion, k, k)
    weights = torch.ones(len(xy1), dtype=torch.float64)
    found = epipolar.eight_point(xy1, xy2, weights)
    expected = expected / expected.norm()
    assert torch.minimum((found - expected).norm(), (found + expected).norm()) < 1e-9
    wrong = xy2.clone()
    wrong[:5] += 50
    weights[:5] = 0
    torch.testing.assert_close(epipolar.eight_point(xy1, wrong, weights).abs(), found.abs(), rtol=1e-6, atol=1e-10)


def test_eight_point_gradients() -> None:
    motion, k, xy1, xy2 = two_views(12)
    uv1, uv2 = ((xy - k[:2, 2]) / 700 for xy in (xy1, xy2))
    weights = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)
    inputs = tuple(value.clone().requires_grad_() for value in (uv1, uv2 + 0.002 * uv1.flip(0), weights))

    def error(*args: torch.Tensor) -> torch.Tensor:
        return epipolar.sampson_error(epipolar.eight_point(*args), uv1, uv2).square()

    assert torch.autograd.gradcheck(error, inputs, atol=1e-6)
    assert torch.linalg.det(epipolar.eight_point(*(value.detach() for value in inputs))).abs() < 1e-12
    assert motion.shape == (3, 4)


def test_essential_matrix_and_its_poses() -> None:
    motion, k, *_ = two_views()
    essential = epipolar.essential_from_pose(motion)
    unit = torch.cat([motion[:, :3], motion[:, 3:] / motion[:, 3].norm()], -1)
    candidates = epipolar.poses_from_essential(essential)
    assert (candidates - unit).flatten(1).norm(dim=-1).min() < 1e-9
    torch.testing.assert_close(torch.linalg.det(candidates[..., :3]), torch.ones(4, dtype=torch.float64))
    f = epipolar.fundamental_from_pose(motion, k, k)
    assert epipolar.essential_mismatch(f, k, k) < 1e-9
    off = k.clone()
    off[0, 0] = off[1, 1] = 1000
    assert epipolar.essential_mismatch(f, off, off) > 0.01


def unit_baseline(motion: torch.Tensor) -> torch.Tensor:
    return torch.cat([motion[..., :3], motion[..., 3:] / motion[..., 3:].norm(dim=-2, keepdim=True)], -1)


def calibrated_views(count: int, points: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True motions with unit baselines, and exact positions on the z = 1 planes, of several pairs of views."""
    views = [two_views(points, seed) for seed in range(count)]
    uv = [torch.stack([(view[i] - view[1][:2, 2]) / 700 for view in views]) for i in (2, 3)]
    return unit_baseline(torch.stack([view[0] for view in views])), uv[0], uv[1]


def test_relative_pose_is_exact_and_in_front() -> None:
    motion, uv1, uv2 = calibrated_views(3)
    weights = torch.ones_like(uv1[..., 0])
    torch.testing.assert_close(epipolar.relative_pose(uv1, uv2, weights), motion, atol=1e-9, rtol=0)
    swapped = epipolar.relative_pose(uv2, uv1, weights)
    torch.testing.assert_close(swapped, unit_baseline(pose.inverse(motion)), atol=1e-9, rtol=0)
    single = epipolar.relative_pose(uv1.float(), uv2.float(), weights.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), motion, atol=1e-4, rtol=0)


def test_relative_pose_ignores_what_has_no_weight() -> None:
    motion, uv1, uv2 = calibrated_views(2)
    weights = torch.ones_like(uv1[..., 0])
    wrong = uv2.clone()
    wrong[:, :15] += 0.3
    assert (epipolar.relative_pose(uv1, wrong, weights) - motion).abs().max() > 1e-2
    weights[:, :15] = 0
    torch.testing.assert_close(epipolar.relative_pose(uv1, wrong, weights), motion, atol=1e-8, rtol=0)


def test_relative_pose_weighs_by_precision() -> None:
    motion, uv1, uv2 = calibrated_views(20)
    deviation = torch.where(torch.arange(40) % 2 == 0, 1e-4, 3e-3).double()
    noise = torch.randn(uv2.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = uv2 + deviation[:, None] * noise
    errors = [
        rotation.angle_deg(epipolar.relative_pose(uv1, noisy, w.expand(20, -1))[..., :3].mT @ motion[..., :3]).mean()
        for w in (deviation**-2, torch.ones_like(deviation))
    ]
    assert errors[0] < 0.3 * errors[1]


def test_relative_pose_gradients() -> None:
    _, uv1, uv2 = calibrated_views(1, points=12)
    noise = 0.002 * torch.randn(uv2.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)[None]
    for second in (uv2 + noise, uv2):  # without noise the two singular values are equal
        inputs = tuple(value.clone().requires_grad_() for value in (uv1, second, weights))
        assert torch.autograd.gradcheck(epipolar.relative_pose, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)
