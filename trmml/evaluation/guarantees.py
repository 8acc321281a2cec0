"""Thresholds with a promise: their precision holds with a stated confidence, or there is none.

Whether a threshold keeps a wanted precision q is a test: k of the n known labels that it finds are
positive, and k is binomial. P(k or more of n | q) is its p-value; it is small enough just where
Clopper and Pearson's (1934) lower bound reaches q. Several thresholds are looked at in a fixed order,
from the highest down until one fails, so that none of them costs the others anything: fixed-sequence
testing, as in Learn then Test (Angelopoulos et al., 2021). Where they are depends on the scores alone.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from trmml.errors import ConfigError
from trmml.evaluation.calibration import evidence_at
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.thresholds import NEVER, Calibration
from trmml.reports.numbers import counted

CONFIDENCE = 0.95
STEP = 1.2
"""How many times as many labels each threshold finds as the one above it."""


def binomial_tail(hits: int, found: int, share: float) -> float:
    """Return the probability of so many hits or more among `found`, each with probability `share`."""
    if hits <= 0:
        return 1.0
    k = np.arange(hits, found + 1)
    log_factorials = np.append(0.0, np.cumsum(np.log(np.arange(1, found + 1))))
    log_choices = log_factorials[found] - log_factorials[k] - log_factorials[found - k]
    logs = log_choices + k * math.log(share) + (found - k) * math.log1p(-share)
    return float(min(1.0, np.exp(logs).sum()))


def guaranteed_threshold(
    scores: Float[np.ndarray, " known"],
    positive: Bool[np.ndarray, " known"],
    precision: float,
    confidence: float = CONFIDENCE,
) -> float:
    """Return the lowest threshold whose precision holds with a confidence; 1 if none does.

    Args:
        scores: Scores in [0, 1], of labels whose states are independent of each other.
        positive: Which of them belong to positive labels.
        precision: What is to hold among all labels that are found at the threshold.
        confidence: That it holds; for all thresholds that were looked at together.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(positive[order])
    best = NEVER
    # With fewer found than this, not even hits alone would show it.
    fewest = math.ceil(math.log(1 - confidence) / math.log(precision))
    for place in _places(scores, fewest):
        if binomial_tail(int(hits[place]), int(place) + 1, precision) > 1 - confidence:
            break
        best = float(scores[place])
    return best


def _places(scores: Float[np.ndarray, " known"], fewest: int) -> Int64[np.ndarray, " place"]:
    """Return where thresholds are looked at: each a step further down, at the last of equal scores."""
    if len(scores) < fewest:
        return np.zeros(0, dtype=np.int64)
    num_steps = math.floor(math.log(len(scores) / fewest, STEP)) + 1
    wanted = np.ceil(fewest * STEP ** np.arange(num_steps)).astype(np.int64) - 1
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    return np.unique(last[np.searchsorted(last, np.minimum(wanted, len(scores) - 1))])


def guarantee(
    scores: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    labels: tuple[str, ...],
    precision: float = 0.9,
    confidence: float = CONFIDENCE,
) -> Calibration:
    """Choose thresholds whose precision holds on further photos with a stated confidence.

    A label has a promise of its own if enough is known of it to show one. All others have one threshold
    in common, and the promise is for all of their tags together. A label for which neither can be shown
    is never predicted, nor is one without a known negative, of which no precision is known. The promise
    is for photos that come as these came, and supposes that nobody chose by what is in them which of
    their labels became known.

    Args:
        scores: Scores in [0, 1].
        states: Of each image and label; unknown ones do not count.
        labels: Their names.
        precision: What is to hold, in (0, 1).
        confidence: For each threshold, in (0, 1).

    Returns:
        Thresholds; the `evidence` of each label says what its promise is: `alone`, `together`, `never`.

    Raises:
        ConfigError: If precision or confidence is out of range.
    """
    for name, value in (("precision", precision), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must be above 0 and below 1, got {value}.")
    has_both = (states == POSITIVE).any(axis=0) & (states == NEGATIVE).any(axis=0)

    def threshold(columns: Bool[np.ndarray, " label"]) -> float:
        known = (states != UNKNOWN) & columns
        values, positive = scores[known].astype(np.float64), states[known] == POSITIVE
        return guaranteed_threshold(values, positive, precision, confidence)

    own = np.array([threshold(row & has_both) for row in np.eye(len(labels), dtype=bool)])
    # Those that fail by chance make the others look worse than they are, and the promise no weaker.
    is_together = has_both & (own >= NEVER)
    common = threshold(is_together)
    limits = np.where(is_together, common, own).tolist()
    kinds = np.where(is_together & (common < NEVER), "together", "alone")
    kinds = np.where(np.array(limits) >= NEVER, "never", kinds).tolist()
    evidence = evidence_at(scores, states, labels, limits)
    return Calibration(
        thresholds=tuple(limits),
        global_threshold=common,
        known_positives=tuple((states == POSITIVE).sum(axis=0).tolist()),
        method=(
            f"precision of {precision:g} or more with {100 * confidence:g} % confidence, on known "
            f"labels: {counted(kinds.count('alone'), 'label')} each by itself, "
            f"{kinds.count('together')} together"
        ),
        evidence={
            label: evidence[label] | {"promise": kind}
            for label, kind in zip(labels, kinds, strict=True)
        },
    )
