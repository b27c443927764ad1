"""Weights: where they are, under which licence, and how they are read."""

from vggsfm_cli.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE
from vggsfm_cli.checkpoints.inventory import describe, list_weights
from vggsfm_cli.checkpoints.registry import REGISTRY
from vggsfm_cli.checkpoints.resolve import (
    AUTO,
    Notice,
    ResolvedModel,
    convert_file,
    licence_text,
    load_model,
    resolve_model,
    unheard,
)

__all__ = [
    "AUTO",
    "CONFIG_FILE",
    "REGISTRY",
    "WEIGHTS_FILE",
    "Notice",
    "ResolvedModel",
    "convert_file",
    "describe",
    "licence_text",
    "list_weights",
    "load_model",
    "resolve_model",
    "unheard",
]
