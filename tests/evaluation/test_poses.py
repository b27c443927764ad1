"""Errors of pairs of poses, on cases whose answer is known."""

import math

import pytest
import torch

from vggsfm_cli.evaluation.poses import auc_max, pair_errors_deg
from vggsfm_cli.geometry import pose, rotation

ALL = torch.ones(4, dtype=torch.bool)


def cameras(seed=0, frames=4):
    generator = torch.Generator().manual_seed(seed)
    turn = rotation.exp(0.5 * torch.randn(frames, 3, generator=generator, dtype=torch.float64))
    return torch.cat([turn, torch.randn(frames, 3, 1, generator=generator, dtype=torch.float64)], -1)


def test_another_world_and_another_scale_are_no_error():
    true = cameras()
    moved = pose.compose(true, pose.inverse(cameras(1, 1)))
    moved[..., 3] *= 7
    assert pair_errors_deg(moved, true, ALL).max() < 1e-6


def test_a_turned_camera_errs_in_the_pairs_it_is_in():
    true = cameras()
    # about its own centre, so that the direction to it is right as seen from the others
    turn = rotation.exp(torch.deg2rad(torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)))
    found = true.clone()
    found[3] = torch.cat([turn @ true[3, :, :3], (turn @ true[3, :, 3])[:, None]], -1)
    errors = pair_errors_deg(found, true, ALL)
    in_pair = torch.tensor([second == 3 for _, second in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]])
    torch.testing.assert_close(errors[in_pair, 0], torch.full((3,), 2.0, dtype=torch.float64))
    assert errors[~in_pair].max() < 1e-6


def test_the_sign_of_a_direction_counts():
    true = cameras()
    found = true.clone()
    found[..., 3] *= -1
    assert (pair_errors_deg(found, true, ALL)[:, 1] - 180).abs().max() < 1e-6


def test_frames_that_are_missing_or_in_one_place():
    true = cameras()
    missing = pair_errors_deg(true, true, torch.tensor([True, True, True, False]))
    assert torch.isinf(missing).all(-1).tolist() == [False, False, True, False, True, True]
    together = true.clone()
    together[:2] = pose.identity(2, dtype=torch.float64)
    assert pair_errors_deg(together, true, ALL)[0, 1] == 180
    # two true cameras in almost one place: only their rotation counts
    close = true.clone()
    close[1] = torch.cat([true[1, :, :3], -(true[1, :, :3] @ (pose.center(true[0]) + 1e-3))[:, None]], -1)
    other = close.clone()
    other[1, :, 3] = -(close[1, :, :3] @ (pose.center(true[0]) - 1e-3))
    assert pair_errors_deg(other, close, ALL)[0, 1] == 0


def test_area_under_the_curve():
    errors = torch.tensor([[0.0, 0.0], [1.0, 2.5], [20.0, 0.1], [math.inf, math.inf]], dtype=torch.float64)
    assert auc_max(errors, 5.0) == pytest.approx(100 * (1 + 0.5) / 4)
    assert auc_max(errors, 40.0) == pytest.approx(100 * (1 + (1 - 2.5 / 40) + 0.5) / 4)
    assert auc_max(errors[:0], 5.0) == 0
