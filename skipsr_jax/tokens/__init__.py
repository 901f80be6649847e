"""Masks, windows and token plans as index arrays made on the host."""
