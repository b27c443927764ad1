"""Comparison with the golden values of VGGSfM v2's networks, of which a part is committed."""

import os
from functools import cache

import torch
from torch import Tensor

from goldens import golden
from v2_recipe import published
from vggsfm_cli.nn.dinov2 import DINOv2, DINOv2Config
from vggsfm_cli.recipes.v2.tracker import V2Tracker, V2TrackerConfig
from vggsfm_cli.recipes.v2.weights import backbone_key, tracker_key

OMITTED = None
EVERY = slice(None)
FOURTH, EIGHTH = slice(None, None, 4), slice(None, None, 8)

COMMITTED: dict[str, dict[str, tuple[slice, ...] | None]] = {
    "inputs": {},
    "embeddings": {
        "pos_216_31x31_rows0_3": (EVERY, FOURTH),
        "pos_664_h5_w7": (EVERY, FOURTH),
        "pos_768_24x24_row23": (EVERY, FOURTH),
    },
    "dinov2": {
        "clstoken_all": OMITTED,
        "img_norm336_frame0_rows0_3": OMITTED,
        "patchtokens_all_mean_over_patches": OMITTED,
        "patchtokens_frame0": OMITTED,
        "pos_24x24_first16_last16": (EVERY, FOURTH, FOURTH),
        "regtokens_all": OMITTED,
        "small_block0": (EVERY, FOURTH, FOURTH),
        "small_block11": (EVERY, FOURTH, FOURTH),
        "small_patch_embed": (EVERY, FOURTH, FOURTH),
        "small_tokens_with_pos": (EVERY, FOURTH, FOURTH),
        "small_x_norm_patchtokens": (EVERY, FOURTH, FOURTH),
    },
    "correlation": {
        "sq_coords": OMITTED,
        "sq_feats": OMITTED,
        "sq_fmaps_f16": OMITTED,
        "sq_level2": OMITTED,
        "sq_out_L5_r4": OMITTED,
        "sq_out_efficient_L5_r4": OMITTED,
    },
    "coarse_fnet": {
        "down_frame0": (EVERY, EVERY, EIGHTH, EIGHTH),
        "fmaps": (EVERY, EVERY, EIGHTH, FOURTH, FOURTH),
        "frame0_conv2_ch0_7": (EVERY, FOURTH, FOURTH, FOURTH),
        "frame0_layer1_ch0_3": (EVERY, FOURTH, EIGHTH, EIGHTH),
        "frame0_layer3": (EVERY, EIGHTH, FOURTH, FOURTH),
        "frame0_layer4": (EVERY, EIGHTH),
        "frame0_stem_norm1_ch0_3": (EVERY, FOURTH, EIGHTH, EIGHTH),
    },
    "updateformer": {
        "coarse_p2v0_out": (EVERY, EVERY, EIGHTH),
        "coarse_p2v5_out": (EVERY, EVERY, EIGHTH),
        "coarse_time0_out_first6tracks": (EVERY, EVERY, EIGHTH),
        "coarse_time5_out_first6tracks": (EVERY, EVERY, EIGHTH),
        "coarse_v2p0_out_t0": (EVERY, FOURTH, EIGHTH),
        "coarse_virt0_out_t0": (EVERY, FOURTH, EIGHTH),
    },
    "coarse_tracker": {
        "iter0_tokens": (EVERY, FOURTH),
        "iter0_delta": (EVERY, FOURTH),
        "iter1_tokens": (EVERY, FOURTH, EVERY, FOURTH),
        "iter5_tokens": (EVERY, FOURTH, EVERY, FOURTH),
    },
    "fine_fnet": {
        "patches": (slice(2),),
        "feat": (slice(2), FOURTH),
        "layer1": (slice(2), FOURTH),
        "layer2": (slice(2), FOURTH),
    },
    "refine_track": {"patches_u8": OMITTED},
    "tracker_predictor": {},
}
"""What of each fixture is committed: whole tensors where nothing is said, else a slice or nothing."""


def full() -> bool:
    """Whether the full set is there."""
    return bool(os.environ.get("VGGSFM_REFERENCE"))


def check(found: Tensor, fixture: str, name: str, atol: float) -> None:
    """Compare with a golden tensor, or with the part of it that is committed."""
    known = golden(fixture)
    part = COMMITTED[fixture].get(name, ())
    if name not in known:
        assert not full() and part is OMITTED, f"{fixture} has no {name}"
        return
    found = found if full() or part is OMITTED else found[part]
    torch.testing.assert_close(found, known[name], atol=atol, rtol=0)


def pictures() -> Tensor:
    """The four frames of all fixtures, RGB in [0, 1]."""
    return golden("inputs")["images_u8"].float() / 255


@cache
def recipe_tracker() -> V2Tracker:
    """The tracker with recipe weights; every published key must find its place."""
    tracker = V2TrackerConfig().build().eval().requires_grad_(False)
    state = {tracker_key(name).removeprefix("tracker."): value for name, value in published("track_predictor.").items()}
    tracker.load_state_dict(state, strict=True)
    return tracker


@cache
def recipe_backbone() -> DINOv2:
    """DINOv2 with recipe weights."""
    prefix = "camera_predictor.backbone."
    backbone = DINOv2Config().build().eval().requires_grad_(False)
    state = {backbone_key(name.removeprefix(prefix)): value for name, value in published(prefix).items()}
    backbone.load_state_dict(state, strict=True)
    return backbone
