"""What the lens model leaves over is added to every track, in the network's pixels."""

import dataclasses

import torch
from worlds import WorldConfig, blank_images, make_world, observe

from vggsfm_cli.mapping.partial import with_model_error


def test_variances_add_up_in_stored_pixels():
    world = make_world(WorldConfig(frames=3, points=40), 0)
    tracks = observe(world)
    tracks = dataclasses.replace(tracks, covariance=0.01 * tracks.covariance)
    found = with_model_error(blank_images(world, scale=2.0), tracks, 0.1)
    expected = (0.01 + (2 * 0.1) ** 2) * torch.eye(2, dtype=found.covariance.dtype)
    torch.testing.assert_close(found.covariance, expected.expand_as(found.covariance))
    assert torch.equal(found.xy, tracks.xy)
