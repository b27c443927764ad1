"""The recipe and the networks of VGGSfM v2 (arXiv 2312.04563). Experimental: never run with the published file.

All that only v2 needs is here: its tracker, cameras, triangulation, mapping, rounds, squares and the names in its
published weights. The rest of the package knows ``PRESETS``, and ``weights`` for the conversion.

Inside the networks, positions have the origin in which the weights were trained: the centre of the first pixel, or
cell, is (0, 0). ``tracker.py`` takes and gives the package's own conventions.
"""

from vggsfm_cli.recipes.v2.recipe import PRESETS, V2Recipe

__all__ = ["PRESETS", "V2Recipe"]
