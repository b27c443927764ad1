"""Photographs in, and plain geometry files out."""

from vggsfm_cli.io.images import PhotographSet, read_images
from vggsfm_cli.io.sources import SkippedImage

__all__ = ["PhotographSet", "SkippedImage", "read_images"]
