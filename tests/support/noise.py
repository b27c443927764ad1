"""What real trackers do to exact tracks: noise, gross errors, gaps."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from vggsfm_cli.scene import Tracks


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How much of each."""

    sigma_px: float = 0.5  # standard deviation of a coordinate
    outliers: float = 0.1  # share of observations that are anywhere in the picture
    missing: float = 0.1  # share of observations that are not made


def add_noise(tracks: Tracks, sizes: Int[Tensor, "B S 2"], config: NoiseConfig, seed: int) -> Tracks:
    """Tracks as a tracker might give them, the same for the same seed; the covariance says ``sigma_px``.

    Args:
        tracks: exact ones.
        sizes: width and height of each frame.
        config: how much.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    like = tracks.xy
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    anywhere = torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like) * sizes[:, :, None].to(like)
    draw = torch.rand(like.shape[:-1], generator=generator, dtype=torch.float64).to(like.device)
    lost = torch.rand(like.shape[:-1], generator=generator, dtype=torch.float64).to(like.device) < config.missing
    xy = torch.where((draw < config.outliers)[..., None], anywhere, like + config.sigma_px * noise)
    eye = torch.eye(2, dtype=like.dtype, device=like.device)
    return dataclasses.replace(
        tracks,
        xy=xy,
        visibility=torch.where(lost, torch.zeros_like(tracks.visibility), tracks.visibility),
        covariance=(max(config.sigma_px, 1e-3) ** 2 * eye).expand_as(tracks.covariance).clone(),
    )
