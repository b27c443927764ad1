"""Weights: where they are and how they are read."""

from vggsfm_cli.checkpoints.files import load_model

__all__ = ["load_model"]
