"""Points from rays."""

import pytest
import torch

from vggsfm_cli.geometry import pose, triangulate


def views(count: int = 5, points: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True points, their exact observations and poses, one set of views a point."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randn(points, 3, generator=generator, dtype=torch.float64)
    centers = 6 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)
    poses = pose.look_at(centers, torch.zeros_like(centers), torch.zeros(count, dtype=torch.float64))
    poses = poses.expand(points, -1, -1, -1)
    xyz_cam = pose.transform(poses, xyz[:, None])
    return xyz, xyz_cam[..., :2] / xyz_cam[..., 2:], poses


@pytest.mark.parametrize("count", [2, 3, 8])
def test_exact_rays_meet(count: int) -> None:
    xyz, uv, poses = views(count)
    found = triangulate.triangulate(uv, poses, torch.ones_like(uv[..., 0]))
    torch.testing.assert_close(found, xyz, rtol=1e-8, atol=1e-8)


def test_views_without_weight_do_not_count() -> None:
    xyz, uv, poses = views()
    uv = uv.clone()
    uv[:, 2] += 5
    weights = torch.ones_like(uv[..., 0])
    weights[:, 2] = 0
    torch.testing.assert_close(triangulate.triangulate(uv, poses, weights), xyz, rtol=1e-8, atol=1e-8)


def test_refinement_lowers_the_reprojection_error() -> None:
    xyz, uv, poses = views(6)
    noisy = uv + 0.01 * torch.randn(uv.shape, generator=torch.Generator().manual_seed(1), dtype=uv.dtype)
    weights = torch.ones_like(uv[..., 0])
    linear = triangulate.triangulate(noisy, poses, weights, reweightings=0)
    refined = triangulate.refine(linear, noisy, poses, weights, iterations=5)

    def cost(points: torch.Tensor) -> torch.Tensor:
        xyz_cam = pose.transform(poses, points[:, None])
        return (xyz_cam[..., :2] / xyz_cam[..., 2:] - noisy).square().sum((-1, -2))

    assert (cost(refined) <= cost(linear) + 1e-12).all()
    stepped = refined + 1e-4 * torch.randn(xyz.shape, generator=torch.Generator().manual_seed(2), dtype=xyz.dtype)
    assert (cost(refined) <= cost(stepped)).all()


def test_degenerate_input_stays_finite() -> None:
    xyz, uv, poses = views(3)
    same = poses[:, :1].expand(-1, 3, -1, -1)
    for weights in (torch.zeros_like(uv[..., 0]), torch.ones_like(uv[..., 0])):
        found = triangulate.triangulate(uv[:, :1].expand(-1, 3, -1), same, weights)
        assert torch.isfinite(found).all()
        assert torch.isfinite(triangulate.refine(found, uv, same, weights)).all()
    assert torch.isfinite(xyz).all()


def test_two_views_agree_with_many() -> None:
    xyz, uv, poses = views(2)
    motion = pose.relative(poses[:, 0], poses[:, 1])
    found = triangulate.triangulate_two_view(uv[:, 0], uv[:, 1], motion)
    torch.testing.assert_close(found, pose.transform(poses[:, 0], xyz), rtol=1e-8, atol=1e-8)


def test_gradients() -> None:
    _, uv, poses = views(3, points=2)
    weights = torch.tensor([[1.0, 0.5, 2.0]], dtype=torch.float64).repeat(2, 1)
    uv = uv + 0.01 * torch.arange(6, dtype=torch.float64).reshape(3, 2)
    inputs = tuple(value.clone().requires_grad_() for value in (uv, poses, weights))
    assert torch.autograd.gradcheck(lambda *a: triangulate.triangulate(*a, reweightings=0), inputs)
    xyz = triangulate.triangulate(uv, poses, weights).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: triangulate.refine(*a, iterations=1), (xyz, *inputs))


def test_angles() -> None:
    point = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    centers = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    assert triangulate.angle_deg(point, centers[0], centers[1]) == pytest.approx(90)
    assert triangulate.angle_deg(point, centers[0], centers[2]) == pytest.approx(180)
    ones = torch.ones(3, dtype=torch.float64)
    assert triangulate.max_angle_deg(point, centers, ones) == pytest.approx(180)
    assert triangulate.max_angle_deg(point, centers, torch.tensor([1.0, 1.0, 0.0]).double()) == pytest.approx(90)
    assert triangulate.max_angle_deg(point, centers, torch.tensor([0.0, 1.0, 0.0]).double()) == 0


def test_solve3() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.mT, torch.randn(50, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(triangulate.solve3(matrix, right), torch.linalg.solve(matrix, right))
    assert torch.isfinite(triangulate.solve3(torch.zeros(3, 3), torch.ones(3))).all()
