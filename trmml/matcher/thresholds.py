"""The thresholds of a model: from which score on a label counts as present.

How they are chosen is the matter of `trmml.evaluation.calibration`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trmml.data.checks import Rule, parsed_rule
from trmml.errors import ArtifactError, DataError

UNCALIBRATED = 0.5
NEVER = 1.0
"""Threshold of a label for which no score reaches the wanted precision."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds per label and how they were made; stored as `calibration.json`.

    Attributes:
        thresholds: Score per label above which it counts as present, in [0, 1].
        global_threshold: The one towards which they were drawn.
        known_positives: Known positives per label that they were chosen on.
        method: How they were made, in words.
        evidence: Precision and recall at the thresholds on the photos that chose them, by label,
            with intervals; for people, not read by the model.
        rules: What holds between labels, for predictions that are to keep them.
    """

    thresholds: tuple[float, ...]
    global_threshold: float = UNCALIBRATED
    known_positives: tuple[int, ...] = ()
    method: str = "none: 0.5 for every label"
    evidence: dict[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    @classmethod
    def uncalibrated(cls, num_labels: int) -> "Calibration":
        """Return 0.5 for every label."""
        return cls(thresholds=(UNCALIBRATED,) * num_labels)

    def relabelled(self, labels: Sequence[str], new_labels: Sequence[str]) -> "Calibration":
        """Return thresholds for other labels: those that stay keep theirs, new ones get the global one.

        Args:
            labels: Those of this calibration, in its order.
            new_labels: Those wanted.
        """
        counts = self.known_positives or (0,) * len(labels)
        known = dict(zip(labels, zip(self.thresholds, counts, strict=True), strict=True))
        rows = [known.get(label, (self.global_threshold, 0)) for label in new_labels]
        thresholds, known_positives = zip(*rows, strict=True)
        rules = tuple(rule for rule in self.rules if {rule.first, rule.second} <= set(new_labels))
        return replace(self, thresholds=thresholds, known_positives=known_positives, rules=rules)

    def updated(
        self, labels: tuple[str, ...], names: tuple[str, ...], made: "Calibration"
    ) -> "Calibration":
        """Return a calibration with new thresholds for some labels; the others keep theirs.

        Args:
            labels: All of the model.
            names: Those that `made` is for, in its order.
            made: The new one.
        """
        new = dict(zip(names, zip(made.thresholds, made.known_positives, strict=True), strict=True))
        counts = self.known_positives or (0,) * len(labels)
        old = dict(zip(labels, zip(self.thresholds, counts, strict=True), strict=True))
        thresholds, known_positives = zip(
            *(new.get(name, old[name]) for name in labels), strict=True
        )
        kept, method = len(labels) - len(names), made.method
        if kept:  # of what was before, the last step alone: a sentence must not grow without end
            before = self.method.partition("; ")[0]
            method += f"; {kept} of {len(labels)} labels before that: {before}"
        return replace(
            made,
            thresholds=thresholds,
            known_positives=known_positives,
            method=method,
            evidence=self.evidence | made.evidence if kept else made.evidence,
            rules=self.rules,
        )

    def to_dict(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return plain values for JSON, thresholds by label name."""
        counts = self.known_positives or (0,) * len(labels)
        return {
            "method": self.method,
            "global_threshold": self.global_threshold,
            "thresholds": dict(zip(labels, self.thresholds, strict=True)),
            "known_positives": dict(zip(labels, counts, strict=True)),
            "evidence": self.evidence,
            **({"rules": list(map(str, self.rules))} if self.rules else {}),
        }

    @classmethod
    def from_dict(cls, values: Any, labels: tuple[str, ...], where: str) -> "Calibration":
        """Read plain values.

        Raises:
            ArtifactError: If a threshold is missing, unknown or no number in [0, 1].
        """
        try:
            thresholds = values["thresholds"]
            if set(thresholds) != set(labels):
                raise ArtifactError(f"{where}: thresholds must name the model's labels exactly.")
            numbers = [*thresholds.values(), values["global_threshold"]]
            if not all(isinstance(n, float | int) and 0 <= n <= 1 for n in numbers):
                raise ArtifactError(f"{where}: thresholds must be numbers in [0, 1].")
            return cls(
                thresholds=tuple(float(thresholds[name]) for name in labels),
                global_threshold=float(values["global_threshold"]),
                known_positives=tuple(int(values["known_positives"][n]) for n in labels),
                method=str(values["method"]),
                evidence=dict(values.get("evidence") or {}),
                rules=tuple(parsed_rule(text, labels) for text in values.get("rules", ())),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, ArtifactError):
                raise
            if isinstance(error, DataError):  # of a rule
                raise ArtifactError(f"{where}: {error}") from error
            raise ArtifactError(f"{where} is not a calibration: {error!r}.") from error
