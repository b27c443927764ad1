"""The triangulator without parameters."""

import dataclasses
import time

import torch
from worlds import Path, World, WorldConfig, make_world, observe

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig


def world(points: int = 400, frames: int = 8) -> World:
    return make_world(WorldConfig(frames=frames, points=points), 0)


def test_exact_tracks_give_exact_points() -> None:
    truth = world()
    tracks = observe(truth)
    points = RansacTriangulatorConfig().build()(truth.cameras, tracks)
    twice = (tracks.visibility > 0).sum(1) >= 2
    assert points.valid[twice].double().mean() > 0.99
    assert not points.valid[~twice].any()
    error = (points.xyz_world - truth.points.xyz_world).norm(dim=-1)[points.valid]
    assert error.max() < 1e-6


def test_gross_errors_are_left_out() -> None:
    truth = world()
    exact = observe(truth)
    tracks = add_noise(exact, truth.sizes, NoiseConfig(sigma_px=0.3, outliers=0.25, missing=0.0), 1)
    triangulator = RansacTriangulatorConfig().build()
    points = triangulator(truth.cameras, tracks)
    long = points.valid & ((exact.visibility > 0).sum(1) >= 5)
    error = (points.xyz_world - truth.points.xyz_world).norm(dim=-1)[long]
    assert long.double().mean() > 0.3
    assert error.median() < 0.01
    assert error.quantile(0.98) < 0.05
    inliers = triangulator.inliers(truth.cameras, points, tracks)
    off = (tracks.xy - exact.xy).norm(dim=-1) > 8
    assert (inliers & off & long[:, None]).sum() < 0.005 * inliers.sum()
    good = (exact.visibility > 0) & ~off & long[:, None]
    assert (inliers & good).sum() > 0.98 * good.sum()


def test_frames_that_are_not_registered_do_not_count() -> None:
    truth = world()
    tracks = observe(truth)
    registered = truth.cameras.registered.clone()
    registered[0, 2:] = False
    poses = truth.cameras.cam_from_world.clone()
    poses[0, 2:] = torch.nan
    cameras = dataclasses.replace(truth.cameras, cam_from_world=poses, registered=registered)
    triangulator = RansacTriangulatorConfig().build()
    points = triangulator(cameras, tracks)
    both = (tracks.visibility[0, :2] > 0).all(0)
    assert torch.isfinite(points.xyz_world).all()
    assert points.valid[0].sum() > 0.8 * both.sum()
    assert not (points.valid[0] & ~both).any()
    assert not triangulator.inliers(cameras, points, tracks)[0, 2:].any()


def test_scenes_and_tracks_keep_their_order() -> None:
    truth, other = world(), make_world(WorldConfig(path=Path.FACADE, points=400), 1)
    both = [observe(truth), observe(other)]
    triangulator = RansacTriangulatorConfig().build()
    alone = [triangulator(w.cameras, t) for w, t in zip((truth, other), both, strict=True)]

    def stack(name: str, records: list) -> torch.Tensor:  # type: ignore[type-arg]
        return torch.cat([getattr(record, name) for record in records])

    cameras = dataclasses.replace(
        truth.cameras,
        **{
            name: stack(name, [truth.cameras, other.cameras])
            for name in ("cam_from_world", "params", "camera_index", "registered")
        },
    )
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    names = ("xy", "visibility", "covariance", "query_frame", "valid")
    tracks = dataclasses.replace(both[0], **{name: stack(name, both) for name in names})
    together = triangulator(cameras, tracks)
    for b in range(2):
        torch.testing.assert_close(together.xyz_world[b], alone[b].xyz_world[0])
        assert torch.equal(together.valid[b], alone[b].valid[0])
    shuffled = dataclasses.replace(
        both[0],
        xy=both[0].xy[:, :, order],
        visibility=both[0].visibility[:, :, order],
        covariance=both[0].covariance[:, :, order],
        query_frame=both[0].query_frame[:, order],
        valid=both[0].valid[:, order],
    )
    torch.testing.assert_close(triangulator(truth.cameras, shuffled).xyz_world, alone[0].xyz_world[:, order])


def test_narrow_rays_are_refused() -> None:
    truth = world()
    poses = truth.cameras.cam_from_world[:, :1].repeat(1, 8, 1, 1)
    poses[0, :, 0, 3] += torch.linspace(0, 0.01, 8, dtype=torch.float64)
    still = dataclasses.replace(truth, cameras=dataclasses.replace(truth.cameras, cam_from_world=poses))
    assert not RansacTriangulatorConfig().build()(still.cameras, observe(still)).valid.any()


def test_no_tracks() -> None:
    truth = world()
    tracks = observe(truth)
    nothing = dataclasses.replace(tracks, valid=torch.zeros_like(tracks.valid))
    points = RansacTriangulatorConfig().build()(truth.cameras, nothing)
    assert not points.valid.any()
    assert torch.isfinite(points.xyz_world).all()


def test_gradients_reach_cameras_and_tracks() -> None:
    truth = world(points=50)
    tracks = observe(truth)
    xy = tracks.xy.clone().requires_grad_()
    poses = truth.cameras.cam_from_world.clone().requires_grad_()
    cameras = dataclasses.replace(truth.cameras, cam_from_world=poses)
    points = RansacTriangulatorConfig().build()(cameras, dataclasses.replace(tracks, xy=xy))
    points.xyz_world.square().sum().backward()
    for gradient in (xy.grad, poses.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


def test_ten_thousand_tracks_take_about_a_second() -> None:
    truth = world(points=10_000, frames=11)
    tracks = add_noise(observe(truth), truth.sizes, NoiseConfig(), 0)
    triangulator = RansacTriangulatorConfig().build()
    start = time.process_time()
    with torch.no_grad():
        triangulator(truth.cameras, tracks)
    assert time.process_time() - start < 8  # type checks and a busy machine included
