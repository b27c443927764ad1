"""Sub-pixel refinement: known warps are found, and the covariance knows how well."""

import torch

from vggsfm_cli.tracking import lucas_kanade
from vggsfm_cli.tracking.lucas_kanade import LucasKanadeConfig
from warped import homography, move, photograph, warp

CONFIG = LucasKanadeConfig()


def corners(width: int, height: int, count: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 2, generator=generator) * torch.tensor([width - 120.0, height - 120.0]) + 60


def refine(first, second, xy, start, affinity):
    here = lucas_kanade.make_pyramid(torch.from_numpy(first), 1.0, CONFIG)
    there = lucas_kanade.make_pyramid(torch.from_numpy(second), 1.0, CONFIG)
    templates = [
        lucas_kanade.make_templates(level, xy / here.scale(i), CONFIG.radius) for i, level in enumerate(here.levels)
    ]
    return lucas_kanade.refine(templates, there, start, affinity, CONFIG)


def test_pyramid_keeps_pixel_centres():
    ramp = torch.arange(64.0).expand(48, 64) + 0.5  # brightness equals the corner-origin x
    pyramid = lucas_kanade.make_pyramid(ramp, 1.0, CONFIG)
    for i, level in enumerate(pyramid.levels):
        x = torch.arange(level.shape[-1]) + 0.5
        inner = slice(3, -3)
        torch.testing.assert_close(level[0, 0, 5, inner], (x * pyramid.scale(i))[inner])


def test_photographs_much_finer_than_the_network_are_halved():
    grey = torch.rand(64, 96)
    assert lucas_kanade.make_pyramid(grey, 3.9, CONFIG).halvings == 1
    assert lucas_kanade.make_pyramid(grey, 1.5, CONFIG).halvings == 0


def test_finds_rotation_scale_and_shift():
    picture = photograph()
    matrix = homography(12.0, 1.15, (3.3, -2.7), picture.shape[::-1])
    xy = corners(picture.shape[1], picture.shape[0])
    truth = move(matrix, xy).float()
    inside = ((truth > 30) & (truth < torch.tensor(picture.shape[::-1]) - 30)).all(-1)
    generator = torch.Generator().manual_seed(1)
    start = truth + 1.5 * torch.randn(len(xy), 2, generator=generator)
    affinity = torch.from_numpy(matrix[:2, :2]).float().expand(len(xy), 2, 2)
    found = refine(picture, warp(picture, matrix), xy, start, affinity)
    trusted = inside & (found.correlation > 0.9)
    error = (found.xy - truth).norm(dim=-1)[trusted]
    assert trusted.sum() > 0.7 * inside.sum()
    assert error.median() < 0.05
    assert error.quantile(0.9) < 0.3


def test_gain_and_bias_do_not_matter():
    picture = photograph()
    xy = corners(picture.shape[1], picture.shape[0], 100)
    eye = torch.eye(2).expand(len(xy), 2, 2)
    found = refine(picture, 0.6 * picture + 0.2, xy, xy + 0.7, eye)
    assert (found.xy - xy).norm(dim=-1).median() < 0.02


def test_covariance_is_larger_along_an_edge():
    step = torch.zeros(64, 64)
    step[:, 32:] = 1.0
    step += 0.01 * torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    xy = torch.tensor([[32.0, 32.0]])
    found = refine(step.numpy(), step.numpy() + 0.001, xy, xy, torch.eye(2)[None])
    assert found.covariance[0, 1, 1] > 20 * found.covariance[0, 0, 0]


def test_differentiable_in_the_picture():
    picture = torch.from_numpy(photograph(width=128)).requires_grad_()
    pyramid = lucas_kanade.make_pyramid(picture, 1.0, CONFIG)
    xy = torch.tensor([[60.0, 50.0], [80.0, 40.0]])
    templates = [lucas_kanade.make_templates(level, xy / pyramid.scale(i), 7) for i, level in enumerate(pyramid.levels)]
    found = lucas_kanade.refine(templates, pyramid, xy + 0.5, torch.eye(2).expand(2, 2, 2), CONFIG)
    found.xy.sum().backward()
    assert picture.grad is not None
    assert torch.isfinite(picture.grad).all()
    assert picture.grad.abs().sum() > 0
