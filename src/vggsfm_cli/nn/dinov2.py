"""DINOv2, a vision transformer whose features serve many tasks (Oquab et al., arXiv 2304.07193).

With register tokens (Darcet et al., arXiv 2309.16588). Parameter names are those of the published weights, but for
the projections of the attention, which have the names of ``nn.attention``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.nn.attention import MLP, PackedAttention

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DINOv2Config:
    """Size of the transformer; the defaults are ViT-B/14."""

    width: int = 768
    blocks: int = 12
    heads: int = 12
    registers: int = 4
    patch: int = 14  # side of a patch, pixels
    trained_grid: int = 37  # rows and columns of patches that the position embedding was trained for

    def build(self) -> "DINOv2":
        """The transformer, with weights still to be loaded."""
        return DINOv2(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class DINOv2Features:
    """What the last layer says, normalised.

    Attributes:
        class_token: of the whole image.
        registers: the register tokens.
        patches: one token a patch, row by row.
    """

    class_token: Float[Tensor, "B D"]
    registers: Float[Tensor, "B R D"]
    patches: Float[Tensor, "B P D"]


def normalize_colors(pixels: Float[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
    """RGB in [0, 1] to zero mean and unit deviation over ImageNet, as DINOv2 expects."""
    mean = pixels.new_tensor(IMAGENET_MEAN)[:, None, None]
    return (pixels - mean) / pixels.new_tensor(IMAGENET_DEVIATION)[:, None, None]


class PatchEmbed(nn.Module):
    """Patches of the image to tokens."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P D"]:
        """One token a patch, row by row."""
        tokens: Tensor = self.proj(pixels)
        return tokens.flatten(2).mT


class LayerScale(nn.Module):
    """One learned factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
        """Scale."""
        return tokens * self.gamma


class Block(nn.Module):
    """Attention among all tokens and two layers for each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = PackedAttention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, 4 * width)
        self.ls2 = LayerScale(width)

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B n D"]:
        """Update all tokens."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        out: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return out


class DINOv2(nn.Module):
    """The transformer from pixels to tokens."""

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.trained_grid**2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of its pretraining; here so that all weights load
        self.patch_embed = PatchEmbed(width, config.patch)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> DINOv2Features:
        """Encode images that ``normalize_colors`` prepared.

        Raises:
            ValueError: height or width is not a multiple of the patch.
        """
        tokens = self.embed(pixels)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        first = 1 + self.config.registers
        return DINOv2Features(class_token=tokens[:, 0], registers=tokens[:, 1:first], patches=tokens[:, first:])

    def embed(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B n D"]:
        """Tokens before the first block: class, registers, patches; registers have no position."""
        rows, columns = (side // self.config.patch for side in pixels.shape[-2:])
        if (rows * self.config.patch, columns * self.config.patch) != tuple(pixels.shape[-2:]):
            raise ValueError(f"DINOv2 takes multiples of {self.config.patch} pixels, not {tuple(pixels.shape[-2:])}.")
        patches = self.patch_embed(pixels)
        position = self.positions(rows, columns)
        batch = len(pixels)
        return torch.cat(
            [
                (self.cls_token + position[:, :1]).expand(batch, -1, -1),
                self.register_tokens.expand(batch, -1, -1),
                patches + position[:, 1:],
            ],
            1,
        )

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 n D"]:
        """The position embedding of the class token and of a grid of another size than the trained one."""
        side = self.config.trained_grid
        grid = self.pos_embed[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        if (rows, columns) != (side, side):
            grid = functional.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([self.pos_embed[:, :1].float(), grid.flatten(2).mT], 1)
