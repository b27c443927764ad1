"""The distortion is freed where the views ask for it, and nowhere else."""

import dataclasses

import pytest
import torch
from worlds import World, WorldConfig, make_world

from mapped import arc, from_above, partial_of, scene_of
from vggsfm_cli.bundle_adjustment.problem import FreeParameters
from vggsfm_cli.mapping.calibration import (
    INDEPENDENT_OBSERVATIONS,
    DistortionConfig,
    excess_deviation,
    holding,
    release_distortion,
    released,
    solve,
)
from vggsfm_cli.mapping.partial import Partial

CONFIG = DistortionConfig()
LOSS_SCALE = 3.0


def after_release(world: World, begin: float) -> torch.Tensor:
    """Distortion of each camera after a model that begins with another one has been looked at."""
    scene = scene_of(world)
    partial = release_distortion(scene, partial_of(scene, world, begin), LOSS_SCALE, CONFIG)
    assert torch.equal(partial.cameras.params[..., :3], world.cameras.params[..., :3])  # nothing else is taken over
    return partial.cameras.params[0, :, 3]


@pytest.mark.parametrize("distortion", [-0.15, 0.06])
def test_many_views_free_the_distortion(distortion: float) -> None:
    assert float(after_release(arc(distortion), 0.0)) == pytest.approx(distortion, abs=0.01)


@pytest.mark.parametrize("begin", [0.0, 0.03])
def test_no_distortion_stays_none_and_a_wrong_one_is_taken_back(begin: float) -> None:
    assert float(after_release(arc(0.0), begin)) == 0.0


def test_what_only_the_formal_deviation_finds_clear_stays_out() -> None:
    world = arc(-0.005)
    scene = scene_of(world)
    partial = partial_of(scene, world, 0.0)
    freed, deviation = solve(scene, partial, CONFIG.solver.build(), FreeParameters(), LOSS_SCALE)
    clear = abs(float(freed.cameras.params[0, 0, 3])) / float(deviation[0, 3])
    assert CONFIG.min_significance < clear < CONFIG.min_significance * excess_deviation(partial, 0)
    assert float(after_release(world, 0.0)) == 0.0


@pytest.mark.parametrize(("distortion", "begin"), [(0.0, 0.0), (-0.05, 0.0), (0.0, -0.02), (-0.05, -0.05)])
def test_flat_ground_from_above_holds_it(distortion: float, begin: float) -> None:
    assert float(after_release(from_above(distortion), begin)) == 0.0


def test_one_camera_asks_for_it_and_the_other_does_not() -> None:
    world = make_world(WorldConfig(points=400, focals=(0.9, 0.9), distortion=0.0), 0)
    params = world.cameras.params.clone()
    params[0, 1, 3] = -0.12
    world = dataclasses.replace(world, cameras=dataclasses.replace(world.cameras, params=params))
    one, two = after_release(world, 0.0).tolist()
    assert one == 0.0
    assert two == pytest.approx(-0.12, abs=0.015)


def test_two_frames_are_not_asked() -> None:
    world = arc(-0.15)
    scene = scene_of(world)
    partial = partial_of(scene, world, 0.0)
    registered = partial.cameras.registered & (torch.arange(8) < 2)
    few = dataclasses.replace(partial, cameras=dataclasses.replace(partial.cameras, registered=registered))
    assert release_distortion(scene, few, LOSS_SCALE, CONFIG) is few


def test_held_parameters_do_not_move_and_the_others_do() -> None:
    world = arc(-0.05)
    scene = scene_of(world)
    partial = partial_of(scene, world, -0.03)
    assert released(scene, partial).tolist() == [True]
    assert released(scene, partial_of(scene, world, 0.0)).tolist() == [False]
    held = holding(scene, torch.tensor([True]))
    assert held.images.priors.known[0, 0].tolist() == [False, False, False, True]
    assert not scene.images.priors.known.any()
    assert not holding(scene, torch.tensor([False])).images.priors.known.any()
    moved, deviation = solve(held, partial, CONFIG.solver.build(), FreeParameters(), LOSS_SCALE)
    assert float(moved.cameras.params[0, 0, 3]) == -0.03
    assert float(deviation[0, 3]) == 0.0 < float(deviation[0, 0])
    moved, deviation = solve(scene, partial, CONFIG.solver.build(), FreeParameters(), LOSS_SCALE)
    assert float(moved.cameras.params[0, 0, 3]) == pytest.approx(-0.05, abs=0.01)
    assert float(deviation[0, 3]) > 0.0


def observed(partial: Partial, count: int) -> Partial:
    """The same with so many observations."""
    index = partial.inliers.flatten().nonzero().flatten()[:count]
    inliers = torch.zeros_like(partial.inliers.flatten())
    inliers[index] = True
    return dataclasses.replace(partial, inliers=inliers.reshape(partial.inliers.shape))


def test_formal_deviations_are_widened_by_the_root_of_the_observations() -> None:
    world = arc()
    partial = partial_of(scene_of(world), world)
    found = [excess_deviation(observed(partial, k * INDEPENDENT_OBSERVATIONS), 0) for k in (1, 2, 4)]
    assert found == pytest.approx([1.0, 2**0.5, 2.0])
    assert excess_deviation(observed(partial, 30), 0) == 1.0
    assert excess_deviation(partial, 1) == 1.0  # of a camera that took no frame
