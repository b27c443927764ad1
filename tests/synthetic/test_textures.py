"""Textures: mip levels, repetition, and reading at any scale."""

import pytest
import torch

from vggsfm_cli.synthetic.textures import Textures, look_up, make_textures, procedural_textures


@pytest.fixture
def textures() -> Textures:
    return make_textures(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def read(
    textures: Textures, index: int, x: torch.Tensor, y: torch.Tensor, mirror: bool = False, footprint: float = 1 / 16
) -> torch.Tensor:
    count = len(x)
    return look_up(
        textures,
        torch.full((count,), index),
        torch.stack([x, y]),
        torch.full((count,), mirror),
        torch.full((count,), footprint),
    )


def test_levels_are_means_of_finer_ones(textures: Textures) -> None:
    levels = textures.levels
    assert [level.shape for level in levels] == [(3, 3, 16, 16), (3, 3, 8, 8), (3, 3, 4, 4)]
    torch.testing.assert_close(levels[1][0, 1, 2, 3], levels[0][0, 1, 4:6, 6:8].mean())
    assert textures.to("cpu").sides == (16, 8, 4)


@pytest.mark.parametrize("mirror", [False, True])
def test_texel_centres_give_texels(textures: Textures, mirror: bool) -> None:
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    colors = read(textures, 2, (x.flatten() + 0.5) / 16, (y.flatten() + 0.5) / 16, mirror)
    torch.testing.assert_close(colors.reshape(3, 16, 16), textures.levels[0][2])


def test_pictures_repeat_as_they_are_or_mirrored(textures: Textures) -> None:
    x, y = torch.rand(2, 50, generator=torch.Generator().manual_seed(1))
    here = read(textures, 1, x, y)
    torch.testing.assert_close(read(textures, 1, x + 3, y - 2), here, atol=1e-4, rtol=0)
    mirrored = read(textures, 1, x, y, mirror=True)
    torch.testing.assert_close(read(textures, 1, 2 - x, -y, mirror=True), mirrored, atol=1e-4, rtol=0)
    torch.testing.assert_close(read(textures, 1, x + 2, y + 4, mirror=True), mirrored, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mirror", [False, True])
def test_no_seam_between_repetitions(textures: Textures, mirror: bool) -> None:
    """Colours change by no more than the slope between texels allows, also across the borders."""
    x = torch.linspace(-2.5, 2.5, 5001)
    colors = read(textures, 0, x, torch.full_like(x, 0.3), mirror)
    assert colors.diff().abs().max() < 1.01 * 16 * (5 / 5000) + 1e-4
    level = textures.levels[0][0]
    edge = read(textures, 0, torch.zeros(1), torch.tensor([0.5 / 16]), mirror)[:, 0]
    expected = level[:, 0, 0] if mirror else (level[:, 0, 0] + level[:, 0, 15]) / 2
    torch.testing.assert_close(edge, expected)


def test_wide_footprints_see_coarse_levels(textures: Textures) -> None:
    centers = (torch.arange(8) + 0.5) / 8
    coarse = read(textures, 1, centers, centers, footprint=2 / 16)
    torch.testing.assert_close(coarse, textures.levels[1][1].diagonal(dim1=-2, dim2=-1))
    between = read(textures, 1, centers, centers, footprint=2**0.5 / 16)
    fine = read(textures, 1, centers, centers)
    torch.testing.assert_close(between, (fine + coarse) / 2)
    widest = read(textures, 1, centers[:1], centers[:1], footprint=50.0)
    torch.testing.assert_close(widest, read(textures, 1, centers[:1], centers[:1], footprint=4 / 16))


def test_procedural_textures_have_detail_and_differ() -> None:
    drawn, same = (procedural_textures(18, 64, torch.Generator().manual_seed(2)).levels[0] for _ in range(2))
    assert torch.equal(drawn, same)
    assert drawn.shape == (18, 3, 64, 64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn.diff(dim=-1).abs().mean((1, 2, 3)) > 0.004).all()
    assert (drawn.std((2, 3)).mean(1) > 0.01).all()
    gaps = (drawn[:, None] - drawn[None]).abs().mean((2, 3, 4)) + torch.eye(18)
    assert gaps.min() > 0.02
