"""Training: one loop, and the things it can train."""
