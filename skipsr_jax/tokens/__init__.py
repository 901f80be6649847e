"""Tokens: keep masks, windows, buckets and token plans, as index arrays made on the host."""
