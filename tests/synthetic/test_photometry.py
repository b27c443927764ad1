"""Effects of a camera: strong where asked for, absent where not, the same for the same seed."""

import dataclasses

import pytest
import torch

from vggsfm_cli.synthetic.photometry import PhotometryConfig, compress, photograph

NOTHING = PhotometryConfig(
    exposure=0.0,
    white_balance=0.0,
    contrast=0.0,
    vignetting=0.0,
    blurred=0.0,
    softness_px=0.0,
    noise=0.0,
    compressed=0.0,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*frames: int, height: int = 40, width: int = 52) -> torch.Tensor:
    return torch.rand(*frames, 3, height, width, generator=seeded(9))


@pytest.mark.parametrize("frames", [(), (3,), (2, 3)])
def test_shape_and_range(frames: tuple[int, ...]) -> None:
    before = pictures(*frames)
    kept = before.clone()
    after = photograph(before, PhotometryConfig(exposure=2.0, noise=0.5), seeded())
    assert after.shape == before.shape
    assert torch.isfinite(after).all()
    assert after.min() >= 0
    assert after.max() <= 1
    assert torch.equal(before, kept)


def test_the_seed_decides() -> None:
    one, same, other = (photograph(pictures(4), PhotometryConfig(), seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_frames_differ_from_one_another() -> None:
    frames = photograph(pictures(1).expand(5, -1, -1, -1), PhotometryConfig(), seeded())
    assert all(not torch.allclose(frames[0], frames[k], atol=1e-3) for k in range(1, 5))


def test_nothing_changes_nothing() -> None:
    torch.testing.assert_close(photograph(pictures(3), NOTHING, seeded()), pictures(3))


def test_blur_keeps_the_mean_and_takes_detail() -> None:
    before = pictures(4)
    after = photograph(before, dataclasses.replace(NOTHING, softness_px=1.0), seeded())
    torch.testing.assert_close(after.mean((-2, -1)), before.mean((-2, -1)), atol=0.02, rtol=0)
    assert (after.std((-2, -1)) < 0.5 * before.std((-2, -1))).all()


def test_vignetting_darkens_the_corners_only() -> None:
    before = torch.full((8, 3, 41, 41), 0.5)
    after = photograph(before, dataclasses.replace(NOTHING, vignetting=0.6), seeded())
    torch.testing.assert_close(after[..., 20, 20], before[..., 20, 20])
    assert after[..., 0, 0].min() < 0.4
    assert (after[..., 0, 0] <= 0.5).all()


def test_noise_is_as_strong_as_configured() -> None:
    before = torch.full((200, 3, 16, 16), 0.5)
    after = photograph(before, dataclasses.replace(NOTHING, noise=0.1), seeded())
    spread = after.std((1, 2, 3))
    assert 0.08 < spread.max() < 0.11
    assert abs(after.mean() - 0.5) < 2e-3


def test_exposure_and_colour() -> None:
    before = torch.full((200, 3, 2, 2), 0.3)
    stops = 2 * (photograph(before, dataclasses.replace(NOTHING, exposure=0.4), seeded()) / 0.3).log2()
    assert float(stops[:, 0, 0, 0].std()) == pytest.approx(0.4, rel=0.2)
    balance = photograph(before, dataclasses.replace(NOTHING, white_balance=0.1), seeded()) / 0.3
    torch.testing.assert_close(balance[:, 1], torch.ones_like(balance[:, 1]))
    assert float(balance[:, 0, 0, 0].std()) == pytest.approx(0.1, rel=0.2)


def test_compression_loses_more_at_lower_quality() -> None:
    before = photograph(pictures(2), dataclasses.replace(NOTHING, softness_px=1.0), seeded())
    errors = [(compress(before, torch.full((2,), quality)) - before).square().mean() for quality in (95.0, 60.0, 20.0)]
    assert errors[0] < errors[1] < errors[2] < 0.02
    grey = torch.full((1, 3, 24, 24), 0.5)
    assert (compress(grey, torch.full((1,), 90.0)) - grey).abs().max() < 0.01
