"""Thresholds: from which score on a category counts as present.

One global threshold maximizes F1 over all known validation labels; each category then has its own,
drawn towards the global one where few positives are known (our choice), since a threshold tuned on a
handful of photos is mostly noise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int8

from trmml.errors import ArtifactError
from trmml.labels import POSITIVE, UNKNOWN

SHRINKAGE = 20.0
"""Known positives at which a category's own threshold and the global one weigh the same."""

UNCALIBRATED = 0.5


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds per category and how they were made; stored as `calibration.json`.

    Attributes:
        thresholds: Score per category above which it counts as present, in [0, 1].
        global_threshold: The one towards which they were drawn.
        known_positives: Known positives per category that they were chosen on.
        method: How they were made, in words.
    """

    thresholds: tuple[float, ...]
    global_threshold: float = UNCALIBRATED
    known_positives: tuple[int, ...] = ()
    method: str = "none: 0.5 for every category"

    @classmethod
    def uncalibrated(cls, num_categories: int) -> "Calibration":
        """Return 0.5 for every category."""
        return cls(thresholds=(UNCALIBRATED,) * num_categories)

    def to_dict(self, category_names: tuple[str, ...]) -> dict[str, Any]:
        """Return plain values for JSON, thresholds by category name."""
        counts = self.known_positives or (0,) * len(category_names)
        return {
            "method": self.method,
            "global_threshold": self.global_threshold,
            "thresholds": dict(zip(category_names, self.thresholds, strict=True)),
            "known_positives": dict(zip(category_names, counts, strict=True)),
        }

    @classmethod
    def from_dict(cls, values: Any, category_names: tuple[str, ...], where: str) -> "Calibration":
        """Read plain values.

        Raises:
            ArtifactError: If a threshold is missing, unknown or no number in [0, 1].
        """
        try:
            thresholds = values["thresholds"]
            if set(thresholds) != set(category_names):
                raise ArtifactError(f"{where}: thresholds must name the model's labels exactly.")
            numbers = [*thresholds.values(), values["global_threshold"]]
            if not all(isinstance(n, float | int) and 0 <= n <= 1 for n in numbers):
                raise ArtifactError(f"{where}: thresholds must be numbers in [0, 1].")
            return cls(
                thresholds=tuple(float(thresholds[name]) for name in category_names),
                global_threshold=float(values["global_threshold"]),
                known_positives=tuple(int(values["known_positives"][n]) for n in category_names),
                method=str(values["method"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{where} is not a calibration: {error!r}.") from error


def best_f1_threshold(scores: Float[np.ndarray, " label"], positive: np.ndarray) -> float:
    """Return the threshold with the highest F1, half-way to the next lower score.

    Args:
        scores: Scores in [0, 1].
        positive: Which of them belong to positive labels.

    Returns:
        A threshold in [0, 1]; 0.5 if there is no positive.
    """
    if not positive.any():
        return UNCALIBRATED
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    # A score is a threshold at its last position: tied ones stand or fall together.
    last = np.append(np.diff(scores) != 0, True)
    hits = np.cumsum(positive)
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + positive.sum())
    best = int(np.where(last, f1, -1).argmax())
    lower = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + lower) / 2)


def calibrate(
    scores: Float[np.ndarray, "image category"], labels: Int8[np.ndarray, "image category"]
) -> Calibration:
    """Choose thresholds for F1 on known labels, shrunk to the global one where positives are few.

    Threshold of category c: (n_c t_c + k t) / (n_c + k), with n_c its known positives, t_c and t its
    own and the global best, k = 20.
    """
    known = labels != UNKNOWN
    overall = best_f1_threshold(scores[known].astype(np.float64), labels[known] == POSITIVE)
    positives = ((labels == POSITIVE) & known).sum(axis=0)
    thresholds = []
    for c, count in enumerate(positives):
        here = known[:, c]
        own = best_f1_threshold(scores[here, c].astype(np.float64), labels[here, c] == POSITIVE)
        thresholds.append(float((count * own + SHRINKAGE * overall) / (count + SHRINKAGE)))
    return Calibration(
        thresholds=tuple(thresholds),
        global_threshold=overall,
        known_positives=tuple(int(count) for count in positives),
        method=f"best F1 on known validation labels, shrunk to the global one by {SHRINKAGE:g}",
    )
