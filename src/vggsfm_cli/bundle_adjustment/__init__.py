"""Stage 4: cameras, points and tracks adjusted together."""
