"""Convolutional blocks and the resizing that goes with them."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def resize_aligned(maps: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Bilinear resize to ``size`` (rows, columns) that keeps the centres of the corner cells in place; no antialias."""
    return functional.interpolate(maps, size, mode="bilinear", align_corners=True)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with instance normalisation, added to their input.

    Args:
        channels_in: channels of the input.
        channels: channels of the result.
        stride: of the first convolution; above one the input is projected to the result's size.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.downsample = nn.Conv2d(channels_in, channels, 1, stride) if stride > 1 else None

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Both branches end positive: the second convolution is rectified before the sum too."""
        found = functional.relu(functional.instance_norm(self.conv1(maps)))
        found = functional.relu(functional.instance_norm(self.conv2(found)))
        kept = maps if self.downsample is None else functional.instance_norm(self.downsample(maps))
        return functional.relu(kept + found)
