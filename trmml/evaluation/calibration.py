"""Thresholds: from which score on a label counts as present.

One global threshold is chosen over all known labels for a goal (best F1, a wanted precision or recall,
lowest cost); each label then has its own, drawn towards the global one where few positives are
known (our choice), since a threshold tuned on a handful of photos is mostly noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int8

from trmml.errors import ConfigError
from trmml.labels import POSITIVE, UNKNOWN
from trmml.matcher.thresholds import NEVER, UNCALIBRATED, Calibration

SHRINKAGE = 20.0
"""Known positives at which a label's own threshold and the global one weigh the same."""

CONFIDENCE = 1.96
"""Standard deviations of a 95 % interval."""


class Proportion(NamedTuple):
    """A measured share with its 95 % interval (Wilson, 1927); NaN where there was nothing to count."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a threshold is to reach.

    Attributes:
        kind: Best F1, at least a wanted precision or recall, or the lowest cost.
        target: The wanted precision or recall, in (0, 1).
        false_positive_cost: Of a label that is wrongly found.
        false_negative_cost: Of one that is missed.
    """

    kind: Literal["f1", "precision", "recall", "cost"] = "f1"
    target: float = 0.9
    false_positive_cost: float = 1.0
    false_negative_cost: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.target < 1:
            raise ConfigError(f"target must be above 0 and below 1, got {self.target}.")
        costs = (self.false_positive_cost, self.false_negative_cost)
        if min(costs) < 0 or max(costs) == 0:
            raise ConfigError(f"Costs must be zero or more and not both zero, got {costs}.")

    def __str__(self) -> str:
        """Return the goal in words."""
        if self.kind == "f1":
            return "best F1"
        if self.kind == "cost":
            return (
                f"lowest cost ({self.false_positive_cost:g} per false positive, "
                f"{self.false_negative_cost:g} per false negative)"
            )
        return f"{self.kind} of {self.target:g}"


def best_threshold(
    scores: Float[np.ndarray, " known"], positive: Bool[np.ndarray, " known"], goal: Goal
) -> float:
    """Return the threshold that reaches a goal best, half-way to the next lower score.

    For a wanted precision it is the lowest threshold from which on hits / (found + 1) reaches it: the
    one more found that is no hit keeps a lucky handful from looking perfect. For a wanted recall it
    is the highest that reaches it.

    Args:
        scores: Scores in [0, 1].
        positive: Which of them belong to positive labels.
        goal: What to reach.

    Returns:
        A threshold in [0, 1]; 0.5 if there is no positive, 1 if a precision is never reached.
    """
    if not positive.any():
        return NEVER if goal.kind == "precision" else UNCALIBRATED
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    # A score is a threshold at its last position: tied ones stand or fall together.
    last = np.append(np.diff(scores) != 0, True)
    hits, found = np.cumsum(positive), np.arange(1, len(scores) + 1)
    if goal.kind == "precision":
        reached = np.flatnonzero(last & (hits / (found + 1) >= goal.target))
        if len(reached) == 0:
            return NEVER
        best = int(reached[-1])
    elif goal.kind == "recall":
        best = int(np.flatnonzero(last & (hits >= goal.target * positive.sum()))[0])
    elif goal.kind == "cost":
        missed = positive.sum() - hits
        cost = goal.false_positive_cost * (found - hits) + goal.false_negative_cost * missed
        best = int(np.where(last, cost, np.inf).argmin())
        if goal.false_negative_cost * positive.sum() < cost[best]:
            return NEVER
    else:
        f1 = 2 * hits / (found + positive.sum())
        best = int(np.where(last, f1, -1).argmax())
    lower = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + lower) / 2)


def calibrate(
    scores: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    labels: tuple[str, ...] = (),
    goal: Goal | None = None,
) -> Calibration:
    """Choose thresholds on known labels, shrunk to the global one where positives are few.

    Threshold of label c: (n_c t_c + k t) / (n_c + k), with n_c its known positives, t_c and t its
    own and the global best, k = 20. For a wanted precision the higher of this and t_c is taken, for a
    wanted recall the lower: shrinkage must not promise what the label does not show.

    Args:
        scores: Scores in [0, 1].
        states: Of each image and label; unknown ones do not count.
        labels: To keep precision and recall at the thresholds by name.
        goal: What to reach; best F1 by default.
    """
    goal = goal or Goal()
    known = states != UNKNOWN
    overall = best_threshold(scores[known].astype(np.float64), states[known] == POSITIVE, goal)
    positives = ((states == POSITIVE) & known).sum(axis=0)
    thresholds = []
    for c, count in enumerate(positives):
        here = known[:, c]
        column, positive = scores[here, c].astype(np.float64), states[here, c] == POSITIVE
        own = best_threshold(column, positive, goal)
        threshold = float((count * own + SHRINKAGE * overall) / (count + SHRINKAGE))
        if goal.kind == "precision":
            threshold = max(threshold, own)
        elif goal.kind == "recall" and count:
            threshold = min(threshold, own)
        thresholds.append(threshold)
    return Calibration(
        thresholds=tuple(thresholds),
        global_threshold=overall,
        known_positives=tuple(int(count) for count in positives),
        method=f"{goal} on known labels, shrunk to the global one by {SHRINKAGE:g}",
        evidence=evidence_at(scores, states, labels, thresholds),
    )


def evidence_at(
    scores: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    labels: tuple[str, ...],
    thresholds: Sequence[float],
) -> dict[str, dict[str, Any]]:
    """Return precision and recall at thresholds by label, with intervals, and the known labels."""
    evidence = {}
    for c, label in enumerate(labels):
        known, positive = states[:, c] != UNKNOWN, states[:, c] == POSITIVE
        found = known & (scores[:, c].astype(np.float64) >= thresholds[c])
        hits = int((found & positive).sum())
        evidence[label] = {
            "precision": _plain(proportion(hits, int(found.sum()))),
            "recall": _plain(proportion(hits, int(positive.sum()))),
            "known_labels": int(known.sum()),
        }
    return evidence


def proportion(hits: int, found: int) -> Proportion:
    """Return hits / found with its 95 % interval by Wilson's formula."""
    if found == 0:
        return Proportion(float("nan"), float("nan"), float("nan"))
    value, z2 = hits / found, CONFIDENCE**2
    middle = (value + z2 / (2 * found)) / (1 + z2 / found)
    half = (
        CONFIDENCE * np.sqrt(value * (1 - value) / found + z2 / (4 * found**2)) / (1 + z2 / found)
    )
    return Proportion(value, float(max(middle - half, 0.0)), float(min(middle + half, 1.0)))


def _plain(value: Proportion) -> list[float] | None:
    return None if np.isnan(value.value) else [round(part, 4) for part in value]
