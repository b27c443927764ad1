"""Worlds with known truth, for training and tests."""
