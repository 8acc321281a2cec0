from dataclasses import replace

import numpy as np
import pytest

from trmml.errors import ArtifactError, ConfigError
from trmml.evaluation.calibration import SHRINKAGE, Goal, best_threshold, calibrate, proportion
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.thresholds import NEVER, Calibration

NAMES = ("cat", "dog")


def f1_at(scores: np.ndarray, positive: np.ndarray, threshold: float) -> float:
    chosen = scores >= threshold
    return 2 * (chosen & positive).sum() / (chosen.sum() + positive.sum())


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1_than_the_best_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.random(41).round(1)
    positive = generator.random(41) < scores
    best = best_threshold(scores, positive, Goal())
    every = [f1_at(scores, positive, threshold) for threshold in np.linspace(0, 1, 1001)]
    assert f1_at(scores, positive, best) == pytest.approx(max(every))


def test_a_threshold_without_positives_is_a_half() -> None:
    assert best_threshold(np.array([0.9, 0.1]), np.array([False, False]), Goal()) == 0.5


def test_few_positives_draw_the_threshold_to_the_global_one() -> None:
    # The second label scores lower on the whole; it has three known positives, the first 300.
    scores = np.concatenate([np.tile([0.9, 0.5], 300), [0.3] * 3 + [0.1] * 3])
    column = np.zeros((len(scores), 2), dtype=np.float32)
    column[:, 0] = column[:, 1] = scores
    states = np.full((len(scores), 2), UNKNOWN, dtype=np.int8)
    states[:600, 0] = np.tile([POSITIVE, NEGATIVE], 300)
    states[600:, 1] = [POSITIVE] * 3 + [NEGATIVE] * 3
    made = calibrate(column, states)
    assert made.known_positives == (300, 3)
    own = 0.2
    expected = (3 * own + SHRINKAGE * made.global_threshold) / (3 + SHRINKAGE)
    assert made.thresholds[1] == pytest.approx(expected)
    assert made.thresholds[0] == pytest.approx(0.7, abs=0.02)


def test_unknown_labels_do_not_move_a_threshold() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random((29, 2)).astype(np.float32)
    states = generator.choice([POSITIVE, NEGATIVE], (29, 2)).astype(np.int8)
    more = np.vstack([scores, generator.random((13, 2)).astype(np.float32)])
    unknown = np.vstack([states, np.full((13, 2), UNKNOWN, dtype=np.int8)])
    assert calibrate(scores, states) == calibrate(more, unknown)


def test_categories_that_are_not_calibrated_anew_keep_what_they_had() -> None:
    before = Calibration(
        thresholds=(0.1, 0.2, 0.3),
        global_threshold=0.2,
        known_positives=(1, 2, 3),
        method="by hand",
        evidence={"cat": 1, "dog": 2, "cow": 3},
    )
    made = Calibration(
        thresholds=(0.9, 0.8),
        global_threshold=0.7,
        known_positives=(30, 10),
        method="anew",
        evidence={"cow": 30, "cat": 10},
    )
    after = before.updated(("cat", "dog", "cow"), ("cow", "cat"), made)
    assert after.thresholds == (0.8, 0.2, 0.9)
    assert after.known_positives == (10, 2, 30)
    assert after.evidence == {"cat": 10, "dog": 2, "cow": 30}
    assert after.method == "anew; 1 of 3 labels before that: by hand"
    again = after.updated(("cat", "dog", "cow"), ("cow", "cat"), made)
    assert again.method == "anew; 1 of 3 labels before that: anew"
    turned = before.updated(
        ("cat", "cow", "dog"),
        ("dog", "cow", "cat"),
        replace(made, thresholds=(0.3, 0.2, 0.1), known_positives=(3, 2, 1)),
    )
    assert (turned.thresholds, turned.known_positives) == ((0.1, 0.2, 0.3), (1, 2, 3))
    assert turned.method == "anew"


def test_calibration_comes_back_from_plain_values() -> None:
    made = Calibration(
        thresholds=(0.25, 0.75), global_threshold=0.5, known_positives=(3, 5), method="by hand"
    )
    assert Calibration.from_dict(made.to_dict(NAMES), NAMES, "here") == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": {"cat": 0.5}}, "must name the model's labels exactly"),
        ({"thresholds": {"cat": 0.5, "dog": 1.5}}, r"numbers in \[0, 1\]"),
        ({"thresholds": {"cat": 0.5, "dog": "high"}}, r"numbers in \[0, 1\]"),
        ({"thresholds": [0.5, 0.5]}, "here"),
        ({"global_threshold": None}, r"numbers in \[0, 1\]"),
        ({"known_positives": {}}, "is not a calibration"),
    ],
)
def test_a_wrong_calibration_is_refused(change: dict, message: str) -> None:
    values = Calibration.uncalibrated(2).to_dict(NAMES) | change
    with pytest.raises(ArtifactError, match=message):
        Calibration.from_dict(values, NAMES, "here")


def precision_at(scores: np.ndarray, positive: np.ndarray, threshold: float) -> float:
    chosen = scores >= threshold
    return (chosen & positive).sum() / max(chosen.sum(), 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [0.6, 0.8])
def test_a_wanted_precision_is_reached_by_the_lowest_threshold(seed: int, target: float) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.random(400)
    positive = generator.random(400) < scores
    best = best_threshold(scores, positive, Goal(kind="precision", target=target))
    assert precision_at(scores, positive, best) >= target
    lower = [t for t in np.unique(scores) if t < best]
    counted = [(scores >= t).sum() for t in lower]
    smoothed = [
        precision_at(scores, positive, t) * n / (n + 1) for t, n in zip(lower, counted, strict=True)
    ]
    assert max(smoothed, default=0) < target


def test_a_precision_out_of_reach_finds_nothing() -> None:
    scores, positive = np.array([0.9, 0.8, 0.7]), np.array([True, False, False])
    # One hit of one looks perfect and says little.
    assert best_threshold(scores, positive, Goal(kind="precision", target=0.6)) == NEVER


@pytest.mark.parametrize("target", [0.5, 0.9])
def test_a_wanted_recall_is_reached_by_the_highest_threshold(target: float) -> None:
    generator = np.random.default_rng(0)
    scores = generator.random(300)
    positive = generator.random(300) < scores
    best = best_threshold(scores, positive, Goal(kind="recall", target=target))
    recall = [((scores >= t) & positive).sum() / positive.sum() for t in (best, best + 0.02)]
    assert recall[0] >= target > recall[1]


@pytest.mark.parametrize(("false_positive", "false_negative"), [(1, 1), (5, 1), (1, 5), (100, 1)])
def test_no_threshold_costs_less(false_positive: float, false_negative: float) -> None:
    generator = np.random.default_rng(0)
    scores = generator.random(101).round(2)
    positive = generator.random(101) < scores

    def cost(threshold: float) -> float:
        chosen = scores >= threshold
        wrong, missed = (chosen & ~positive).sum(), (~chosen & positive).sum()
        return false_positive * wrong + false_negative * missed

    goal = Goal(kind="cost", false_positive_cost=false_positive, false_negative_cost=false_negative)
    best = best_threshold(scores, positive, goal)
    assert cost(best) == min(cost(threshold) for threshold in np.linspace(0, 1.01, 1011))


def test_an_interval_is_wilsons() -> None:
    # Worked by hand: 8 of 10 at 95 %.
    assert proportion(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert proportion(0, 5).low == 0
    assert np.isnan(proportion(0, 0).value)


def test_evidence_says_what_the_thresholds_reach() -> None:
    scores = np.array([[0.9], [0.8], [0.7], [0.1]], dtype=np.float32)
    states = np.array([[POSITIVE], [POSITIVE], [NEGATIVE], [UNKNOWN]], dtype=np.int8)
    made = calibrate(scores, states, ("cat",))
    assert made.thresholds == pytest.approx((0.75,))
    assert made.evidence["cat"]["precision"][0] == 1
    assert made.evidence["cat"]["recall"][0] == 1
    assert made.evidence["cat"]["known_labels"] == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [({"target": 1.0}, "above 0 and below 1"), ({"false_positive_cost": -1}, "zero or more")],
)
def test_a_goal_out_of_range_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Goal(**values)


def test_shrinkage_does_not_lower_a_wanted_recall() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random((400, 2)).astype(np.float32)
    states = np.where(generator.random((400, 2)) < scores, POSITIVE, NEGATIVE).astype(np.int8)
    scores[:, 1] *= 0.2  # a label with low scores, and few known positives
    states[60:, 1] = UNKNOWN
    made = calibrate(scores, states, goal=Goal(kind="recall", target=0.95))
    for c in range(2):
        positive = states[:, c] == POSITIVE
        assert (scores[positive, c] >= made.thresholds[c]).mean() >= 0.95
