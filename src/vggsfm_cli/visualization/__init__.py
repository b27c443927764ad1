"""Figures."""

from vggsfm_cli.visualization.overview import draw_overview, save_overview

__all__ = ["draw_overview", "save_overview"]
