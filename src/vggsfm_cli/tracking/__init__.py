"""Stage 1: images to tracks."""
