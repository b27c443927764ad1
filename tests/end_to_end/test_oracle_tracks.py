"""Worlds with known truth are reconstructed from their tracks alone: no images, focal length unknown."""

import dataclasses
import itertools

import pytest
import torch
from worlds import Path, World, WorldConfig, blank_images, join, make_world, observe

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.mapping.mapper import reconstruct_from_tracks
from vggsfm_cli.model import AdjusterConfig
from vggsfm_cli.scene import Cameras, ImageSet, Reconstruction, Tracks
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig

WORLDS = {
    "arc": WorldConfig(path=Path.ARC),
    "arc of three": WorldConfig(path=Path.ARC, frames=3),
    "ring": WorldConfig(path=Path.RING, frames=14, points=1500),
    "forward": WorldConfig(path=Path.FORWARD, focals=(0.7,)),
    "facade": WorldConfig(path=Path.FACADE, focals=(1.3,)),
    "two cameras": WorldConfig(path=Path.ARC, focals=(0.8, 1.4)),
    "principal point": WorldConfig(path=Path.ARC, principal_point=(0.01, -0.006)),
}


def run(
    images: ImageSet, tracks: Tracks, seed: int = 0, adjuster: AdjusterConfig | None = None
) -> list[Reconstruction]:
    adjuster = adjuster or SchurConfig()
    return reconstruct_from_tracks(
        images,
        tracks,
        camera_estimator=PreliminaryCamerasConfig().build(),
        triangulator=RansacTriangulatorConfig().build(),
        adjuster=adjuster.build(),
        seed=seed,
    )


def pose_errors_deg(found: Reconstruction, world: World) -> torch.Tensor:
    """Largest of rotation and translation direction error of every pair of frames."""
    index = [int(name[:3]) for name in found.names]
    truth = world.cameras.cam_from_world[0, index]
    est = found.cameras.cam_from_world[0]
    errors = []
    for a, b in itertools.combinations(range(len(index)), 2):
        expected, got = pose.relative(truth[a], truth[b]), pose.relative(est[a], est[b])
        turned = rotation.angle_deg(got[:, :3] @ expected[:, :3].mT)
        cross = torch.linalg.cross(got[:, 3], expected[:, 3]).norm()
        direction = torch.rad2deg(torch.atan2(cross, got[:, 3] @ expected[:, 3]))
        errors.append(torch.maximum(turned, direction))
    return torch.stack(errors)


@pytest.mark.parametrize(("name", "seed"), [*((name, 0) for name in WORLDS), ("arc", 1), ("forward", 2)])
def test_exact_tracks_give_the_exact_world(name: str, seed: int) -> None:
    world = make_world(WORLDS[name], seed)
    models = run(blank_images(world), observe(world), seed)
    assert [len(model.names) for model in models] == [WORLDS[name].frames]
    assert pose_errors_deg(models[0], world).max() < 1e-3
    assert torch.allclose(models[0].cameras.params, world.cameras.params, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adjuster", [TheseusConfig(), CeresConfig(approximate=True)], ids=["theseus", "ceres"])
def test_every_adjuster_gives_the_world(adjuster: AdjusterConfig) -> None:
    # three frames: whether they hold the distortion and the principal point is for the adjuster to say
    world = make_world(WorldConfig(frames=3, points=800, principal_point=(0.01, -0.006)), 3)
    tracks = add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=0.02, outliers=0.02), 3)
    (found,) = run(blank_images(world), tracks, adjuster=adjuster)
    assert len(found.names) == 3
    assert pose_errors_deg(found, world).max() < 0.05
    assert (found.cameras.params - world.cameras.params)[0, 0, 1:3].norm() < 2
    assert found.cameras.params[0, 0, 3] == pytest.approx(-0.05, abs=0.005)


@pytest.mark.parametrize(
    ("name", "seed", "worst_deg"),
    [
        ("arc", 0, 0.1),
        ("arc", 1, 0.1),
        ("forward", 0, 0.1),
        # far sides that share nothing, neighbours with a short baseline, a second focal length: single pairs are worse
        ("ring", 0, 0.5),
        ("facade", 0, 0.5),
        ("two cameras", 0, 0.5),
    ],
)
def test_noisy_tracks_give_nearly_the_world(name: str, seed: int, worst_deg: float) -> None:
    config = dataclasses.replace(WORLDS[name], points=4000)
    world = make_world(config, seed)
    images = blank_images(world)
    tracks = add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=0.5, outliers=0.1, missing=0.2), seed)
    models = run(images, tracks, seed)
    assert [len(model.names) for model in models] == [config.frames]
    errors = pose_errors_deg(models[0], world)
    assert errors.median() < 0.15
    assert errors.max() < worst_deg
    assert models[0].error_px.mean() < 1.0


def test_groups_without_common_tracks_become_two_models() -> None:
    world = join(make_world(WorldConfig(frames=5), 0), make_world(WorldConfig(path=Path.FACADE, frames=7), 1))
    models = run(blank_images(world), observe(world))
    assert [set(model.names) for model in models] == [
        {f"{s:03d}.jpg" for s in range(5, 12)},
        {f"{s:03d}.jpg" for s in range(5)},
    ]
    for model in models:
        assert pose_errors_deg(model, world).max() < 1e-3
        assert len(model.cameras.models) == 1


def test_a_stray_frame_is_named_with_its_reason() -> None:
    world = make_world(WorldConfig(frames=6), 0)
    tracks = observe(world)
    visibility = tracks.visibility.clone()
    visibility[0, 3, 10:] = 0
    models = run(blank_images(world), dataclasses.replace(tracks, visibility=visibility))
    assert len(models) == 1
    assert len(models[0].names) == 5
    assert list(models[0].report["unregistered"]) == ["003.jpg"]
    assert "tracks" in models[0].report["unregistered"]["003.jpg"]


def test_too_few_tracks_fail_with_counts() -> None:
    world = make_world(WorldConfig(frames=4, points=30), 0)
    tracks = observe(world)
    few = dataclasses.replace(tracks, valid=tracks.valid & (torch.arange(30) < 12))
    with pytest.raises(ReconstructionFailed, match="shares 6 of 8 tracks"):
        run(blank_images(world), few)


def test_turning_on_the_spot_fails() -> None:
    world = make_world(WorldConfig(path=Path.FACADE, frames=4), 0)
    poses = world.cameras.cam_from_world.clone()
    center = pose.center(poses[:, :1])
    poses[..., 3] = -(poses[..., :3] @ center[..., None]).squeeze(-1)
    still = dataclasses.replace(world, cameras=dataclasses.replace(world.cameras, cam_from_world=poses))
    tracks = add_noise(observe(still), still.sizes, NoiseConfig(sigma_px=0.3, outliers=0.0, missing=0.0), 0)
    with pytest.raises(ReconstructionFailed):
        run(blank_images(still), tracks)


def test_same_seed_same_result() -> None:
    world = make_world(WorldConfig(points=1000), 3)
    tracks = add_noise(observe(world), world.sizes, NoiseConfig(), 3)
    one, two = (run(blank_images(world), tracks, seed=5)[0] for _ in range(2))
    assert torch.equal(one.cameras.cam_from_world, two.cameras.cam_from_world)
    assert torch.equal(one.xyz_world, two.xyz_world)


def test_known_focal_length_stays() -> None:
    world = make_world(WorldConfig(points=600), 4)
    images = blank_images(world)
    params = images.priors.params.clone()
    params[0, 0, 0] = world.cameras.params[0, 0, 0]
    known = images.priors.known.clone()
    known[0, 0, 0] = True
    priors = dataclasses.replace(images.priors, params=params, known=known, focal_spread=torch.zeros(1, 1).double())
    found = run(dataclasses.replace(images, priors=priors), observe(world))[0]
    assert float(found.cameras.params[0, 0, 0]) == float(params[0, 0, 0])
    assert pose_errors_deg(found, world).max() < 1e-3


def test_cameras_of_the_estimator_alone_are_close() -> None:
    world = make_world(WorldConfig(distortion=0.0, points=1500), 0)
    cameras = PreliminaryCamerasConfig().build()(blank_images(world), observe(world))
    assert isinstance(cameras, Cameras)
    assert bool(cameras.registered.all())
    turned = cameras.cam_from_world[0, :, :, :3] @ cameras.cam_from_world[0, 0, :, :3].mT
    truth = world.cameras.cam_from_world[0, :, :, :3] @ world.cameras.cam_from_world[0, 0, :, :3].mT
    assert rotation.angle_deg(turned.double() @ truth.mT).max() < 2
