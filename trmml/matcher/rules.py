"""Rules between labels, applied to a prediction: `puppy implies dog`, `day excludes night`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trmml.data.checks import Rule
from trmml.matcher.prediction import Prediction


def with_rules(prediction: Prediction, rules: Sequence[Rule]) -> Prediction:
    """Return a prediction whose scores and tags keep rules.

    What is implied has at least the score of what implies it, and is a tag where that is one, by a lower
    threshold in this photo. Of two labels that exclude each other the one with the lower score has at
    most 1 − the score of the other, and is no tag where the other is one. Implications come first, and
    as long as they change something.

    Args:
        prediction: Of one photo; one that could not be read stays as it is.
        rules: Whose labels it has.
    """
    if prediction.error is not None or not rules:
        return prediction
    scores, limits = prediction.scores.copy(), prediction.thresholds.copy()
    place = {label: i for i, label in enumerate(prediction.labels)}
    implications = [(place[r.first], place[r.second]) for r in rules if r.kind == "implies"]
    for _ in prediction.labels:  # no chain is longer than this
        before = scores.copy(), limits.copy()
        for first, second in implications:
            is_tag = scores[first] >= limits[first]
            scores[second] = max(scores[second], scores[first])
            if is_tag:
                limits[second] = min(limits[second], scores[second])
        if np.array_equal(before, (scores, limits)):
            break
    for rule in rules:
        if rule.kind == "excludes":
            high, low = sorted((place[rule.first], place[rule.second]), key=lambda i: -scores[i])
            is_tag = scores[high] >= limits[high]
            scores[low] = min(scores[low], 1 - scores[high])
            if is_tag and scores[low] >= limits[low]:
                limits[low] = np.nextafter(scores[low], np.float32(2))
    return replace(prediction, scores=scores, thresholds=limits)
