"""Synthetic worlds are what they say."""

import pytest
import torch
from worlds import Path, WorldConfig, blank_images, join, make_world, observe, only_frames

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.geometry import pose


@pytest.mark.parametrize("path", list(Path))
def test_every_frame_sees_enough_and_shares_it(path: Path) -> None:
    frames = 14 if path is Path.RING else 8
    world = make_world(WorldConfig(path=path, frames=frames), 0)
    seen = observe(world).visibility[0] > 0
    shared = (seen.double() @ seen.double().mT).fill_diagonal_(0)
    assert (seen.sum(1) > 60).all()
    assert (shared.amax(1) > 30).all()
    if path is Path.RING:
        assert shared[0, 7] < 0.1 * shared[0, 1]


def test_tracks_are_the_projections_of_the_points() -> None:
    world = make_world(WorldConfig(), 0)
    tracks = observe(world)
    xy, in_front = world.cameras.project(world.points.xyz_world)
    seen = tracks.visibility > 0
    assert in_front[seen].all()
    assert torch.equal(tracks.xy[seen], xy[seen])
    inside = (tracks.xy >= 0).all(-1) & (tracks.xy <= torch.tensor([1024, 768])).all(-1)
    assert inside[seen].all()


def test_cameras_are_rigid_and_look_at_the_scene() -> None:
    world = make_world(WorldConfig(), 3)
    rotation = world.cameras.cam_from_world[..., :3]
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, eye)
    assert (torch.linalg.det(rotation) > 0).all()
    middle = pose.transform(world.cameras.cam_from_world, torch.zeros(1, 1, 3, dtype=torch.float64))
    assert (middle[..., 2] > 3).all()


def test_the_seed_decides() -> None:
    one, same, other = (make_world(WorldConfig(), seed) for seed in (0, 0, 1))
    assert torch.equal(one.points.xyz_world, same.points.xyz_world)
    assert not torch.equal(one.points.xyz_world, other.points.xyz_world)
    tracks = observe(one)
    noisy = [add_noise(tracks, one.sizes, NoiseConfig(), seed).xy for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])


def test_noise_is_as_configured() -> None:
    world = make_world(WorldConfig(points=3000), 0)
    tracks = observe(world)
    seen = tracks.visibility > 0
    noisy = add_noise(tracks, world.sizes, NoiseConfig(sigma_px=0.7, outliers=0.2, missing=0.3), 0)
    error = (noisy.xy - tracks.xy)[seen]
    off = error.norm(dim=-1) > 5
    assert float(off.double().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(error[~off].std()) == pytest.approx(0.7, rel=0.05)
    assert float((noisy.visibility[seen] == 0).double().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(noisy.covariance[0, 0, 0, 0, 0]) == pytest.approx(0.49)


def test_images_give_nothing_away() -> None:
    world = make_world(WorldConfig(focals=(0.7, 1.1)), 0)
    images = blank_images(world, scale=1.5)
    assert images.priors.params[0, :, 0].tolist() == pytest.approx([1228.8, 1228.8])
    assert not images.priors.params[..., 3].any()
    assert not images.priors.known.any()
    torch.testing.assert_close(images.pixel_scale, torch.full((1, 8), 1.5))


def test_joined_worlds_share_nothing() -> None:
    world = join(make_world(WorldConfig(frames=3), 0), make_world(WorldConfig(frames=4, path=Path.FACADE), 0))
    seen = observe(world).visibility[0] > 0
    assert not (seen[:3].any(0) & seen[3:].any(0)).any()
    assert world.cameras.camera_index.tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    part = observe(only_frames(world, [3, 4, 5, 6]))
    assert torch.equal(part.visibility[0] > 0, seen[3:])
