import pycolmap
import pytest
import torch

from vggsfm_cli.geometry import camera

PARAMS = {
    "SIMPLE_PINHOLE": (800.0, 320.0, 242.0),
    "PINHOLE": (800.0, 790.0, 320.0, 242.0),
    "SIMPLE_RADIAL": (800.0, 320.0, 242.0, -0.08),
    "RADIAL": (800.0, 320.0, 242.0, -0.08, 0.02),
    "OPENCV": (800.0, 790.0, 320.0, 242.0, -0.08, 0.02, 0.002, -0.003),
    "OPENCV_FISHEYE": (400.0, 410.0, 320.0, 242.0, 0.04, -0.02, 0.004, -0.001),
}
MODELS = tuple(PARAMS)


def _params(model: str, padding: int = 0) -> torch.Tensor:
    return torch.tensor(PARAMS[model] + (0.0,) * padding, dtype=torch.float64)


def _points(count: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1
    return xyz * torch.tensor([1.5, 1.5, 1.0]) + torch.tensor([0.0, 0.0, 4.0])


def _colmap(model: str) -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=640, height=480, params=list(PARAMS[model]))


def _jacobian(model: str, params: torch.Tensor, xyz: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Pixels, in front, and whole derivative matrices, zero where there are none."""
    at = camera.project_slopes(model, params, *xyz.unbind(-1))
    by_uv = torch.stack([torch.stack(at.by_u, -1), torch.stack(at.by_v, -1)], -1)
    ray = torch.stack([at.u, at.v], -1).expand(by_uv.shape[:-1])
    by_xyz = torch.cat([by_uv, -(by_uv @ ray[..., None])], -1) * (at.inverse_depth * at.regular)[..., None, None]
    zero = torch.zeros_like(at.x)
    pairs = [[zero if d is None else d.expand(at.x.shape) for d in pair] for pair in at.by_params]
    pairs += [[zero, zero]] * (params.shape[-1] - len(pairs))
    by_params = torch.stack([torch.stack(pair, -1) for pair in pairs], -1)
    in_front, regular = at.in_front.expand(at.x.shape), at.regular[..., None, None]
    return torch.stack([at.x, at.y], -1), in_front, by_xyz, by_params * regular


@pytest.mark.parametrize("model", MODELS)
def test_project_agrees_with_colmap(model: str) -> None:
    xyz = _points()
    xy, in_front = camera.project(model, _params(model), xyz)
    assert in_front.all()
    torch.testing.assert_close(xy, torch.from_numpy(_colmap(model).img_from_cam(xyz.numpy())))


@pytest.mark.parametrize("model", MODELS)
def test_unproject_agrees_with_colmap(model: str) -> None:
    xy = torch.rand(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 480
    expected = torch.from_numpy(_colmap(model).cam_from_img(xy.numpy()))
    torch.testing.assert_close(camera.unproject(model, _params(model), xy), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_parameters_stand_in_colmaps_order(model: str) -> None:
    colmap = _colmap(model)
    assert camera.num_params(model) == len(colmap.params)
    assert camera.focal_indices(model) == tuple(colmap.focal_length_idxs())
    assert camera.principal_point_indices(model) == tuple(colmap.principal_point_idxs())
    assert camera.distortion_indices(model) == tuple(colmap.extra_params_idxs())
    torch.testing.assert_close(
        camera.calibration_matrix(model, _params(model)), torch.from_numpy(colmap.calibration_matrix())
    )
    torch.testing.assert_close(camera.focal(model, _params(model)), torch.tensor(colmap.mean_focal_length()).double())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("padding", [0, 3])
def test_jacobian_is_the_derivative(model: str, padding: int) -> None:
    params, xyz = _params(model, padding), torch.cat([_points(4), torch.tensor([[0.0, 0.0, 2.0]])])
    xy, in_front, by_xyz, by_params = _jacobian(model, params, xyz)
    torch.testing.assert_close(xy, camera.project(model, params, xyz)[0])
    assert in_front.all()
    for i in range(len(xyz)):
        expected_xyz, expected_params = torch.autograd.functional.jacobian(
            lambda x, p: camera.project(model, p, x)[0], (xyz[i], params)
        )
        torch.testing.assert_close(by_xyz[i], expected_xyz)
        torch.testing.assert_close(by_params[i], expected_params)


@pytest.mark.parametrize("model", MODELS)
def test_unproject_inverts_project(model: str) -> None:
    xyz, params = _points(), _params(model, 2)
    uv = camera.unproject(model, params, camera.project(model, params, xyz)[0])
    torch.testing.assert_close(uv, xyz[:, :2] / xyz[:, 2:])


def test_unproject_inverts_a_wide_fisheye() -> None:
    params = _params("OPENCV_FISHEYE")
    angle = torch.deg2rad(torch.tensor([0.0, 1e-5, 30.0, 60.0, 80.0, 88.0], dtype=torch.float64))
    xyz = torch.stack([angle.sin() * 0.6, angle.sin() * 0.8, angle.cos()], -1)
    uv = camera.unproject("OPENCV_FISHEYE", params, camera.project("OPENCV_FISHEYE", params, xyz)[0])
    torch.testing.assert_close(uv, xyz[:, :2] / xyz[:, 2:])


@pytest.mark.parametrize("model", MODELS)
def test_batch_axes_broadcast(model: str) -> None:
    params = torch.stack([_params(model), 1.01 * _params(model)])[:, None]
    xyz = _points(6).reshape(1, 6, 3)
    xy, in_front, by_xyz, by_params = _jacobian(model, params, xyz)
    assert xy.shape == (2, 6, 2) and in_front.shape == (2, 6)
    assert by_xyz.shape == (2, 6, 2, 3) and by_params.shape == (2, 6, 2, camera.num_params(model))
    torch.testing.assert_close(xy, camera.project(model, params, xyz)[0])
    torch.testing.assert_close(xy[1], camera.project(model, params[1, 0], xyz[0])[0])
    assert camera.unproject(model, params, xy).shape == (2, 6, 2)


@pytest.mark.parametrize("model", MODELS)
def test_gradcheck(model: str) -> None:
    params, xyz = _params(model).requires_grad_(), _points(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, x: camera.project(model, p, x)[0], (params, xyz))
    assert torch.autograd.gradcheck(lambda p, x: _jacobian(model, p, x)[2:], (params, xyz), atol=1e-3)
    xy = camera.project(model, params.detach(), xyz.detach())[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda p, x: camera.unproject(model, p, x), (params, xy), eps=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_everywhere(model: str, dtype: torch.dtype) -> None:
    xyz = torch.tensor([[0, 0, 0], [1, 2, -1], [1e3, -1e3, 2e-6], [1, 1, 1e-6], [0, 0, 1]], dtype=dtype)
    xyz.requires_grad_()
    params = _params(model).to(dtype).requires_grad_()
    xy, in_front, by_xyz, by_params = _jacobian(model, params, xyz)
    assert in_front.tolist() == [False, False, True, False, True]
    assert all(value.isfinite().all() for value in (xy, by_xyz, by_params))
    assert (by_xyz[:2] == 0).all() and (by_params[:2] == 0).all()
    camera.project(model, params, xyz)[0].sum().backward()
    assert xyz.grad is not None and xyz.grad.isfinite().all()
    assert params.grad is not None and params.grad.isfinite().all()
    far = torch.tensor([[1e5, -1e5], [320, 242], [3000, 0]], dtype=dtype)
    assert camera.unproject(model, params, far).isfinite().all()


def test_from_focal() -> None:
    params = camera.from_focal("OPENCV", 700.0, 640, 480)
    assert params.dtype == torch.float64
    assert params.tolist() == [700, 700, 320, 240, 0, 0, 0, 0]
    xy, _ = camera.project("SIMPLE_PINHOLE", camera.from_focal("SIMPLE_PINHOLE", 700.0, 640, 480), torch.eye(3)[2])
    assert xy.tolist() == [320, 240], "the optical axis meets the centre of the picture, corner origin"
