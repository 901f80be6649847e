"""From the frames of an input to the frames of its upscaled version."""
