"""Losses and what they are computed from."""
