"""Stage 3: cameras and tracks to points."""
