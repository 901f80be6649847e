"""Kernels with several implementations; the plain XLA one is the reference for all others."""
