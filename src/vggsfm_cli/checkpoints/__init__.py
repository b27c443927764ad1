"""Weights: where they are, under which licence, and how they are read."""

from vggsfm_cli.checkpoints.resolve import ResolvedModel, load_model, resolve_model

__all__ = ["ResolvedModel", "load_model", "resolve_model"]
