"""Measures on cases whose answer is known, and against plain loops."""

import math

import pytest
import torch

from support.two_views import fundamental_from_pose
from vggsfm_cli.evaluation.metrics import (
    TAP_THRESHOLDS_PX,
    epipolar_distance,
    inside_ellipse,
    tap_vid,
    visibility_counts,
)
from vggsfm_cli.geometry import epipolar, pose


def tap_of_one(offset, size, predicted=True, true=True):
    """TAP-Vid's figures of a single position that is ``offset`` away from the truth."""
    truth = torch.tensor([[[[40.0, 30.0]]]])
    return tap_vid(
        truth + torch.tensor(offset),
        torch.tensor([[[predicted]]]),
        truth,
        torch.tensor([[[true]]]),
        torch.ones(1, 1, 1, dtype=torch.bool),
        torch.tensor([[size]]),
    )


@pytest.mark.parametrize(
    ("offset", "size", "within"),
    [
        ((0.9, 0.0), (256, 256), (1, 1, 1, 1, 1)),
        ((1.0, 0.0), (256, 256), (0, 1, 1, 1, 1)),  # strictly nearer
        ((3.0, 0.0), (512, 128), (0, 1, 1, 1, 1)),  # 1.5 px after rescaling
        ((0.0, 3.0), (512, 128), (0, 0, 0, 1, 1)),  # 6 px: x and y have their own factors
        ((0.0, 9.0), (512, 128), (0, 0, 0, 0, 0)),
    ],
)
def test_tap_vid_thresholds_are_of_pictures_of_256_pixels(offset, size, within):
    result = tap_of_one(offset, size)
    assert result.points_within[0].tolist() == list(within)
    assert result.jaccard[0].tolist() == list(within)
    assert result.delta_average.item() == pytest.approx(sum(within) / 5)


def test_tap_vid_of_positions_that_are_not_visible():
    missed = tap_of_one((0.0, 0.0), (256, 256), predicted=False)
    assert missed.occlusion_accuracy.item() == 0
    assert missed.delta_average.item() == 1  # the position is right all the same
    assert missed.average_jaccard.item() == 0
    invented = tap_of_one((0.0, 0.0), (256, 256), true=False)
    assert invented.occlusion_accuracy.item() == 0 and invented.average_jaccard.item() == 0
    assert torch.isnan(invented.delta_average).all()


def test_jaccard_counts_a_visible_position_far_off_twice():
    """Two visible positions, one exact and one far off: 1 right, 2 real, 1 false gives 1/3, not 1/2."""
    truth = torch.zeros(1, 2, 1, 2)
    predicted = truth.clone()
    predicted[0, 1, 0, 0] = 100
    seen = torch.ones(1, 2, 1, dtype=torch.bool)
    result = tap_vid(predicted, seen, truth, seen, seen, torch.full((1, 2, 2), 256))
    assert result.average_jaccard.item() == pytest.approx(1 / 3)
    assert result.delta_average.item() == pytest.approx(1 / 2)
    assert result.occlusion_accuracy.item() == 1


def test_tap_vid_agrees_with_plain_loops():
    generator = torch.Generator().manual_seed(3)
    shape = (2, 4, 30)
    truth = torch.rand(*shape, 2, generator=generator) * 200
    predicted = truth + torch.randn(*shape, 2, generator=generator) * 8
    seen, real, counts = (torch.rand(shape, generator=generator) < p for p in (0.6, 0.7, 0.8))
    size = torch.tensor([[[300, 200]] * 4, [[640, 480]] * 4])
    result = tap_vid(predicted, seen, truth, real, counts, size)
    for b in range(2):
        right, total = 0, 0
        for t, threshold in enumerate(TAP_THRESHOLDS_PX):
            tp = fp = positives = within_real = 0
            for s in range(4):
                for n in range(30):
                    if not counts[b, s, n]:
                        continue
                    dx, dy = (predicted[b, s, n] - truth[b, s, n]).tolist()
                    width, height = size[b, s].tolist()
                    within = math.hypot(dx * 256 / width, dy * 256 / height) < threshold
                    positives += bool(real[b, s, n])
                    within_real += bool(real[b, s, n]) and within
                    if seen[b, s, n]:
                        tp += bool(real[b, s, n]) and within
                        fp += not (real[b, s, n] and within)
                    if t == 0:
                        total += 1
                        right += bool(seen[b, s, n] == real[b, s, n])
            assert result.points_within[b, t].item() == pytest.approx(within_real / positives)
            assert result.jaccard[b, t].item() == pytest.approx(tp / (positives + fp))
        assert result.occlusion_accuracy[b].item() == pytest.approx(right / total)


def test_visible_is_right_only_where_the_track_is_right():
    error = torch.tensor([[[0.5, 2.9, 3.0, 0.1, 0.1, 0.1]]])
    claimed = torch.tensor([[[True, True, True, True, False, True]]])
    real = torch.tensor([[[True, True, True, False, True, True]]])
    evaluated = torch.tensor([[[True, True, True, True, True, False]]])
    counts = visibility_counts(error, claimed, real, evaluated, 3.0)
    assert (counts.right.item(), counts.claimed.item(), counts.real.item()) == (2, 4, 4)


def test_ellipse_knows_x_from_y():
    covariance = torch.diag(torch.tensor([9.0, 1.0]))
    assert inside_ellipse(torch.tensor([2.5, 0.0]), covariance, 0.5)
    assert not inside_ellipse(torch.tensor([0.0, 2.5]), covariance, 0.9)
    tilted = torch.tensor([[2.0, 1.9], [1.9, 2.0]])
    assert inside_ellipse(torch.tensor([1.5, 1.5]), tilted, 0.5)
    assert not inside_ellipse(torch.tensor([1.5, -1.5]), tilted, 0.9)
    assert not inside_ellipse(torch.zeros(2), torch.zeros(2, 2), 0.9)
    assert not inside_ellipse(torch.zeros(2), -torch.eye(2), 0.9)


@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_ellipse_holds_its_share_of_a_gaussian(probability):
    generator = torch.Generator().manual_seed(0)
    root = torch.tensor([[2.0, 0.0], [1.5, 0.4]])
    offset = torch.randn(40_000, 2, generator=generator) @ root.mT
    inside = inside_ellipse(offset, (root @ root.mT).expand(len(offset), 2, 2), probability)
    assert inside.float().mean().item() == pytest.approx(probability, abs=0.01)


def test_epipolar_distance_of_a_sideways_move_is_the_difference_in_y():
    k1 = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64)
    k2 = k1.clone()
    k2[1, 2] += 0.5  # the second picture's rows are counted from half a pixel higher
    sideways = pose.identity(dtype=torch.float64)
    sideways[0, 3] = 1
    fundamental = fundamental_from_pose(sideways, k1, k2)
    first = torch.tensor([[100.0, 50.0], [400.0, 300.0]], dtype=torch.float64)
    second = torch.tensor([[333.0, 50.5], [17.0, 297.5]], dtype=torch.float64)
    expected = torch.tensor([0.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(epipolar_distance(fundamental, first, second), expected, atol=1e-9, rtol=0)


def test_epipolar_distance_is_finite_at_the_epipole():
    forward = pose.identity(dtype=torch.float64)
    forward[2, 3] = 1
    fundamental = epipolar.essential_from_pose(forward)
    assert epipolar_distance(fundamental, torch.zeros(1, 2).double(), torch.ones(1, 2).double()).isfinite().all()
