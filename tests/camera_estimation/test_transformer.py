"""The camera transformer and the geometry it is fed with."""

import dataclasses

import pytest
import torch
from worlds import WorldConfig, blank_images, make_world, observe

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.camera_estimation.transformer import (
    CameraTransformerConfig,
    best_tracks,
    views_of,
    with_lenses,
)
from vggsfm_cli.camera_estimation.views import agreement, moved, normalized
from vggsfm_cli.evaluation.poses import pair_errors
from vggsfm_cli.geometry import pose, rotation


@pytest.fixture(scope="module")
def world():
    return make_world(WorldConfig(frames=5, points=250), 3)


def disturbed(world, turn=0.02, zoom=1.1):
    generator = torch.Generator().manual_seed(0)
    poses = world.cameras.cam_from_world.double()
    update = rotation.exp(turn * torch.randn(1, 5, 3, generator=generator, dtype=torch.float64))
    shift = turn * torch.randn(1, 5, 3, 1, generator=generator, dtype=torch.float64)
    params = world.cameras.params.double().clone()
    params[..., 0] *= zoom
    params[..., 3] = 0
    return dataclasses.replace(
        world.cameras, cam_from_world=pose.compose(torch.cat([update, shift], -1), poses), params=params
    )


def worst(world, state):
    true = world.cameras.cam_from_world[0].double()
    return float(pair_errors(state.cam_from_world[0], true, torch.ones(len(true), dtype=torch.bool)).worse_deg.max())


def step_together(views, state):
    step = agreement(state, views).together.clone()
    step[:, 0, :6] = 0
    return normalized(moved(state, views, step), views)


def test_joint_steps_lead_to_the_truth_lens_included(world):
    tracks = add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=0.0, outliers=0.05, missing=0.2), 0)
    start = disturbed(world)
    images = blank_images(world, focal_spread=5.0)
    views, state = views_of(images, tracks, start)
    state = normalized(state, views)
    before = worst(world, state)
    for _ in range(25):
        state = step_together(views, state)
    assert worst(world, state) < 0.02 < before
    found = with_lenses(images, start, state)
    torch.testing.assert_close(
        found[0, 0, [0, 3]].float(), world.cameras.params[0, 0, [0, 3]].float(), rtol=5e-3, atol=5e-3
    )
    assert torch.equal(state.log_focal, state.log_focal[:, :1].expand_as(state.log_focal))


def test_a_frame_that_is_wrong_alone_comes_right_alone(world):
    start = disturbed(world, turn=0.0, zoom=1.0)
    poses = start.cam_from_world.clone()
    poses[:, 2] = disturbed(world, turn=0.03).cam_from_world[:, 2]
    start = dataclasses.replace(start, cam_from_world=poses, params=world.cameras.params.double())
    views, state = views_of(blank_images(world), observe(world), start)
    state = normalized(state, views)
    before = worst(world, state)
    for _ in range(15):
        step = torch.zeros(1, 5, 8, dtype=torch.float64)
        step[:, 2, :6] = agreement(state, views).alone[:, 2, :6]
        state = normalized(moved(state, views, step), views)
    assert worst(world, state) < 0.2 * before


def test_at_the_truth_nothing_pushes(world):
    start = dataclasses.replace(
        world.cameras, cam_from_world=world.cameras.cam_from_world.double(), params=world.cameras.params.double()
    )
    views, state = views_of(blank_images(world), observe(world), start)
    fit = agreement(normalized(state, views), views)  # the given distortion is undone and stays
    assert fit.residual[fit.weight > 0].abs().max() < 1e-5
    assert fit.together[:, 1:].abs().max() < 1e-3
    assert views.bends.sum() == 0


def test_gauge_of_the_state_does_not_matter(world):
    views, state = views_of(blank_images(world), observe(world), disturbed(world))
    turned = rotation.exp(torch.tensor([0.3, -0.2, 0.5]).double())
    other = torch.cat([turned, torch.tensor([[1.0], [2.0], [3.0]]).double()], -1)
    scaled = torch.cat([state.cam_from_world[..., :3], 7 * state.cam_from_world[..., 3:]], -1)
    moved_world = dataclasses.replace(state, cam_from_world=pose.compose(scaled, other))
    ours, theirs = normalized(state, views), normalized(moved_world, views)
    torch.testing.assert_close(ours.cam_from_world, theirs.cam_from_world, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.cam_from_world[:, 0], pose.identity(1, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    module = CameraTransformerConfig(width=32, heads=2, rounds=2).build()
    torch.nn.init.normal_(module.head.weight, std=0.1)
    return module


def test_permuting_the_other_frames_permutes_the_cameras(world, transformer):
    tracks, order = observe(world), torch.tensor([0, 3, 1, 4, 2])
    start, images = disturbed(world), blank_images(world)
    views, state = views_of(images, tracks, start)
    pictures = torch.rand(1, 5, 3, 24, 32)
    valid = torch.ones(1, 5, dtype=torch.bool)
    plain = transformer.refine(views, state, pictures, valid)[-1]
    shuffled_views = dataclasses.replace(
        views,
        **{
            name: getattr(views, name)[:, order]
            for name in ("xy", "weight", "deviation", "log_focal", "spread", "bends")
        },
        same_camera=views.same_camera[:, order][:, :, order],
    )
    shuffled = dataclasses.replace(
        state,
        cam_from_world=state.cam_from_world[:, order],
        log_focal=state.log_focal[:, order],
        radial=state.radial[:, order],
    )
    found = transformer.refine(shuffled_views, shuffled, pictures[:, order], valid)[-1]
    torch.testing.assert_close(found.cam_from_world, plain.cam_from_world[:, order], atol=1e-4, rtol=1e-4)


def test_gradients_reach_weights_and_tracks(world, transformer):
    tracks = observe(world)
    tracks = dataclasses.replace(
        tracks,
        xy=tracks.xy.clone().requires_grad_(),
        covariance=tracks.covariance.clone().requires_grad_(),
        visibility=tracks.visibility.clone().requires_grad_(),
    )
    images = blank_images(world)
    views, state = views_of(images, tracks, disturbed(world))
    last = transformer.refine(views, state, torch.rand(1, 5, 3, 24, 32), images.frame_valid)[-1]
    last.cam_from_world.square().sum().backward()
    for tensor in (tracks.xy, tracks.covariance, tracks.visibility):
        assert torch.isfinite(tensor.grad).all() and tensor.grad.abs().sum() > 0
    learned = {name: p.grad for name, p in transformer.named_parameters()}
    assert all(torch.isfinite(grad).all() and grad.abs().sum() > 0 for grad in learned.values() if grad is not None)
    assert all(grad is not None for grad in learned.values())
    transformer.zero_grad()


def test_frames_that_no_track_sees_are_not_registered(world, transformer):
    tracks = observe(world)
    hidden = tracks.visibility.clone()
    hidden[:, 4] = 0
    cameras = transformer.eval()(blank_images(world), dataclasses.replace(tracks, visibility=hidden))
    assert not cameras.registered[0, 4]
    assert torch.isfinite(cameras.cam_from_world).all() and torch.isfinite(cameras.params).all()


def test_the_tracks_seen_most_often_are_kept_in_order(world):
    tracks = observe(world)
    kept = best_tracks(tracks, 40)
    often = tracks.visibility.sum(1)[0]
    assert kept.xy.shape[2] == 40
    assert kept.visibility.sum(1).min() >= often.sort(descending=True).values[39]
    places = [(tracks.xy[0, 0] == xy).all(-1).nonzero()[0].item() for xy in kept.xy[0, 0]]
    assert places == sorted(places)
