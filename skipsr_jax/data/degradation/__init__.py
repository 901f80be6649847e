"""From a clip to its low-quality pair: plain downsampling, or real-world degradation."""
