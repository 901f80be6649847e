"""Fused normalisation, SiLU and concatenation ahead of a convolution."""
