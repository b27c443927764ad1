"""Triangulation with known cameras: only points move, and they end where the rays meet."""

import dataclasses

import torch
from worlds import WorldConfig, blank_images, make_world

import published
from support.noise import NoiseConfig, add_noise
from vggsfm_cli.evaluation.known_cameras import triangulate_known
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.recipes import small


def test_cameras_are_held_and_outliers_left_out(monkeypatch):
    world = make_world(WorldConfig(frames=8, points=300), 0)
    exact = published.oracle(world)
    noise = NoiseConfig(sigma_px=0.3, outliers=0.1, missing=0.1)
    monkeypatch.setattr(small, "track_in_rounds", lambda *given, **_: add_noise(exact(*given), world.sizes, noise, 0))
    model = VGGSfMConfig().build()
    problems = []
    model.adjuster.register_forward_pre_hook(lambda module, given: problems.append(given[0]))
    # what the photographs claim to know of their cameras does not matter
    images = blank_images(world)
    images = dataclasses.replace(images, priors=dataclasses.replace(images.priors, params=images.priors.params * 2))
    found = triangulate_known(images, world.cameras, model)
    assert problems and not any(problem.pose_free.any() or problem.params_free.any() for problem in problems)
    distance = torch.cdist(found, world.points.xyz_world[0]).amin(1)
    assert len(found) > 150 and distance.median() < 0.002 and distance.max() < 0.05
