"""What a camera does to light, frame by frame: lens, exposure, colour, noise, compression."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.scene import TensorRecord

LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation steps of JPEG at quality 50 (ITU-T T.81, annex K)."""

COLOR_STEP = (17, 18, 24, 47, 66, 99, 99, 99)
"""The first row of the table for colours; steps of other rows are taken as the larger of row and column."""

PIXELS_AT_ONCE = {"cpu": 2**18, "cuda": 2**24}
"""Pixels that are computed together: as many as fit a CPU's cache, or a GPU's memory."""

BEST_QUALITY = 100.0
"""Of JPEG."""

MIDDLE = 0.45
"""The brightness that a change of contrast keeps."""

BLUR_SIDE = 9
"""Side of the blur kernels in pixels."""


@dataclass(frozen=True, kw_only=True)
class PhotometryConfig:
    """How strong each effect is at most, or at the standard deviation; 0 turns it off."""

    exposure: float = 0.35  # standard deviation of a frame's exposure, in stops
    white_balance: float = 0.06  # standard deviation of the gains of red and blue
    contrast: float = (
        0.15  # standard deviation of the bend of the tone curve, and twice that of the logarithm of its slope
    )
    vignetting: float = 0.4  # largest loss at the corners
    blurred: float = 0.4  # share of frames with defocus or motion blur beyond the lens's own softness
    blur_px: float = 1.2  # largest standard deviation of that blur, and half the longest motion
    softness_px: float = 0.45  # standard deviation of the blur of every frame
    noise: float = 0.03  # largest standard deviation of the noise of a mid-grey, shot and read noise together
    compressed: float = 0.6  # share of frames with JPEG artefacts
    quality: tuple[float, float] = (35.0, 95.0)  # of the compression, as JPEG counts


@dataclass(frozen=True, kw_only=True, eq=False)
class _Settings(TensorRecord):
    """Of the camera, for each of F frames.

    Attributes:
        blur: standard deviation of a defocus, or half the length of a motion.
        kind: below one third a soft blur, below two thirds motion, else a disc.
        turn: direction of the motion.
        vignetting: loss at the corners.
        gain: factors of the three colours.
        bend, slope: of the tone curve.
        noise: standard deviation.
        quality: of the compression; above 100 there is none.
    """

    blur: Float[Tensor, "F 1 1 1"]
    kind: Float[Tensor, "F 1 1 1"]
    turn: Float[Tensor, "F 1 1 1"]
    vignetting: Float[Tensor, "F 1 1 1"]
    gain: Float[Tensor, "F 3 1 1"]
    bend: Float[Tensor, "F 1 1 1"]
    slope: Float[Tensor, "F 1 1 1"]
    noise: Float[Tensor, "F 1 1 1"]
    quality: Float[Tensor, "F 1 1 1"]


def photograph(
    pixels: Float[Tensor, "*frames 3 H W"], config: PhotometryConfig, generator: torch.Generator
) -> Float[Tensor, "*frames 3 H W"]:
    """Pictures as a camera would have taken them, each frame with its own settings; values stay in [0, 1].

    Args:
        pixels: RGB in [0, 1], as shown on a screen.
        config: how strong.
        generator: on the CPU.
    """
    frames = pixels.reshape(-1, *pixels.shape[-3:])
    settings = _draw(config, len(frames), generator).to(pixels.device)
    grain = _generator_there(generator, pixels.device)
    step = max(1, PIXELS_AT_ONCE.get(pixels.device.type, 2**18) // (pixels.shape[-2] * pixels.shape[-1]))
    pieces = []
    for k in range(0, len(frames), step):
        some = settings._map(lambda tensor, k=k: tensor[k : k + step])  # type: ignore[misc]
        piece = _blur(frames[k : k + step], some, config.softness_px)
        piece = _tone(piece, some)
        if config.noise > 0:
            piece = _add_noise(piece, some, grain)
        pieces.append(_compress(piece.clamp_(0, 1), some))
    return torch.cat(pieces).reshape(pixels.shape) if pieces else pixels.clone()


def _draw(config: PhotometryConfig, frames: int, generator: torch.Generator) -> _Settings:
    def uniform() -> Tensor:
        return torch.rand(frames, 1, 1, 1, generator=generator)

    def normal(spread: float, columns: int = 1) -> Tensor:
        return spread * torch.randn(frames, columns, 1, 1, generator=generator).clamp(-2.5, 2.5)

    balance = normal(config.white_balance, 3) * torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    low, high = config.quality
    compressed = uniform() < config.compressed
    return _Settings(
        blur=uniform().square() * (uniform() < config.blurred) * config.blur_px,
        kind=uniform(),
        turn=math.pi * uniform(),
        vignetting=uniform().square() * config.vignetting,
        # exposure acts on light, and pictures hold about its square root
        gain=torch.exp2(0.5 * normal(config.exposure)) * (1 + balance),
        bend=normal(config.contrast).clamp(-0.9, 0.9),
        slope=(0.5 * normal(config.contrast)).exp(),
        noise=uniform().square() * config.noise,
        quality=torch.where(compressed, low + (high - low) * uniform(), 2 * BEST_QUALITY),
    )


def _generator_there(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """For numbers as many as pixels: on another device they come from a generator there, for speed."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def _blur(frames: Tensor, settings: _Settings, softness_px: float) -> Tensor:
    """Softness of the lens; on some frames defocus (a disc) or motion (a line), each smoothed by that softness."""
    if softness_px == 0 and not bool(settings.blur.any()):
        return frames.clone()
    axis = torch.arange(BLUR_SIDE, device=frames.device, dtype=frames.dtype) - BLUR_SIDE // 2
    y, x = axis[:, None], axis[None, :]
    strength, cosine, sine = settings.blur, settings.turn.cos(), settings.turn.sin()
    soft = max(softness_px, 0.2)
    squared = x * x + y * y
    gaussian = torch.exp(-squared / (2 * (soft**2 + strength.square())))
    disc = torch.sigmoid((2 * strength - squared.sqrt()) / soft * 1.7)
    beyond = ((x * cosine + y * sine).abs() - 2 * strength).clamp(min=0)
    line = torch.exp(-(beyond.square() + (y * cosine - x * sine).square()) / (2 * soft**2))
    special = torch.where(settings.kind < 2 / 3, line, torch.where(strength > soft, disc, gaussian))
    kernel = torch.where(settings.kind < 1 / 3, gaussian, special)
    kernel = (kernel / kernel.sum((-2, -1), keepdim=True)).expand(-1, 3, -1, -1).reshape(-1, 1, BLUR_SIDE, BLUR_SIDE)
    padded = functional.pad(frames, (BLUR_SIDE // 2,) * 4, mode="replicate")
    flat = padded.reshape(1, -1, *padded.shape[-2:])
    return functional.conv2d(flat, kernel, groups=kernel.shape[0]).reshape(frames.shape)


def _tone(frames: Tensor, settings: _Settings) -> Tensor:
    height, width = frames.shape[-2:]
    y = (torch.arange(height, device=frames.device) + 0.5) / height - 0.5
    x = (torch.arange(width, device=frames.device) + 0.5) / width - 0.5
    radius = 2 * (x.square()[None, :] + y.square()[:, None])
    bright = (frames * ((1 - settings.vignetting * radius) * settings.gain)).clamp_(0, 1)
    # a parabola through black and white: much like a gamma, and cheap
    bright = bright.addcmul_(bright - 1, bright * settings.bend)
    return bright.sub_(MIDDLE).mul_(settings.slope).add_(MIDDLE)


def _add_noise(frames: Tensor, settings: _Settings, generator: torch.Generator) -> Tensor:
    # shot noise is constant in a picture that holds the square root of light, read noise shows in the dark
    spread = (1 - frames.clamp(0, 1)).square_().mul_(0.4).add_(0.8).mul_(settings.noise)
    return frames.addcmul_(spread, torch.randn(frames.shape, generator=generator, device=frames.device))


def _compress(frames: Tensor, settings: _Settings) -> Tensor:
    quality = settings.quality.flatten()
    chosen = (quality <= BEST_QUALITY).nonzero().squeeze(-1)
    if len(chosen):
        frames[chosen] = compress(frames[chosen], quality[chosen])
    return frames


def compress(frames: Float[Tensor, "F 3 H W"], quality: Float[Tensor, " F"]) -> Float[Tensor, "F 3 H W"]:
    """What JPEG leaves of pictures: luminance and colours quantised as cosine coefficients of 8 x 8 blocks.

    Colours are halved in size before, as most cameras do.
    """
    height, width = frames.shape[-2:]
    padded = functional.pad(frames, (0, -width % 16, 0, -height % 16), mode="replicate")
    red, green, blue = (255 * padded).unbind(1)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    colors = torch.stack([0.564 * (blue - luminance), 0.713 * (red - luminance)], 1)
    # the formula of the Independent JPEG Group for the scale of the table
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100  # noqa: PLR2004
    table = torch.tensor(LUMINANCE_TABLE, device=frames.device, dtype=frames.dtype)
    row = torch.tensor(COLOR_STEP, device=frames.device, dtype=frames.dtype)
    color_table = torch.maximum(row[:, None], row[None, :])
    luminance = _quantise(luminance[:, None] - 128, table, scale)[:, 0] + 128
    colors = _quantise(functional.avg_pool2d(colors, 2), color_table, scale)
    colors = functional.interpolate(colors, scale_factor=2, mode="bilinear", align_corners=False)
    blue, red = luminance + colors[:, 0] / 0.564, luminance + colors[:, 1] / 0.713
    green = (luminance - 0.299 * red - 0.114 * blue) / 0.587
    return (torch.stack([red, green, blue], 1)[..., :height, :width] / 255).clamp(0, 1)


def _quantise(planes: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    frames, channels, height, width = planes.shape
    k = torch.arange(8, device=planes.device, dtype=planes.dtype)
    cosines = torch.cos(math.pi / 8 * k[:, None] * (k[None, :] + 0.5)) / 2
    cosines[0] /= math.sqrt(2)
    blocks = planes.reshape(frames, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    steps = (table * scale[:, None, None]).clamp(min=1)[:, None, None, None]
    coefficients = cosines @ blocks @ cosines.mT
    kept = (coefficients / steps).round() * steps
    return (cosines.mT @ kept @ cosines).transpose(3, 4).reshape(planes.shape)
