"""Where models grow from: stars of a few frames, and the focal length that three views know and two do not."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from worlds import Path, World, WorldConfig, blank_images, make_world, observe, only_frames

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.star import StarConfig, explained, grow_star, star_tracks
from vggsfm_cli.camera_estimation.sweep import InitialPair, SweepConfig, scaled, sweep_focals
from vggsfm_cli.camera_estimation.view_graph import Pair, ViewGraph, ViewGraphConfig, build_view_graph
from vggsfm_cli.geometry import rotation
from vggsfm_cli.scene import Cameras, ImageSet

SIDE = 1024
CLEAN = NoiseConfig(sigma_px=0.3, outliers=0.0, missing=0.0)


def three_of(config: WorldConfig, relief: float = 1.0) -> World:
    """The middle three of five frames without distortion; the depth of the points is scaled by ``relief``."""
    world = only_frames(make_world(dataclasses.replace(config, frames=5, points=400, distortion=0.0), 0), [1, 2, 3])
    xyz = world.points.xyz_world * torch.tensor([1.0, 1.0, relief], dtype=torch.float64)
    return dataclasses.replace(world, points=dataclasses.replace(world.points, xyz_world=xyz))


def with_priors(images: ImageSet, focals: list[float], known: bool = False) -> ImageSet:
    """The same images with other focal lengths to begin with, in long sides."""
    params = images.priors.params.clone()
    params[0, :, 0] = SIDE * torch.tensor(focals, dtype=torch.float64)
    fixed = torch.full_like(images.priors.known, known)
    return dataclasses.replace(images, priors=dataclasses.replace(images.priors, params=params, known=fixed))


def graph_of(world: World, images: ImageSet) -> ViewGraph:
    return build_view_graph(images, add_noise(observe(world), world.sizes, CLEAN, 0), ViewGraphConfig())


def starts_of(world: World, images: ImageSet) -> list[InitialPair]:
    graph = graph_of(world, images)
    return PreliminaryCamerasConfig().build().initial_pairs(images, graph, list(range(len(graph.scale))))


def focals_of(start: InitialPair) -> list[float]:
    return (start.params[:, 0] / SIDE).tolist()


@pytest.mark.parametrize(("flat", "focal"), [(True, 0.7), (True, 1.2), (True, 2.0), (False, 0.7), (False, 2.0)])
def test_three_views_know_the_focal_length_that_two_leave_open(flat: bool, focal: float) -> None:
    # a plane, or cameras as far from the point that all look at
    world = (
        three_of(WorldConfig(path=Path.FACADE, focals=(focal,), jitter=0.3), relief=0.0)
        if flat
        else three_of(WorldConfig(path=Path.ARC, focals=(focal,), jitter=0.0))
    )
    found = starts_of(world, with_priors(blank_images(world), [0.95]))
    assert focals_of(found[0])[0] == pytest.approx(focal, rel=0.15)
    assert all(start.worth <= found[0].worth for start in found)


def test_known_focal_lengths_are_kept() -> None:
    world = three_of(WorldConfig(path=Path.FACADE, focals=(0.9,)))
    images = with_priors(blank_images(world), [1.1], known=True)
    found = starts_of(world, images)
    assert len(found) == 1
    assert torch.equal(found[0].params, images.priors.params[0])
    assert found[0].worth > 0


def test_focal_lengths_of_their_own_do_not_grow_without_bound() -> None:
    world = three_of(WorldConfig(path=Path.FACADE, focals=(1.0, 1.1, 1.2), jitter=0.3), relief=0.0)
    found = starts_of(world, with_priors(blank_images(world), [1.2] * 3))
    for focal in focals_of(found[0]):
        assert 0.6 < focal < 2.0


def pair_of(frame1: int = 0, frame2: int = 1) -> Pair:
    empty = torch.zeros(0, dtype=torch.long).numpy()
    return Pair(
        frame1=frame1,
        frame2=frame2,
        tracks=empty,
        inliers=empty.astype(bool),
        fundamental=torch.eye(3, dtype=torch.float64).numpy(),
        planar_ratio=0.0,
        shared=0,
    )


class Growth:
    """Stands for the stars: what they explain is a function of the mean focal length, in long sides."""

    def __init__(self, power: float = 0.0, best: float | None = None) -> None:
        self.power, self.best, self.tried = power, best, []

    def __call__(self, params: Tensor) -> list[InitialPair]:
        focal = float(params[:, 0].log().mean().exp()) / SIDE
        self.tried.append(focal)
        worth = focal**self.power if self.best is None else math.exp(-((math.log(focal / self.best) / 0.3) ** 2))
        return [InitialPair(params=params, pair=pair_of(), worth=100 * worth)]


def sweep(growth: Growth, cameras: int, config: SweepConfig | None = None) -> list[InitialPair]:
    world = make_world(WorldConfig(focals=(1.0,) * cameras, frames=3), 0)
    images = blank_images(world)
    return sweep_focals(images, [images.priors.params[0]], growth, config or SweepConfig())


@pytest.mark.parametrize("best", [0.62, 1.0, 1.47, 2.2])
def test_the_sweep_closes_in_on_the_best_and_keeps_distinct_starts(best: float) -> None:
    growth = Growth(best=best)
    found = sweep(growth, 1)
    config = SweepConfig()
    step = (config.max_focal / config.min_focal) ** (1 / (config.steps - 1))
    assert abs(math.log(focals_of(found[0])[0] / best)) < math.log(step) / 2**config.halvings
    assert [start.worth for start in found] == sorted((start.worth for start in found), reverse=True)
    assert len(found) == config.max_starts
    focals = [focals_of(start)[0] for start in found]
    assert all(abs(math.log(a / b)) > config.distinct for i, a in enumerate(focals) for b in focals[:i])
    for end in (config.min_focal, config.max_focal):
        assert any(tried == pytest.approx(end) for tried in growth.tried)


def test_belief_holds_several_focal_lengths_and_leaves_one_to_the_views() -> None:
    alone, together = sweep(Growth(power=0.3), 1)[0], sweep(Growth(power=0.3), 3)[0]
    assert focals_of(alone)[0] > 2.3
    # w ** 0.3 / (1 + log(w) ** 2), the prior's spread of one half put in, is largest at w = 1.17
    assert focals_of(together)[0] / 1.2 == pytest.approx(1.17, rel=0.08)
    assert len(set(focals_of(together))) == 1


def test_scaling_changes_the_focal_lengths_of_the_chosen_cameras_alone() -> None:
    params = torch.tensor([[100.0, 50.0, 40.0, 0.1], [100.0, 110.0, 50.0, 40.0]], dtype=torch.float64)
    found = scaled(("SIMPLE_RADIAL", "PINHOLE"), params, [1], 1.5)
    assert torch.equal(found[0], params[0])
    assert found[1].tolist() == [150.0, 165.0, 50.0, 40.0]


@pytest.fixture(scope="module")
def arc() -> tuple[World, ImageSet, ViewGraph, Cameras]:
    """Eight frames, noisy tracks, and the true intrinsics without poses."""
    world = make_world(WorldConfig(distortion=0.0), 0)
    images = blank_images(world)
    unplaced = dataclasses.replace(world.cameras, registered=torch.zeros_like(world.cameras.registered))
    return world, images, graph_of(world, images), unplaced


def pair_in(graph: ViewGraph, frame1: int, frame2: int) -> Pair:
    return next(pair for pair in graph.pairs if (pair.frame1, pair.frame2) == (frame1, frame2))


def test_a_star_stays_within_the_allowed_frames(arc) -> None:
    _, images, graph, cameras = arc
    star = grow_star(images, graph, cameras, pair_in(graph, 2, 3), StarConfig(), [1, 2, 3, 5])
    assert star is not None
    assert star.registered[0].nonzero().flatten().tolist() == [1, 2, 3, 5]
    whole = grow_star(images, graph, cameras, pair_in(graph, 2, 3), StarConfig())
    assert whole is not None and bool(whole.registered.all())


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_a_star_has_at_most_so_many_frames_and_they_are_right(arc, limit: int) -> None:
    world, images, graph, cameras = arc
    star = grow_star(images, graph, cameras, pair_in(graph, 2, 3), StarConfig(max_frames=limit))
    assert star is not None
    placed = star.registered[0].nonzero().flatten()
    assert len(placed) == limit
    assert {2, 3} <= set(placed.tolist())
    turned = [c.cam_from_world[0, placed, :, :3] @ c.cam_from_world[0, 2, :, :3].mT for c in (star, world.cameras)]
    assert float(rotation.angle_deg(turned[0] @ turned[1].mT).max()) < 0.5


def test_tracks_of_the_seed_come_before_longer_ones(arc) -> None:
    _, _, graph, cameras = arc
    both = graph.seen[0] & graph.seen[5]
    length = graph.seen.sum(0)
    assert length[~both].max() > length[both].min()
    few = int(both.sum()) - 5
    chosen = star_tracks(graph, cameras, StarConfig(max_tracks=few), pair_of(0, 5)).seen
    assert chosen.shape[1] == few
    assert bool((chosen[0] & chosen[5]).all())
    assert int(chosen.sum()) == sum(sorted(length[both].tolist())[-few:])  # the longest of them
    more = star_tracks(graph, cameras, StarConfig(max_tracks=few + 40), pair_of(0, 5)).seen
    assert int((more[0] & more[5]).sum()) == int(both.sum())
    without = star_tracks(graph, cameras, StarConfig(max_tracks=few)).seen
    assert int(without.sum()) == sum(sorted(length.tolist())[-few:]) > int(chosen.sum())
    everything = star_tracks(graph, cameras, StarConfig(max_tracks=10**6), pair_of(0, 5)).seen
    assert int(everything.sum(0).min()) == 2
    assert everything.shape[1] == int((length > 1).sum())


def test_exact_observations_explain_all_they_can() -> None:
    world = make_world(WorldConfig(frames=5, points=300), 0)
    graph = build_view_graph(blank_images(world), observe(world), ViewGraphConfig())
    length = torch.from_numpy(graph.seen.sum(0))
    gain = (2.0 * length - 3)[length > 1].sum()
    assert explained(graph, world.cameras, StarConfig()) == pytest.approx(float(gain), rel=1e-6)


def test_bent_cameras_explain_less(arc) -> None:
    world, _, graph, _ = arc
    truth = explained(graph, world.cameras, StarConfig())
    turn = rotation.exp(torch.deg2rad(torch.arange(8.0, dtype=torch.float64))[:, None] * torch.tensor([0.0, 0.1, 0.0]))
    bent = dataclasses.replace(world.cameras, cam_from_world=(turn @ world.cameras.cam_from_world[0])[None])
    longer = dataclasses.replace(
        world.cameras, params=scaled(world.cameras.models, world.cameras.params[0], [0], 1.1)[None]
    )
    for worse in (bent, longer):
        assert 0 < explained(graph, worse, StarConfig()) < 0.7 * truth
