"""Fused norm, SiLU and concatenation of active blocks with their halo and causal-conv cache."""
