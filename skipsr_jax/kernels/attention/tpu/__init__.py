"""Varlen attention for TPUs in Pallas (Mosaic TPU)."""
