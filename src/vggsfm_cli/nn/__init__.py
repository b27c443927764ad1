"""Network blocks shared by several stages."""

from vggsfm_cli.nn.attention import MLP, Attention, CrossBlock, Feedforward, SelfBlock, plain_norm
from vggsfm_cli.nn.cnn import ResidualBlock, resize_aligned
from vggsfm_cli.nn.dinov2 import DINOv2Config, normalize_colors
from vggsfm_cli.nn.embeddings import flow_embedding, grid_embedding, grid_embedding_at, harmonic_embedding
from vggsfm_cli.nn.lightglue import FrameTokens, LightGlueConfig, normalize_positions

__all__ = [
    "MLP",
    "Attention",
    "CrossBlock",
    "DINOv2Config",
    "Feedforward",
    "FrameTokens",
    "LightGlueConfig",
    "ResidualBlock",
    "SelfBlock",
    "flow_embedding",
    "grid_embedding",
    "grid_embedding_at",
    "harmonic_embedding",
    "normalize_colors",
    "normalize_positions",
    "plain_norm",
    "resize_aligned",
]
