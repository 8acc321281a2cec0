"""Metrics of multi-label recognition in which unknown labels never count.

All are shares in [0, 1]. Average precision is the non-interpolated one of scikit-learn (tied scores
are one threshold); the interpolated form of PASCAL VOC 2010 stands beside it for tables that use it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int8
from numpy.typing import ArrayLike

from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN


def average_precision(
    scores: Float[np.ndarray, " image"],
    states: Int8[np.ndarray, " image"],
    *,
    interpolated: bool = False,
) -> float:
    """Average precision of one label over the images in which it is known.

    AP = Σₙ (Rₙ − Rₙ₋₁) Pₙ over the distinct scores as thresholds; interpolated, Pₙ is the best
    precision at that recall or a higher one.

    Returns:
        A share in [0, 1]; NaN if no positive or no negative label is known.
    """
    known = states != UNKNOWN
    scores, positive = scores[known], states[known] == POSITIVE
    if not positive.any() or positive.all():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    # Tied scores are one threshold: in whatever order they come, the result is the same.
    last_of_tie = np.append(np.diff(scores) != 0, True)
    hits = np.cumsum(positive)[last_of_tie].astype(np.float64)
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float((gained * precision).sum())


def average_precisions(
    scores: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    *,
    interpolated: bool = False,
) -> Float[np.ndarray, " label"]:
    """Average precision of each label; NaN where a positive or a negative is not known."""
    pairs = zip(scores.T, states.T, strict=True)
    return np.array([average_precision(s, y, interpolated=interpolated) for s, y in pairs])


def mean_average_precision(
    scores: Float[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]
) -> float:
    """Mean of AP over the labels that have a known positive and a known negative.

    Returns:
        A share in [0, 1]; NaN if there is no such label.
    """
    values = average_precisions(scores, states)
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else float("nan")


class F1(NamedTuple):
    """Precision, recall and F1: of all cells together, and averaged over labels.

    The label F1 is the harmonic mean of the averaged precision and recall (the field's CF1).
    Labels without a known positive are left out of the label averages.
    """

    overall_precision: float
    overall_recall: float
    overall_f1: float
    label_precision: float
    label_recall: float
    label_f1: float


def f1(predicted: Bool[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]) -> F1:
    """OP, OR, OF1, CP, CR and CF1 over known labels; a share with nothing to divide by is 0."""
    hits = (predicted & (states == POSITIVE)).sum(axis=0).astype(np.float64)
    wrong = (predicted & (states == NEGATIVE)).sum(axis=0)
    positives = (states == POSITIVE).sum(axis=0)
    # A recall of nothing would be 0 or 1 by convention, and either would move the mean.
    counted = positives > 0
    precision, recall = _share(hits, hits + wrong)[counted], _share(hits, positives)[counted]
    overall_precision = float(_share(hits.sum(), (hits + wrong).sum()))
    overall_recall = float(_share(hits.sum(), positives.sum()))
    label_precision = float(precision.mean()) if counted.any() else 0.0
    label_recall = float(recall.mean()) if counted.any() else 0.0
    return F1(
        overall_precision,
        overall_recall,
        _harmonic(overall_precision, overall_recall),
        label_precision,
        label_recall,
        _harmonic(label_precision, label_recall),
    )


def top_k_mask(scores: Float[np.ndarray, "image label"], k: int) -> Bool[np.ndarray, "image label"]:
    """Mark the k highest scores of each image; ties go to the earlier label."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, best, True, axis=1)
    return mask


def _share(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
