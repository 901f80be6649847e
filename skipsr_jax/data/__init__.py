"""Training samples: sources, crops, degradation, packing, batches. Imports no jax."""
