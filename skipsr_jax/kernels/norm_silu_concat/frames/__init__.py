"""Fused norm, SiLU and concatenation of whole frames with their causal-conv cache."""
