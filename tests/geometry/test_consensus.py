"""How much is explained, and what no rotation explains."""

import pytest
import torch

from vggsfm_cli.geometry import consensus, rotation
from vggsfm_cli.geometry.parallax import beyond_rotation


def test_long_tracks_that_fit_explain_and_pairs_do_not() -> None:
    error = torch.zeros(5, 3)
    inliers = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=torch.bool)
    assert consensus.explained(error, inliers) == (2 * 5 - 3) + 2 * (2 * 2 - 3)
    assert consensus.explained(error + 0.5, inliers) == pytest.approx(5 * 1.5 - 3)  # a pair explains nothing any more
    assert consensus.explained(error + 2.0, inliers) == 0.0
    assert consensus.explained(error, torch.zeros_like(inliers)) == 0.0
    assert consensus.explained(error[None], inliers[None]) == consensus.explained(error, inliers)


def test_a_turn_leaves_nothing_and_a_step_what_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(60, 2, generator=generator, dtype=torch.float64) - 0.5
    rays = torch.cat([xy, torch.ones(60, 1, dtype=torch.float64)], -1)
    turn = rotation.exp(torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64))
    turned = rays @ turn.mT
    assert float(beyond_rotation(xy, turned[:, :2] / turned[:, 2:])) < 1e-12
    depth = torch.linspace(1.0, 10.0, 60, dtype=torch.float64)[:, None]
    moved = (depth * rays + torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64)) @ turn.mT
    left = beyond_rotation(xy, moved[:, :2] / moved[:, 2:])
    assert 0.01 < float(left) < 0.1
    # one bad match does not count, and a batch is one after the other
    moved[0] = torch.tensor([5.0, 5.0, 1.0])
    both = torch.stack([moved[:, :2] / moved[:, 2:], turned[:, :2] / turned[:, 2:]])
    found = beyond_rotation(xy.expand(2, -1, -1), both)
    assert found[0] == pytest.approx(float(left), rel=0.4)
    assert float(found[1]) < 1e-12
