"""Stage 2: tracks to cameras."""
