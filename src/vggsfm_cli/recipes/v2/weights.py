"""Names in the published weights of VGGSfM v2, and what they are called here."""

import torch

from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.recipes.v2.cameras import V2CameraPredictorConfig
from vggsfm_cli.recipes.v2.tracker import V2TrackerConfig
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig

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


CAMERAS = {
    "camera_predictor.": "camera_estimator.",
    ".ffeat_updater.0.": ".feature_update.",
}
"""The camera predictor's modules."""

V2 = VGGSfMConfig(
    name="v2",
    recipe="v2",
    tracker=V2TrackerConfig(),
    camera_estimator=V2CameraPredictorConfig(),
    triangulator=RansacTriangulatorConfig(),
    adjuster=SchurConfig(),
)
"""The model that the published weights fit. They hold no triangulator and no adjuster."""


def our_key(name: str) -> str:
    """Our name, within the model, of a published weight."""
    return camera_key(name) if name.startswith("camera_predictor.") else tracker_key(name)


def published_keys(config: VGGSfMConfig = V2) -> dict[str, str]:
    """Our name of every weight of a model of this kind, by its published name."""
    with torch.device("meta"):
        ours = config.build().state_dict()
    return {_published(name): name for name in ours}


def published_shapes(config: VGGSfMConfig = V2) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a model of this kind, by its published name."""
    with torch.device("meta"):
        ours = config.build().state_dict()
    return {_published(name): tuple(value.shape) for name, value in ours.items()}


def _published(name: str) -> str:
    table = CAMERAS if name.startswith("camera_estimator.") else TRACKER
    attention = BACKBONE if ".backbone." in name else ATTENTION
    return _renamed(name, {ours: theirs for theirs, ours in {**table, **attention}.items()})


def camera_key(name: str) -> str:
    """Our name, within the model, of a weight that starts with ``camera_predictor.``."""
    attention = BACKBONE if ".backbone." in name else ATTENTION
    return _renamed(name, {**CAMERAS, **attention})


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
