"""The recipe of VGGSfM v2 against its published run, and on worlds with known truth."""

import dataclasses

import pytest
import torch
from torch import Tensor
from worlds import Path, World, WorldConfig, blank_images, make_world, observe

from goldens import golden
from support.noise import NoiseConfig, add_noise
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.evaluation.poses import pair_errors
from vggsfm_cli.geometry import alignment, pose, rotation
from vggsfm_cli.mapping.output import colorize, to_reconstruction
from vggsfm_cli.recipes.v2.mapping import V2Mapper, V2MappingOptions, reconstruct_as_v2
from vggsfm_cli.scene import CameraPriors, Cameras, ImageSet, Reconstruction, Tracks

EXACT = SchurConfig(max_iterations=100, cost_tolerance=1e-12)
SIDE = 512


def published(name: str) -> tuple[dict[str, Tensor], ImageSet, Tracks, Cameras]:
    """A published run and what went into it; there a pixel's centre is where its number says, here as well."""
    run = {key.removeprefix(f"{name}."): value for key, value in golden("reconstruction").items() if name in key}
    frames, count = run["in_vis"].shape
    focal = run["in_focal_ndc"][:, 0] * SIDE / 2
    values = [focal, torch.full_like(focal, SIDE / 2), torch.full_like(focal, SIDE / 2)]
    model, index = "SIMPLE_PINHOLE", torch.arange(frames)[None]
    if name == "radial_shared":
        model, index = "SIMPLE_RADIAL", torch.zeros(1, frames, dtype=torch.long)
        values = [value.mean()[None] for value in [*values, torch.zeros_like(focal)]]
    params = torch.stack(values, -1)[None]
    priors = CameraPriors(
        camera_index=index,
        models=(model,) * params.shape[1],
        params=params,
        known=torch.zeros_like(params, dtype=torch.bool),
        focal_spread=torch.full(params.shape[:2], torch.inf, dtype=torch.float64),
    )
    grid = torch.arange(SIDE) / (SIDE - 1)
    position = torch.stack([grid.expand(SIDE, SIDE), grid[:, None].expand(SIDE, SIDE)])
    number = [torch.full((1, SIDE, SIDE), (s + 1) / frames) for s in range(frames)]
    images = ImageSet(
        pixels=torch.stack([torch.cat([position, blue]) for blue in number])[None],
        mask=torch.ones(1, frames, SIDE, SIDE, dtype=torch.bool),
        frame_valid=torch.ones(1, frames, dtype=torch.bool),
        stored_from_network=torch.eye(2, 3).repeat(1, frames, 1, 1),
        stored_size=torch.full((1, frames, 2), SIDE),
        names=(tuple(f"{s}.png" for s in range(frames)),),
        originals=None,
        priors=priors,
    )
    cameras = Cameras(
        cam_from_world=torch.cat([run["in_R"], run["in_T"][..., None]], -1)[None],
        models=priors.models,
        params=params,
        camera_index=index,
        registered=images.frame_valid,
    )
    tracks = Tracks(
        xy=run["in_tracks"][None],
        visibility=run["in_vis"][None],
        covariance=torch.eye(2, dtype=torch.float64).expand(1, frames, count, 2, 2),
        query_frame=torch.zeros(1, count, dtype=torch.long),
        valid=torch.ones(1, count, dtype=torch.bool),
    )
    return run, images, tracks, cameras


@pytest.mark.parametrize("name", ["pinhole", "radial_shared"])
def test_the_published_run(name: str) -> None:
    run, images, tracks, cameras = published(name)
    mapper = V2Mapper(images, tracks, EXACT.build(), V2MappingOptions(count_invisible=True), 0, 0)
    epipolar = torch.cat([torch.zeros(1, 400, dtype=torch.bool), run["in_fmat_inlier"]])
    usable = (run["in_vis"] > 0.05) & (run["in_score"] > 0.5)

    pair = mapper.initial_pair(cameras, epipolar)
    assert pair.frames == [0, int(run["initBA_idx"]) + 1]
    assert torch.equal(pair.points.valid[0], run["initBA_track_mask"])

    model = mapper.run(cameras, epipolar, usable)
    assert torch.equal(model.points.valid[0], run["out_valid_tracks"])
    assert torch.equal(model.inliers[0], run["out_valid_2D_mask"])
    expected = run["out_extrinsics"]
    # ours chose the same gauge but not the same path to it
    move = alignment.align_cameras(model.cameras.cam_from_world[0], expected)
    found = alignment.apply_to_cameras(*move, model.cameras.cam_from_world[0])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    xyz = alignment.apply_to_points(*move, model.points.xyz_world[0, run["out_valid_tracks"]])
    torch.testing.assert_close(xyz, run["out_points3D"], atol=1e-6, rtol=0)
    params = model.cameras.frame_params[0]
    torch.testing.assert_close(params[:, 0], run["out_intrinsics"][:, 0, 0], atol=1e-4, rtol=0)
    if name == "radial_shared":
        torch.testing.assert_close(params[:, 3:], run["out_extra_params"], atol=1e-6, rtol=0)

    sparse = to_reconstruction(mapper.scene, model, {})
    sparse = colorize(dataclasses.replace(sparse, xy=sparse.xy + 0.5), images)
    torch.testing.assert_close(sparse.color, run["out_points3D_rgb"].float(), atol=1e-5, rtol=0)


def rough(world: World, seed: int, degrees: float = 4.0) -> Cameras:
    """The true cameras as a network may see them: turned and shifted a little, all with a guessed focal length."""
    generator = torch.Generator().manual_seed(seed)
    frames = world.sizes.shape[1]
    turn = rotation.exp(
        torch.randn(frames, 3, generator=generator).double() * torch.deg2rad(torch.tensor(degrees / 1.7))
    )
    poses = world.cameras.cam_from_world[0]
    centers = pose.center(poses)
    centers = centers + 0.03 * centers.norm(dim=-1, keepdim=True) * torch.randn(frames, 3, generator=generator).double()
    turned = turn @ poses[:, :, :3]
    params = world.cameras.params.clone()
    params[..., 0] *= 1.15
    params[..., 3:] = 0
    moved = torch.cat([turned, -(turned @ centers[..., None])], -1)
    return dataclasses.replace(world.cameras, cam_from_world=moved[None], params=params)


def errors_deg(found: Reconstruction, world: World) -> Tensor:
    """The larger error of every pair."""
    index = [int(name[:3]) for name in found.names]
    everywhere = torch.ones(len(index), dtype=torch.bool)
    return pair_errors(found.cameras.cam_from_world[0], world.cameras.cam_from_world[0, index], everywhere).worse_deg


def noisy(world: World, seed: int) -> Tracks:
    return add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=0.5, outliers=0.1, missing=0.1), seed)


@pytest.mark.parametrize(("path", "points", "worst_deg"), [(Path.ARC, 1200, 0.2), (Path.FORWARD, 600, 0.4)])
def test_noisy_tracks_and_rough_cameras_give_nearly_the_world(path: Path, points: int, worst_deg: float) -> None:
    seed = 0
    world = make_world(WorldConfig(path=path, points=points, frames=7), seed)
    found = reconstruct_as_v2(
        blank_images(world), noisy(world, seed), rough(world, seed), adjuster=SchurConfig().build()
    )
    assert found.unregistered == {}
    (model,) = found.models
    assert len(model.names) == 7
    errors = errors_deg(model, world)
    assert errors.median() < 0.1
    assert errors.max() < worst_deg
    assert model.error_px.mean() < 1.0


def test_cameras_from_two_view_geometry_will_do() -> None:
    world = make_world(WorldConfig(points=800, frames=5), 2)
    images, tracks = blank_images(world), noisy(world, 2)
    cameras = PreliminaryCamerasConfig().build()(images, tracks)
    found = reconstruct_as_v2(images, tracks, cameras, adjuster=SchurConfig().build(), reference=2).models[0]
    assert len(found.names) == 5
    assert errors_deg(found, world).max() < 0.3


def test_thresholds_are_in_network_pixels() -> None:
    world = make_world(WorldConfig(points=900, frames=4), 3)
    coarse = NoiseConfig(sigma_px=2.5, outliers=0.1, missing=0.1)
    tracks = add_noise(observe(world), world.sizes, coarse, 3)
    found = {
        scale: reconstruct_as_v2(
            blank_images(world, scale=scale), tracks, rough(world, 3), adjuster=SchurConfig().build()
        ).models[0]
        for scale in (1.0, 4.0)
    }
    assert found[4.0].report["observations"] > 1.1 * found[1.0].report["observations"]
    assert found[4.0].report["noise_px"] < 0.6


def test_two_frames_make_a_model() -> None:
    world = make_world(WorldConfig(points=600, frames=2, distortion=0.0), 0)
    images = blank_images(world)
    params = images.priors.params.clone()
    params[..., 0] = world.cameras.params[..., 0]
    priors = dataclasses.replace(images.priors, params=params, known=torch.ones_like(params, dtype=torch.bool))
    images = dataclasses.replace(images, priors=priors)
    found = reconstruct_as_v2(images, noisy(world, 0), rough(world, 0, 1.0), adjuster=SchurConfig().build()).models[0]
    assert len(found.names) == 2
    assert errors_deg(found, world).max() < 1.0
    assert torch.equal(found.cameras.params[0], params[0])


def test_a_frame_that_sees_something_else_is_named() -> None:
    world = make_world(WorldConfig(points=800, frames=5), 1)
    tracks = noisy(world, 1)
    xy = tracks.xy.clone()
    xy[0, 3] = xy[0, 3, torch.randperm(800, generator=torch.Generator().manual_seed(0))]
    mapped = reconstruct_as_v2(
        blank_images(world), dataclasses.replace(tracks, xy=xy), rough(world, 1), adjuster=SchurConfig().build()
    )
    found = mapped.models[0]
    assert found.names == ("000.jpg", "001.jpg", "002.jpg", "004.jpg")
    assert "observations agree" in mapped.unregistered["003.jpg"]
    assert errors_deg(found, world).max() < 0.3


def test_padding_frames_and_tracks_take_no_part() -> None:
    world = make_world(WorldConfig(points=1000, frames=4), 1)
    images, tracks = blank_images(world), noisy(world, 1)
    valid = images.frame_valid.clone()
    valid[0, 3] = False
    few = dataclasses.replace(tracks, valid=tracks.valid & (torch.arange(1000) < 800))
    images = dataclasses.replace(images, frame_valid=valid)
    found = reconstruct_as_v2(images, few, rough(world, 1), adjuster=SchurConfig().build()).models[0]
    assert found.names == ("000.jpg", "001.jpg", "002.jpg")
    assert 50 < len(found.xyz_world) <= 800


def test_unrelated_tracks_fail_with_counts() -> None:
    world = make_world(WorldConfig(points=300, frames=4), 0)
    tracks = observe(world)
    anywhere = torch.rand(tracks.xy.shape, generator=torch.Generator().manual_seed(0)).double() * 700
    tracks = dataclasses.replace(tracks, xy=anywhere, visibility=torch.ones_like(tracks.visibility))
    with pytest.raises(ReconstructionFailed, match=r"Camera estimation: '000.jpg' sees 238 tracks, .* 30 are needed"):
        reconstruct_as_v2(blank_images(world), tracks, rough(world, 0), adjuster=SchurConfig().build())


def test_turning_on_the_spot_fails() -> None:
    world = make_world(WorldConfig(path=Path.FACADE, frames=3, points=200), 0)
    poses = world.cameras.cam_from_world.clone()
    center = pose.center(poses[:, :1])
    poses[..., 3] = -(poses[..., :3] @ center[..., None]).squeeze(-1)
    still = dataclasses.replace(world, cameras=dataclasses.replace(world.cameras, cam_from_world=poses))
    tracks = add_noise(observe(still), still.sizes, NoiseConfig(sigma_px=0.3, outliers=0.0, missing=0.0), 0)
    with pytest.raises(ReconstructionFailed, match=r"rotation|degrees"):
        reconstruct_as_v2(blank_images(still), tracks, rough(world, 0), adjuster=SchurConfig().build())


def test_same_seed_same_result() -> None:
    world = make_world(WorldConfig(points=500, frames=3), 3)
    one, two = (
        reconstruct_as_v2(
            blank_images(world), noisy(world, 3), rough(world, 3), adjuster=SchurConfig().build(), seed=5
        ).models[0]
        for _ in range(2)
    )
    assert torch.equal(one.cameras.cam_from_world, two.cameras.cam_from_world)
    assert torch.equal(one.xyz_world, two.xyz_world)
