"""Losses on cases whose answer is known."""

import math

import pytest
import torch

from vggsfm_cli.training.losses import (
    distillation_loss,
    mahalanobis_squared,
    position_loss,
    reliability_loss,
    start_loss,
    visibility_loss,
)
from vggsfm_cli.training.tasks.tracks import INSIDE_50, INSIDE_90, average_precision


def one_hot_map(height: int, width: int) -> torch.Tensor:
    """A map in which every cell has a descriptor of its own."""
    return torch.eye(height * width).T.reshape(1, height * width, height, width)


def test_start_loss_wants_x_along_the_width():
    target = one_hot_map(4, 6)
    descriptors = target[0, :, 1, 4][None, None]  # the cell in row 1, column 4
    one = torch.ones(1, 1)
    right, found = start_loss(descriptors, target, torch.tensor([[[4.5, 1.5]]]), one, 0.05)
    wrong, missed = start_loss(descriptors, target, torch.tensor([[[1.5, 3.5]]]), one, 0.05)
    assert right < 1e-6 and bool(found)
    assert wrong == pytest.approx(20, abs=0.01) and not bool(missed)


def test_start_loss_spreads_the_truth_over_the_cells_around_it():
    target = one_hot_map(4, 6)
    between = (target[0, :, 1, 2] + target[0, :, 1, 3])[None, None] / math.sqrt(2)
    loss, _ = start_loss(between, target, torch.tensor([[[3.0, 1.5]]]), torch.ones(1, 1), 0.05)
    assert loss == pytest.approx(math.log(2), abs=1e-3)
    off, _ = start_loss(between, target, torch.tensor([[[3.0, 2.0]]]), torch.ones(1, 1), 0.05)
    assert off > loss + 1


def test_queries_without_weight_do_not_count():
    target = one_hot_map(3, 3)
    descriptors = torch.stack([target[0, :, 0, 0], target[0, :, 2, 2]])[None]
    xy = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    both, _ = start_loss(descriptors, target, xy, torch.tensor([[1.0, 1.0]]), 0.05)
    first, _ = start_loss(descriptors, target, xy, torch.tensor([[1.0, 0.0]]), 0.05)
    assert first < 1e-6 < both


def test_likelihood_is_that_of_a_gaussian():
    torch.manual_seed(0)
    root = torch.randn(50, 2, 2, dtype=torch.float64)
    covariance = root @ root.mT + 0.1 * torch.eye(2)
    error = torch.randn(50, 2, dtype=torch.float64)
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(50, 2).double(), covariance)
    expected = -gaussian.log_prob(error).mean() - math.log(2 * math.pi)
    torch.testing.assert_close(position_loss(error, covariance, torch.ones(50).double()), expected)
    expected = (error[:, None] @ torch.linalg.inv(covariance) @ error[..., None]).flatten()
    torch.testing.assert_close(mahalanobis_squared(error, covariance), expected)


def test_ellipses_hold_the_shares_they_are_named_for():
    torch.manual_seed(0)
    squared = torch.randn(200_000, 2).square().sum(-1)
    assert (squared < INSIDE_50).float().mean() == pytest.approx(0.5, abs=5e-3)
    assert (squared < INSIDE_90).float().mean() == pytest.approx(0.9, abs=5e-3)


def test_average_precision_by_hand():
    right = torch.tensor([True, False, True, False])
    assert average_precision(torch.tensor([4.0, 3.0, 2.0, 1.0]), right) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(torch.tensor([1.0, 4.0, 2.0, 3.0]), right) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_cross_entropies_by_hand():
    logit, right = torch.tensor([0.0, 100.0]), torch.tensor([True, False])
    assert visibility_loss(logit, right, torch.tensor([1.0, 0.0])) == pytest.approx(math.log(2))
    found = torch.tensor([[True, False]])
    loss = reliability_loss(torch.tensor([[0.5, 0.5]]), found, torch.ones(1, 2))
    assert loss == pytest.approx(math.log(2))


def test_distillation_is_zero_at_the_teacher():
    maps = torch.nn.functional.normalize(torch.randn(2, 4, 3, 3), dim=1)
    assert distillation_loss(maps, maps) == pytest.approx(0, abs=1e-6)
    assert distillation_loss(maps, -maps) == pytest.approx(2, abs=1e-6)
