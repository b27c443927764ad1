"""Weights that anyone can make again: the recipe behind the golden values of VGGSfM v2.

Every weight is drawn from a generator seeded by its own published name, so that no file is needed.
"""

import dataclasses
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vggsfm_cli.model import VGGSfM, VGGSfMConfig
from vggsfm_cli.nn.dinov2 import DINOv2Config
from vggsfm_cli.recipes.v2.cameras import V2CameraPredictorConfig
from vggsfm_cli.recipes.v2.iterative import FINE, IterativeTrackerConfig
from vggsfm_cli.recipes.v2.tracker import V2TrackerConfig
from vggsfm_cli.recipes.v2.transformer import UpdateTransformerConfig
from vggsfm_cli.recipes.v2.weights import V2, our_key

SHAPES: dict[str, list[int]] = json.loads((Path(__file__).parent / "golden" / "v2_shapes.json").read_text())
"""Shape of every published weight."""

EMBEDDINGS = {"cls_token", "pos_embed", "register_tokens", "mask_token", "pose_token", "virual_tracks"}


def recipe(name: str) -> Tensor:
    """The weight of this published name."""
    shape = SHAPES[name]
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in EMBEDDINGS:
        z *= 0.5
    elif leaf == "gamma":
        z = 0.3 + 0.05 * z
    elif len(shape) == 1 and leaf == "weight":
        z = 1 + 0.1 * z
    elif len(shape) == 1:
        z *= 0.05
        if name == "camera_predictor.pose_branch.fc2.bias":
            z[[3, 7]] += (0.3, 0.6)
    else:
        z /= math.sqrt(math.prod(shape[1:]))
        if name.endswith(("flow_head.weight", "pose_branch.fc2.weight")):
            z *= 0.1
        if name.endswith("updateformer.input_transform.weight"):
            z[:, : 128 if "coarse" in name else 32] *= 0.05
    return torch.from_numpy(z.astype(np.float32))


def published(prefix: str = "") -> dict[str, Tensor]:
    """All recipe weights whose published name starts with ``prefix``, under their published names."""
    return {name: recipe(name) for name in SHAPES if name.startswith(prefix)}


FINE_TRANSFORMER = dataclasses.replace(FINE.transformer, blocks=1)
SHALLOW = dataclasses.replace(
    V2,
    tracker=V2TrackerConfig(
        coarse=IterativeTrackerConfig(iterations=2, transformer=UpdateTransformerConfig(blocks=1)),
        fine=dataclasses.replace(FINE, iterations=2, transformer=FINE_TRANSFORMER),
    ),
    camera_estimator=V2CameraPredictorConfig(
        backbone=DINOv2Config(blocks=1), image_blocks=1, trunk_blocks=1, iterations=2, side_px=112
    ),
)
"""Every part of v2, each as thin as it can be."""


def with_recipe_weights(config: VGGSfMConfig) -> VGGSfM:
    with torch.device("meta"):
        model = config.build()
    names = {our_key(published): published for published in SHAPES}
    state = {name: recipe(names[name]) for name in model.state_dict()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
