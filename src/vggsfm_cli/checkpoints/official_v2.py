"""Names in the published weights of VGGSfM v2, and what they are called here."""

ATTENTION = {
    ".in_proj_weight": ".in_proj.weight",
    ".in_proj_bias": ".in_proj.bias",
}
"""The packed projections of torch's own attention, which the blocks of v2 have."""

BACKBONE = {
    ".attn.qkv.": ".attn.in_proj.",
    ".attn.proj.": ".attn.out_proj.",
}
"""DINOv2's attention."""

TRACKER = {
    "track_predictor.coarse_fnet.": "tracker.coarse_encoder.",
    "track_predictor.coarse_predictor.": "tracker.coarse.",
    "track_predictor.fine_fnet.": "tracker.fine_encoder.",
    "track_predictor.fine_predictor.": "tracker.fine.",
    ".downsample.0.": ".downsample.",
    ".updateformer.": ".transformer.",
    ".virual_tracks": ".virtual_tracks",
    ".ffeat_updater.0.": ".feature_update.",
    ".vis_predictor.0.": ".visibility.",
}
"""The tracker's modules."""


def backbone_key(name: str) -> str:
    """Our name of one of DINOv2's published weights."""
    return _renamed(name, BACKBONE)


def tracker_key(name: str) -> str:
    """Our name, within the model, of a weight that starts with ``track_predictor.``."""
    return _renamed(name, {**TRACKER, **ATTENTION})


def _renamed(name: str, table: dict[str, str]) -> str:
    for theirs, ours in table.items():
        name = name.replace(theirs, ours)
    return name
