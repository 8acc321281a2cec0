"""How sure a difference of mAP is: the same photos drawn again, for two or more models at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8

from trmml.labels import POSITIVE, UNKNOWN

NUM_DRAWS = 400
MOST_CELLS = 2**31
"""Of draws × photos × labels, to bound time; with many labels there are fewer draws."""
FEWEST_DRAWS = 50


class Difference(NamedTuple):
    """Of the mAP of two models on the same photos, in [-1, 1], with its interval of 95 %."""

    mean: float
    low: float
    high: float


def difference(
    first: Float[np.ndarray, "image label"],
    second: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    *,
    seed: int = 0,
) -> Difference:
    """Return how far the mAP of the first scores is above that of the second (paired bootstrap).

    Args:
        first: Scores of one model.
        second: Scores of the other.
        states: Of the same photos; unknown ones do not count.
        seed: Of the draws.

    Returns:
        NaN throughout where no label has a known positive and a known negative.
    """
    maps = resampled_maps([first, second], states, seed=seed)
    gain = maps[0] - maps[1]
    if np.isnan(gain).all():
        return Difference(*[float("nan")] * 3)
    low, high = np.nanquantile(gain[1:], [0.025, 0.975])
    return Difference(float(gain[0]), float(low), float(high))


def resampled_maps(
    scores: Sequence[Float[np.ndarray, "image label"]],
    states: Int8[np.ndarray, "image label"],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "model draw"]:
    """Return the mAP of models on photos drawn with replacement, the same draws for all of them.

    The first column is that of the photos as they are.

    Args:
        scores: Of each model.
        states: Of the same photos; unknown ones do not count.
        num_draws: At most; fewer where there are many photos and labels.
        seed: Of the draws.
    """
    num_draws = min(num_draws, max(MOST_CELLS // (states.size * len(scores)), FEWEST_DRAWS))
    num_photos = len(states)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(num_photos, np.full(num_photos, 1 / num_photos), num_draws)
    counts = np.concatenate([np.ones((1, num_photos), dtype=drawn.dtype), drawn])
    total = np.zeros((len(scores), len(counts)))
    labels = np.zeros(len(counts))
    for column, of_label in enumerate(states.T):
        known = of_label != UNKNOWN
        positive, times = of_label[known] == POSITIVE, counts[:, known]
        scored = (times[:, positive].sum(axis=1) > 0) & (times[:, ~positive].sum(axis=1) > 0)
        labels += scored
        for row, of_model in enumerate(scores):
            precisions = _average_precisions(of_model[known, column], positive, times[scored])
            total[row, scored] += precisions
    with np.errstate(invalid="ignore"):
        return total / labels


def _average_precisions(
    scores: Float[np.ndarray, " image"],
    positive: np.ndarray,
    times: np.ndarray,
) -> Float[np.ndarray, " draw"]:
    """Return the average precision of one label where each photo counts several times or never."""
    if not len(times):
        return np.zeros(0)
    order = np.argsort(-scores, kind="stable")
    scores, positive, times = scores[order], positive[order], times[:, order]
    last_of_tie = np.append(np.diff(scores) != 0, True)
    hits = np.cumsum(times * positive, axis=1)[:, last_of_tie].astype(np.float64)
    shown = np.cumsum(times, axis=1)[:, last_of_tie]
    precision = hits / np.maximum(shown, 1)
    gained = np.diff(hits, axis=1, prepend=0) / hits[:, -1:]
    return (gained * precision).sum(axis=1)
