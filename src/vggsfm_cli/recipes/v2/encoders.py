"""The two feature networks: of whole photographs, and of small patches."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.nn.cnn import ResidualBlock, resize_aligned

COARSE_STRIDE = 8
"""Network pixels per cell of the coarse features."""

COARSE_CHANNELS, FINE_CHANNELS = 128, 32


class CoarseEncoder(nn.Module):
    """Features of photographs, one cell for 8 x 8 pixels, from four resolutions put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 96, 2)
        self.layer3 = _stage(96, 128, 2)
        self.layer4 = _stage(128, 128, 2)
        self.conv2 = nn.Conv2d(64 + 96 + 128 + 128, 256, 3, padding=1)
        self.conv3 = nn.Conv2d(256, COARSE_CHANNELS, 1)

    def forward(self, pixels: Float[Tensor, "K 3 H W"]) -> Float[Tensor, "K C h w"]:
        """Encode RGB in [0, 1] as it is; the network looks at half the resolution."""
        rows, columns = (side // 2 for side in pixels.shape[-2:])
        maps = functional.relu(functional.instance_norm(self.conv1(resize_aligned(pixels, (rows, columns)))))
        found = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = layer(maps)
            found.append(resize_aligned(maps, (rows // 4, columns // 4)))
        maps = functional.relu(functional.instance_norm(self.conv2(torch.cat(found, 1))))
        out: Tensor = self.conv3(maps)
        return out


class FineEncoder(nn.Module):
    """Features of small patches, one cell a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, FINE_CHANNELS, 3, stride=2, padding=1)
        self.layer1 = ResidualBlock(FINE_CHANNELS, FINE_CHANNELS, 2)
        self.layer2 = ResidualBlock(FINE_CHANNELS, FINE_CHANNELS, 2)
        self.conv2 = nn.Conv2d(FINE_CHANNELS, FINE_CHANNELS, 1)

    def forward(self, patches: Float[Tensor, "K 3 P P"]) -> Float[Tensor, "K C P P"]:
        """Encode RGB in [0, 1] as it is."""
        maps = functional.relu(functional.instance_norm(self.conv1(patches)))
        half = (maps.shape[-2], maps.shape[-1])
        quarter = self.layer1(maps)
        maps = maps + resize_aligned(quarter, half)
        maps = maps + resize_aligned(self.layer2(quarter), half)
        maps = maps + self.conv2(maps)
        return resize_aligned(maps, (patches.shape[-2], patches.shape[-1]))


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels_in, channels, stride), ResidualBlock(channels, channels))
