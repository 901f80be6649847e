"""Measures of quality: of pictures against the truth, and of keep masks against Eq. 1's."""
