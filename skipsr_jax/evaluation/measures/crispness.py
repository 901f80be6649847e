"""Crispness: how strongly neighbouring pixels differ, against the truth.

  crispness = mean |Y(y, x + 1) - Y(y, x)| of the result / the same of the truth,   Y the luma

1 is the truth's. Blur lowers it; sharpening, noise and invented texture raise it, also above 1. So
it says whether a result is soft, and not whether it is right: read it beside a metric that compares
with the truth pixel by pixel.
"""

import numpy as np

from skipsr_jax.evaluation.measures.stream import Picture, Undefined


def crispness(result: Picture, truth: Picture) -> float:
    """The ratio of mean absolute horizontal differences of luma. Raises Undefined for a truth that
    does not differ anywhere along its rows."""
    wanted = np.abs(np.diff(truth.luma, axis=1)).mean() if truth.luma.shape[1] > 1 else 0.0
    if wanted == 0:
        raise Undefined("the truth has no horizontal differences")
    return float(np.abs(np.diff(result.luma, axis=1)).mean() / wanted)
