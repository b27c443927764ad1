"""The steps of the mapping policy, one by one."""

import dataclasses

import pytest
import torch

from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.geometry import pose
from vggsfm_cli.refinement import model as modelling
from vggsfm_cli.refinement.calibration import (
    Choice,
    DistortionConfig,
    PrincipalPointConfig,
    free_distortion,
    free_principal_point,
)
from vggsfm_cli.refinement.finish import colorize, normalized, to_reconstruction
from vggsfm_cli.refinement.model import FreedomConfig, Model, Scene
from vggsfm_cli.refinement.resection import ResectionConfig, place_frames
from vggsfm_cli.refinement.schedule import (
    ScheduleConfig,
    calibrated,
    growth_tracks,
    median_depth,
    noise_px,
    spread_tracks,
    without_weak_frames,
)
from vggsfm_cli.synthetic.noise import NoiseConfig, add_noise
from vggsfm_cli.synthetic.worlds import Path, World, WorldConfig, blank_images, make_world, observe
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig


def scene_of(world: World, noise: NoiseConfig | None = None) -> Scene:
    tracks = observe(world)
    return Scene(
        images=blank_images(world),
        tracks=tracks if noise is None else add_noise(tracks, world.sizes, noise, 0),
        triangulator=RansacTriangulatorConfig().build(),
        scale=torch.ones(1, world.sizes.shape[1], dtype=torch.float64),
    )


def model_of(world: World, scene: Scene) -> Model:
    return modelling.triangulate(scene, world.cameras, 4.0)


WORLD = make_world(WorldConfig(points=1000), 0)
NOISE = NoiseConfig(sigma_px=0.5, outliers=0.1, missing=0.1)


def test_a_true_model_explains_most() -> None:
    scene = scene_of(WORLD, NOISE)
    model = model_of(WORLD, scene)
    share = float(model.inliers.sum()) / float(scene.seen.sum())
    assert 0.8 < share < 0.95
    wrong = WORLD.cameras.cam_from_world.clone()
    wrong[0, 3] = wrong[0, 5]
    cameras = dataclasses.replace(WORLD.cameras, cam_from_world=wrong)
    worse = modelling.triangulate(scene, cameras, 4.0)
    assert modelling.score(scene, worse, 2.0) < 0.9 * modelling.score(scene, model, 2.0)


def test_noise_is_measured_and_covariances_follow() -> None:
    scene = scene_of(WORLD, NOISE)
    model = model_of(WORLD, scene)
    assert noise_px(scene, model) == pytest.approx(0.45, abs=0.1)
    ten_times = dataclasses.replace(scene.tracks, covariance=100 * scene.tracks.covariance)
    tracks = calibrated(dataclasses.replace(scene, tracks=ten_times), model, ten_times)
    assert float(tracks.covariance[0, 0, 0, 0, 0]) == pytest.approx(0.25, rel=0.5)


def test_frames_are_placed_among_points() -> None:
    scene = scene_of(WORLD, NOISE)
    model = model_of(WORLD, scene)
    registered = model.cameras.registered.clone()
    registered[0, [2, 6]] = False
    poses = model.cameras.cam_from_world.clone()
    poses[0, [2, 6]] = pose.identity(dtype=poses.dtype)
    cameras = dataclasses.replace(model.cameras, cam_from_world=poses, registered=registered)
    placed, attempts = place_frames(
        scene, dataclasses.replace(model, cameras=cameras), [2, 6], ResectionConfig(min_inliers=20)
    )
    assert all(attempt.placed and attempt.reason == "" for attempt in attempts)
    assert bool(placed.cameras.registered.all())
    torch.testing.assert_close(placed.cameras.cam_from_world, WORLD.cameras.cam_from_world, atol=2e-2, rtol=0)


def test_a_frame_that_fits_nowhere_is_refused() -> None:
    scene = scene_of(WORLD, NoiseConfig(sigma_px=0.5, outliers=1.0, missing=0.0))
    model = Model(cameras=WORLD.cameras, points=WORLD.points, inliers=scene.seen[None])
    _, attempts = place_frames(scene, model, [1], ResectionConfig())
    assert not attempts[0].placed
    assert "agree" in attempts[0].reason


def test_turning_leaves_no_parallax() -> None:
    scene = scene_of(WORLD)
    moving = modelling.parallax_px(scene, model_of(WORLD, scene))
    poses = WORLD.cameras.cam_from_world.clone()
    poses[..., 3] = -(poses[..., :3] @ WORLD.cameras.centers[:, :1, :, None]).squeeze(-1)
    still = dataclasses.replace(WORLD, cameras=dataclasses.replace(WORLD.cameras, cam_from_world=poses))
    scene = scene_of(still)
    turning = Model(cameras=still.cameras, points=still.points, inliers=scene.seen[None])
    assert moving > 20
    assert modelling.parallax_px(scene, turning) < 0.5


def test_tracks_are_chosen_evenly() -> None:
    scene = scene_of(WORLD)
    model = model_of(WORLD, scene)
    mask = spread_tracks(scene, model, 200)
    assert 150 < int(mask.sum()) <= 200
    assert (model.inliers[0][:, mask].sum(1) > 25).all()
    assert torch.equal(spread_tracks(scene, model, 10_000), model.inliers[0].sum(0) >= 2)
    chosen = growth_tracks(scene, 2, 4, 0)
    assert torch.equal(chosen, growth_tracks(scene, 2, 4, 0))
    assert 20 < len(chosen) < 500
    assert (scene.seen[:, chosen].sum(1) >= 16).all()


def test_weak_frames_are_taken_out() -> None:
    scene = scene_of(WORLD)
    model = model_of(WORLD, scene)
    inliers = model.inliers.clone()
    inliers[0, 4, inliers[0, 4].nonzero().flatten()[5:]] = False
    left = without_weak_frames(scene, dataclasses.replace(model, inliers=inliers), ScheduleConfig())
    assert left.frames == [0, 1, 2, 3, 5, 6, 7]
    assert not left.inliers[0, 4].any()


def test_adjustment_finds_the_focal_length_and_holds_what_few_frames_see() -> None:
    world = make_world(WorldConfig(points=600, focals=(0.9, 1.1)), 0)
    scene = scene_of(world)
    params = world.cameras.params.clone()
    params[..., 0] *= 1.02
    params[..., 3] = 0
    model = dataclasses.replace(model_of(world, scene), cameras=dataclasses.replace(world.cameras, params=params))
    solver = SchurConfig().build()
    found = modelling.adjusted(scene, model, solver, 1.0, FreedomConfig())
    torch.testing.assert_close(found.cameras.params, world.cameras.params, rtol=1e-5, atol=1e-5)
    held = modelling.adjusted(scene, model, solver, 1.0, FreedomConfig(distortion_from=5))
    assert not held.cameras.params[..., 3].any()
    fixed = modelling.adjusted(scene, model, solver, 1.0, FreedomConfig(focal_from=9))
    assert torch.equal(fixed.cameras.params, params)


@pytest.mark.parametrize("refine", list(Choice))
def test_principal_point_is_freed_where_it_is_held(refine: Choice) -> None:
    world = make_world(WorldConfig(points=1000, principal_point=(0.01, -0.005)), 0)
    scene = scene_of(world, NoiseConfig(sigma_px=0.2, outliers=0.0, missing=0.0))
    params = world.cameras.params.clone()
    params[..., 1:3] = torch.tensor([512.0, 384.0], dtype=torch.float64)
    model = dataclasses.replace(model_of(world, scene), cameras=dataclasses.replace(world.cameras, params=params))
    found = free_principal_point(scene, model, 1.0, PrincipalPointConfig(refine=refine), [])
    off = (found.cameras.params[0, 0, 1:3] - world.cameras.params[0, 0, 1:3]).norm()
    assert off > 5 if refine is Choice.NO else off < 1.5


def test_principal_point_stays_where_it_is_right() -> None:
    scene = scene_of(WORLD, NOISE)
    model = model_of(WORLD, scene)
    found = free_principal_point(scene, model, 1.0, PrincipalPointConfig(), [])
    assert torch.equal(found.cameras.params, model.cameras.params)


@pytest.mark.parametrize(("points", "distortion", "freed"), [(1500, -0.2, True), (60, 0.0, False)])
def test_distortion_of_three_frames(points: int, distortion: float, freed: bool) -> None:
    world = make_world(WorldConfig(frames=3, points=points, distortion=distortion), 0)
    scene = scene_of(world, NoiseConfig(sigma_px=0.3, outliers=0.0, missing=0.0))
    params = world.cameras.params.clone()
    params[..., 3] = 0
    cameras = dataclasses.replace(world.cameras, params=params)
    model = dataclasses.replace(modelling.triangulate(scene, world.cameras, 20.0), cameras=cameras)
    found, held = free_distortion(scene, model, 1.0, DistortionConfig(), FreedomConfig())
    assert held == ([] if freed else [0])
    if freed:
        assert float(found.cameras.params[0, 0, 3]) == pytest.approx(distortion, rel=0.2)
    else:
        assert found is model


def test_normalised_models_start_at_the_origin() -> None:
    scene = scene_of(WORLD)
    model = model_of(WORLD, scene)
    moved = normalized(model)
    torch.testing.assert_close(moved.cameras.cam_from_world[0, 0], pose.identity(dtype=torch.float64))
    assert float(median_depth(moved)) == pytest.approx(1)
    again = modelling.filtered(scene, moved, 1e-3)
    assert torch.equal(again.inliers, model.inliers & again.points.valid[:, None])
    assert again.points.valid.sum() == model.points.valid.sum()


def test_reconstruction_keeps_what_is_observed() -> None:
    world = make_world(WorldConfig(points=300, focals=(0.8, 1.0), path=Path.FACADE), 0)
    scene = scene_of(world)
    registered = world.cameras.registered.clone()
    registered[0, [0, 2, 4]] = False
    cameras = dataclasses.replace(world.cameras, registered=registered)
    model = modelling.triangulate(scene, cameras, 4.0)
    found = to_reconstruction(scene, model, {"a": 1})
    assert found.names == tuple(f"{s:03d}.jpg" for s in (1, 3, 5, 6, 7))
    assert found.cameras.camera_index.tolist() == [[1, 1, 1, 0, 1]]
    assert torch.bincount(found.point, minlength=len(found.xyz_world)).min() >= 2
    assert found.error_px.max() < 1e-6
    xy, _ = found.cameras.project(found.xyz_world[None])
    torch.testing.assert_close(xy[0, found.frame, found.point], found.xy)
    assert found.report == {"a": 1}


def test_points_take_the_color_of_their_pixels() -> None:
    scene = scene_of(WORLD)
    found = to_reconstruction(scene, model_of(WORLD, scene), {})
    pixels = torch.zeros(1, 8, 3, 8, 8)
    pixels[:, :, 0] = 0.25
    pixels[:, :, 2] = 1.0
    to_stored = torch.tensor([[128.0, 0.0, 0.0], [0.0, 96.0, 0.0]]).repeat(1, 8, 1, 1)
    images = dataclasses.replace(scene.images, pixels=pixels, stored_from_network=to_stored)
    color = colorize(found, images).color
    torch.testing.assert_close(color, torch.tensor([0.25, 0.0, 1.0]).expand_as(color))
