"""DINOv2 against the golden values of the published recipe."""

import pytest
import torch

from goldens import golden, needs_full_set
from v2_golden import check, pictures, recipe_backbone
from vggsfm_cli.nn.cnn import resize_aligned
from vggsfm_cli.nn.dinov2 import DINOv2Config, normalize_colors


@torch.no_grad()
def test_a_small_image_gives_the_published_tokens():
    backbone = recipe_backbone()
    pixels = golden("dinov2")["small_in"]
    check(backbone.patch_embed(pixels), "dinov2", "small_patch_embed", 1e-5)
    tokens = backbone.embed(pixels)
    check(tokens, "dinov2", "small_tokens_with_pos", 1e-5)
    for i, block in enumerate(backbone.blocks):
        tokens = block(tokens)
        if i in (0, 11):
            check(tokens, "dinov2", f"small_block{i}", 1e-4)
    features = backbone(pixels)
    check(features.class_token, "dinov2", "small_x_norm_clstoken", 2.5e-5)
    check(features.registers, "dinov2", "small_x_norm_regtokens", 2.5e-5)
    check(features.patches, "dinov2", "small_x_norm_patchtokens", 2.5e-5)
    positions = backbone.positions(24, 24)
    check(torch.cat([positions[:, :16], positions[:, -16:]], 1), "dinov2", "pos_24x24_first16_last16", 1e-5)


@needs_full_set
@torch.no_grad()
def test_photographs_give_the_published_tokens():
    pixels = normalize_colors(resize_aligned(pictures(), (336, 336)))
    check(pixels[:1, :, :4], "dinov2", "img_norm336_frame0_rows0_3", 1e-6)
    features = recipe_backbone()(pixels)
    check(features.patches[:1], "dinov2", "patchtokens_frame0", 2.5e-5)
    check(features.patches.mean(1), "dinov2", "patchtokens_all_mean_over_patches", 2.5e-5)
    check(features.class_token, "dinov2", "clstoken_all", 2.5e-5)
    check(features.registers, "dinov2", "regtokens_all", 2.5e-5)


def test_sizes_that_do_not_split_into_patches_are_refused():
    backbone = DINOv2Config(width=8, heads=2, blocks=1, trained_grid=3).build()
    with pytest.raises(ValueError, match="multiples of 14"):
        backbone(torch.rand(1, 3, 28, 30))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_tokens(dtype):
    torch.manual_seed(0)
    backbone = DINOv2Config(width=32, heads=2, blocks=2, trained_grid=3).build()
    pixels = torch.randn(2, 3, 42, 28)
    expected = backbone(pixels).patches
    with torch.autocast("cpu", dtype=dtype):
        found = backbone(pixels).patches.float()
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()
