"""The tracker of VGGSfM v2 step by step as it is specified, with nothing saved: the oracle of the fast one.

Correlation volumes of whole maps, attention with its weights written out, all tracks at once. It reads the weights of
the same modules.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.nn.attention import CrossBlock, PackedAttention, SelfBlock, plain_norm
from vggsfm_cli.nn.embeddings import flow_embedding, grid_embedding
from vggsfm_cli.recipes.v2.encoders import COARSE_STRIDE
from vggsfm_cli.recipes.v2.iterative import IterativeTracker
from vggsfm_cli.recipes.v2.patches import cut_patches
from vggsfm_cli.recipes.v2.tracker import V2Tracker
from vggsfm_cli.recipes.v2.transformer import UpdateTransformer


def volumes(maps: Tensor, features: Tensor, levels: int) -> list[Tensor]:
    """Correlation [M n h w] of every feature [M n C] with every cell of every level of the maps [M C h w]."""
    found = []
    for level in range(levels):
        maps = functional.avg_pool2d(maps, 2) if level else maps
        product = features @ maps.flatten(2) / maps.shape[1] ** 0.5
        found.append(product.unflatten(-1, maps.shape[-2:]))
    return found


def windows(maps: Tensor, features: Tensor, xy: Tensor, levels: int, radius: int) -> Tensor:
    """Samples [M n K] of the volumes around positions [M n 2]."""
    line = torch.arange(-radius, radius + 1.0)
    offsets = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
    found = []
    for level, volume in enumerate(volumes(maps, features, levels)):
        around = (xy / 2**level).flatten(0, 1)[:, None] + offsets + 0.5
        samples = sample(volume.flatten(0, 1)[:, None], around, "zeros")
        found.append(samples[..., 0].unflatten(0, xy.shape[:2]))
    return torch.cat(found, -1)


def attention(module: PackedAttention, queries: Tensor, context: Tensor) -> Tensor:
    """Attention as torch's own module computes it when asked for its weights."""
    found, _ = functional.multi_head_attention_forward(
        queries.transpose(0, 1),
        context.transpose(0, 1),
        context.transpose(0, 1),
        queries.shape[-1],
        module.heads,
        module.in_proj.weight,
        module.in_proj.bias,
        None,
        None,
        False,
        0.0,
        module.out_proj.weight,
        module.out_proj.bias,
        training=False,
        need_weights=True,
    )
    return found.transpose(0, 1)


def self_block(block: nn.Module, tokens: Tensor) -> Tensor:
    assert isinstance(block, SelfBlock)
    tokens = plain_norm(tokens)
    tokens = tokens + attention(block.attn, tokens, tokens)
    return tokens + block.mlp(plain_norm(tokens))


def cross_block(block: nn.Module, tokens: Tensor, context: Tensor) -> Tensor:
    assert isinstance(block, CrossBlock)
    tokens = plain_norm(tokens)
    tokens = tokens + attention(block.cross_attn, tokens, block.norm_context(context))
    return tokens + block.mlp(plain_norm(tokens))


def update(transformer: UpdateTransformer, tokens: Tensor) -> Tensor:
    """Moves and updates [B N S O] of tokens [B N S W]."""
    start = transformer.input_transform(tokens)
    scenes, tracks, frames = start.shape[:3]
    tokens = start
    count = transformer.config.virtual_tracks
    if count:
        tokens = torch.cat([tokens, transformer.virtual_tracks.expand(scenes, -1, frames, -1)], 1)
    for i, time in enumerate(transformer.time_blocks):
        tokens = self_block(time, tokens.flatten(0, 1)).unflatten(0, (scenes, tracks + count))
        if count:
            by_frame = tokens.transpose(1, 2).flatten(0, 1)
            points, virtual = by_frame[:, :tracks], by_frame[:, tracks:]
            virtual = cross_block(transformer.space_virtual2point_blocks[i], virtual, points)
            virtual = self_block(transformer.space_virtual_blocks[i], virtual)
            points = cross_block(transformer.space_point2virtual_blocks[i], points, virtual)
            tokens = torch.cat([points, virtual], 1).unflatten(0, (scenes, frames)).transpose(1, 2)
    return transformer.flow_head(tokens[:, :tracks] + start)


def follow(tracker: IterativeTracker, maps: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [B S N 2] in cells, features [B S N C] and query features of queries [B N 2] in frame 0."""
    config = tracker.config
    scenes, frames = maps.shape[:2]
    query_features = sample(maps[:, 0], queries + 0.5)
    xy = queries[:, None].repeat(1, frames, 1, 1)
    features = query_features[:, None].repeat(1, frames, 1, 1)
    for _ in range(config.iterations):
        around = windows(maps.flatten(0, 1), features.flatten(0, 1), xy.flatten(0, 1), config.levels, config.radius)
        flow = xy - xy[:, :1]
        tokens = torch.cat(
            [flow_embedding(flow, config.channels // 2), flow, around.unflatten(0, (scenes, frames)), features], -1
        )
        width = config.transformer.tokens_in
        tokens = functional.pad(tokens, (0, width - tokens.shape[-1])).transpose(1, 2)
        grid = grid_embedding(width, maps.shape[-2], maps.shape[-1]).expand(scenes, -1, -1, -1)
        tokens = tokens + sample(grid, queries + 0.5)[:, :, None]
        delta = update(tracker.transformer, tokens).transpose(1, 2)
        features = features + functional.gelu(tracker.feature_update(tracker.norm(delta[..., 2:])))
        xy = xy + delta[..., :2]
        xy[:, 0] = queries
    return xy, features, query_features


def track(tracker: V2Tracker, pixels: Tensor, maps: Tensor, queries: Tensor) -> dict[str, Tensor]:
    """Coarse and refined tracks [S N 2], pixels with the first centre at (0, 0), and the coarse visibility."""
    xy, features, _ = follow(tracker.coarse, maps[None], queries[None] / COARSE_STRIDE)
    coarse = xy[0] * COARSE_STRIDE
    assert tracker.coarse.visibility is not None
    return {
        "coarse": coarse,
        "visibility": torch.sigmoid(tracker.coarse.visibility(features))[0, ..., 0],
        "refined": refine(tracker, pixels, coarse),
    }


def refine(tracker: V2Tracker, pixels: Tensor, coarse: Tensor) -> Tensor:
    """All patches, features and volumes of all tracks at once."""
    radius = tracker.config.patches.radius
    corner = coarse.floor().long() - radius
    patches = cut_patches(pixels, corner, 2 * radius + 1)
    maps = tracker.fine_encoder(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
    xy, _, _ = follow(tracker.fine, maps, (coarse[0] - corner[0])[:, None])
    refined = xy[:, :, 0].transpose(0, 1) + corner
    refined[0] = coarse[0]
    return refined
