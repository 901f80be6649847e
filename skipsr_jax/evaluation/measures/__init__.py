"""Metrics of a stream of frames, one file a metric; `registry` lists them by name."""
