"""Photographs in, and plain geometry files out."""
