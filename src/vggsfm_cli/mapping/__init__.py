"""Inference policy after tracking: candidates, growth, filter, re-triangulate, adjust, over a schedule."""
