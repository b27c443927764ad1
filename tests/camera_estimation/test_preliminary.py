"""The view graph, the vote on the focal length, and cameras from both."""

import dataclasses

import pytest
import torch
from worlds import Path, WorldConfig, blank_images, join, make_world, observe

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.camera_estimation.focal import FocalVoteConfig, vote_focal
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.star import explained
from vggsfm_cli.camera_estimation.view_graph import ViewGraphConfig, build_view_graph
from vggsfm_cli.geometry import rotation
from vggsfm_cli.scene import Cameras


@pytest.mark.parametrize("focal", [0.6, 0.9, 1.8])
def test_pairs_vote_for_the_focal_length(focal: float) -> None:
    world = make_world(WorldConfig(path=Path.FACADE, focals=(focal,), distortion=0.0, points=1500), 0)
    images = blank_images(world)
    tracks = add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=0.3), 0)
    graph = build_view_graph(images, tracks, ViewGraphConfig())
    hypotheses = vote_focal(images, graph, FocalVoteConfig())
    assert float(hypotheses[0][0, 0]) == pytest.approx(focal * 1024, rel=0.1)
    assert float(hypotheses[-1][0, 0]) == pytest.approx(1.2 * 1024) or len(hypotheses) == 1


def test_cameras_vote_for_their_own_focal_lengths() -> None:
    world = make_world(WorldConfig(path=Path.FACADE, focals=(0.7, 1.5), distortion=0.0, points=1500), 0)
    images = blank_images(world)
    graph = build_view_graph(images, observe(world), ViewGraphConfig())
    found = vote_focal(images, graph, FocalVoteConfig())[0]
    assert found[:, 0].tolist() == pytest.approx([0.7 * 1024, 1.5 * 1024], rel=0.1)


def test_known_focal_length_is_not_voted_on() -> None:
    world = make_world(WorldConfig(), 0)
    images = blank_images(world)
    known = torch.ones_like(images.priors.known)
    images = dataclasses.replace(images, priors=dataclasses.replace(images.priors, known=known))
    graph = build_view_graph(images, observe(world), ViewGraphConfig())
    hypotheses = vote_focal(images, graph, FocalVoteConfig())
    assert len(hypotheses) == 1
    assert torch.equal(hypotheses[0], images.priors.params[0])


def test_components_are_the_groups_of_frames() -> None:
    world = join(make_world(WorldConfig(frames=3), 0), make_world(WorldConfig(path=Path.FACADE, frames=4), 0))
    graph = build_view_graph(blank_images(world), observe(world), ViewGraphConfig())
    assert graph.components() == [[3, 4, 5, 6], [0, 1, 2]]


def spread_deg(cameras: Cameras, truth: Cameras) -> float:
    relative = [c.cam_from_world[0, :, :, :3].double() for c in (cameras, truth)]
    relative = [r @ r[0].mT for r in relative]
    return float(rotation.angle_deg(relative[0] @ relative[1].mT).max())


def test_both_candidates_place_all_frames() -> None:
    world = make_world(WorldConfig(distortion=0.0, points=1500), 0)
    images, tracks = (
        blank_images(world),
        add_noise(observe(world), make_world(WorldConfig(), 0).sizes, NoiseConfig(), 0),
    )
    estimator = PreliminaryCamerasConfig().build()
    graph = build_view_graph(images, tracks, ViewGraphConfig())
    known = dataclasses.replace(world.cameras, registered=torch.zeros_like(world.cameras.registered))
    frames = list(range(8))
    averaged = estimator.averaged(images, graph, known, frames)
    star = estimator.star(images, graph, known, estimator.seeds(graph, known, frames)[0])
    for cameras in (averaged, star):
        assert cameras is not None
        assert bool(cameras.registered.all())
        assert spread_deg(cameras, world.cameras) < 1
        assert explained(graph, cameras, estimator.config.star) > 500


def test_scenes_do_not_mix() -> None:
    world = make_world(WorldConfig(distortion=0.0), 0)
    other = make_world(WorldConfig(distortion=0.0, path=Path.FACADE), 0)
    images, tracks = blank_images(world), observe(world)
    second = observe(other)
    both = dataclasses.replace(
        images,
        **{
            name: getattr(images, name).repeat(2, *[1] * (getattr(images, name).ndim - 1))
            for name in ("pixels", "mask", "frame_valid", "stored_from_network", "stored_size")
        },
        names=images.names * 2,
        priors=dataclasses.replace(
            images.priors,
            **{
                name: getattr(images.priors, name).repeat(2, *[1] * (getattr(images.priors, name).ndim - 1))
                for name in ("camera_index", "params", "known", "focal_spread")
            },
        ),
    )
    joined = dataclasses.replace(
        tracks,
        **{
            name: torch.cat([getattr(tracks, name), getattr(second, name)])
            for name in ("xy", "visibility", "covariance", "query_frame", "valid")
        },
    )
    cameras = PreliminaryCamerasConfig().build()(both, joined)
    assert bool(cameras.registered.all())
    for b, truth in enumerate((world, other)):
        assert spread_deg(cameras.scene(b), truth.cameras) < 2


def test_nothing_shared_places_nothing() -> None:
    world = make_world(WorldConfig(frames=3), 0)
    tracks = observe(world)
    cameras = PreliminaryCamerasConfig().build()(
        blank_images(world), dataclasses.replace(tracks, valid=torch.zeros_like(tracks.valid))
    )
    assert not cameras.registered.any()
