"""How good the stages are, against exact or surveyed truth."""
