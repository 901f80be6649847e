"""Good, same, bad: what viewers prefer of two results, and how sure that is.

The preference of a over b is (G - B) / (G + S + B) (SkipSR, Table 4a): G answers prefer a, B prefer
b, S see no difference. It is 1 when all prefer a, and -1 when all prefer b.

The interval comes from a bootstrap of viewers and clips (Owen, "The pigeonhole bootstrap", 2007):
both are drawn with replacement, and an answer counts as often as its viewer times as its clip, so
that the interval speaks of other viewers and other clips too. A study with one viewer draws clips
alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from skipsr_jax.types import Float, HostArray

DRAWS = 10000
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a viewer answered to a pair.

    Attributes:
      viewer: who.
      clip: of which clip.
      value: 1 where a is better, -1 where b is, 0 for no difference.
    """

    viewer: str
    clip: str
    value: int


@dataclasses.dataclass(frozen=True)
class Preference:
    """The preference of a over b.

    Attributes:
      good, same, bad: counts of answers.
      low, high: ends of the interval of `CONFIDENCE`, -1 to 1; None for a single answer.
      viewers, clips: how many there are.
    """

    good: int
    same: int
    bad: int
    low: float | None
    high: float | None
    viewers: int
    clips: int

    @property
    def score(self) -> float:
        """(G - B) / (G + S + B), -1 to 1."""
        return (self.good - self.bad) / (self.good + self.same + self.bad)


def preference(answers: Sequence[Answer], *, draws: int = DRAWS, seed: int = 0) -> Preference:
    """The preference that answers show.

    Args:
      answers: at least one; at most one of a viewer to a clip.
      draws: of the bootstrap.
      seed: of the bootstrap.

    Raises:
      ValueError: there is no answer, or two of one viewer to one clip.
    """
    if not answers:
        raise ValueError("there is no answer")
    viewers = sorted({answer.viewer for answer in answers})
    clips = sorted({answer.clip for answer in answers})
    values = np.zeros((len(viewers), len(clips)))
    answered = np.zeros((len(viewers), len(clips)))
    for answer in answers:
        at = viewers.index(answer.viewer), clips.index(answer.clip)
        if answered[at]:
            raise ValueError(f"two answers of {answer.viewer} to {answer.clip}")
        values[at], answered[at] = answer.value, 1
    low, high = None, None
    if len(answers) > 1:
        low, high = _interval(values, answered, draws, np.random.default_rng(seed))
    good, bad = int((values > 0).sum()), int((values < 0).sum())
    same = len(answers) - good - bad
    return Preference(good, same, bad, low, high, len(viewers), len(clips))


def _interval(
    values: Float[HostArray, "viewers clips"],
    answered: Float[HostArray, "viewers clips"],
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """The percentile interval of the mean value over bootstrap draws."""

    def counts(size: int) -> Float[HostArray, "draws size"]:
        if size == 1:
            return np.ones((draws, 1))
        return rng.multinomial(size, np.full(size, 1 / size), draws).astype(float)

    of_viewers, of_clips = counts(values.shape[0]), counts(values.shape[1])
    total, weight = (np.einsum("nv,vc,nc->n", of_viewers, x, of_clips) for x in (values, answered))
    scores = total[weight > 0] / weight[weight > 0]  # an incomplete study may draw nothing
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)
