"""Photographs in, and plain geometry files out."""

from vggsfm_cli.io.images import PhotographSet, SkippedImage, read_images

__all__ = ["PhotographSet", "SkippedImage", "read_images"]
