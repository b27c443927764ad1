"""The triangulation transformer: its fit, its planes, and what its corrections may do."""

import dataclasses

import pytest
import torch
from worlds import WorldConfig, make_world, observe

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.geometry import pose
from vggsfm_cli.triangulation.transformer import (
    Surroundings,
    TriangulationTransformerConfig,
    depth_deviation,
    fit,
    plane_through,
    surroundings,
)


@pytest.fixture(scope="module")
def world():
    return make_world(WorldConfig(frames=4, points=150), 1)


def fitted(world, seed=0, sigma=0.5):
    tracks = add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=sigma, outliers=0.0, missing=0.0), seed)
    triangulator = TriangulationTransformerConfig().build()
    points = triangulator.ransac(world.cameras, tracks)
    chosen = (points.valid[0] & (tracks.visible()[0].sum(0) >= 3)).nonzero().flatten()
    some = tracks.some(chosen)
    inliers = some.visible()[0].mT
    return some, fit(world.cameras, some, points.xyz_world[0, chosen].double(), inliers), chosen


def test_the_covariance_of_a_fit_is_that_of_its_errors(world):
    squared, count = 0.0, 0
    for seed in range(12):
        tracks, found, chosen = fitted(world, seed)
        error = found.xyz - world.points.xyz_world[0, chosen].double()
        information = torch.linalg.inv(found.covariance)
        squared += float((error[:, None] @ information @ error[..., None]).sum())
        count += len(error)
        deviation = depth_deviation(world.cameras, tracks, found)
        assert (deviation > 0).all()
    assert 0.8 < squared / count / 3 < 1.25  # chi-square of three


def test_covariances_weigh_the_views(world):
    tracks, found, _ = fitted(world)
    doubtful = tracks.covariance.clone()
    doubtful[:, 0] *= 1e8
    inliers = found.inliers
    unsure = fit(world.cameras, dataclasses.replace(tracks, covariance=doubtful), found.xyz, inliers)
    without = inliers.clone()
    without[:, 0] = False
    enough = without.sum(-1) >= 2
    dropped = fit(world.cameras, tracks, found.xyz, without)
    torch.testing.assert_close(unsure.xyz[enough], dropped.xyz[enough], atol=1e-4, rtol=1e-4)


def plane(noise=0.0, outlier=False):
    generator = torch.Generator().manual_seed(0)
    n, k = 30, 12
    offset = 0.1 * torch.randn(n, k, 2, generator=generator, dtype=torch.float64)
    own = 0.5 + 0.1 * torch.rand(n, generator=generator, dtype=torch.float64)
    theirs = own[:, None] + offset @ torch.tensor([0.7, -0.4]).double()
    theirs = theirs + noise * torch.randn(n, k, generator=generator, dtype=torch.float64)
    if outlier:
        theirs[:, 0] += 0.3
    deviation = torch.full((n,), 1e-3, dtype=torch.float64)
    around = Surroundings(
        index=torch.zeros(n, k, dtype=torch.long),
        known=torch.ones(n, k, dtype=torch.bool),
        offset=offset,
        inverse_depth=own + 0.01,
        their_inverse_depth=theirs,
        deviation=deviation,
        their_deviation=deviation[:, None].expand(n, k),
    )
    return around, own


@pytest.mark.parametrize("outlier", [False, True], ids=["clean", "one neighbour is on another surface"])
def test_inverse_depth_is_linear_on_a_plane(outlier):
    around, own = plane(outlier=outlier)
    found, deviation = plane_through(around, rounds=6)
    assert (found - own).abs().max() < (2e-3 if outlier else 1e-3)
    assert (deviation < 5e-3).all()


def test_two_neighbours_are_no_plane():
    around, _ = plane()
    known = around.known.clone()
    known[:, 2:] = False
    found, deviation = plane_through(dataclasses.replace(around, known=known))
    assert torch.equal(found, around.inverse_depth) and (deviation > 100 * around.deviation).all()


def test_neighbours_are_near_in_the_frame_of_the_query(world):
    tracks, found, _ = fitted(world, sigma=0.1)
    around = surroundings(world.cameras, tracks, found, 6)
    assert around.known.float().mean() > 0.9
    own = torch.arange(len(found.xyz))[:, None]
    assert not ((around.index == own) & around.known).any()
    poses = world.cameras.cam_from_world[0].double()[tracks.query_frame[0]]
    depth = pose.transform(poses, found.xyz)[:, 2]
    torch.testing.assert_close(around.inverse_depth, 1 / depth)


def test_a_fresh_transformer_moves_little_and_is_differentiable(world):
    tracks, found, _ = fitted(world)
    module = TriangulationTransformerConfig().build()
    moved = module.correct(world.cameras, tracks, found)
    way = surroundings(world.cameras, tracks, found, 16)
    plane = (1 / plane_through(way)[0] - 1 / way.inverse_depth).abs()
    assert ((moved - found.xyz).norm(dim=-1) <= 0.1 * plane + 1e-6).float().mean() > 0.95  # a twentieth of the way
    torch.nn.init.normal_(module.head.weight, std=0.1)
    live = dataclasses.replace(tracks, xy=tracks.xy.clone().requires_grad_())
    again = fit(world.cameras, live, found.xyz, found.inliers)
    module.correct(world.cameras, live, again).square().sum().backward()
    assert torch.isfinite(live.xy.grad).all() and live.xy.grad.abs().sum() > 0
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_valid_points_are_those_of_ransac(world):
    tracks = add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=0.5, outliers=0.1, missing=0.2), 0)
    module = TriangulationTransformerConfig().build()
    with torch.no_grad():
        learned, plain = module(world.cameras, tracks), module.ransac(world.cameras, tracks)
    assert torch.equal(learned.valid, plain.valid)
    assert torch.equal(
        module.inliers(world.cameras, plain, tracks), module.ransac.inliers(world.cameras, plain, tracks)
    )
