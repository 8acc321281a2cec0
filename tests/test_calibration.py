import numpy as np
import pytest

from trmml.calibration import SHRINKAGE, Calibration, best_f1_threshold, calibrate
from trmml.errors import ArtifactError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

NAMES = ("cat", "dog")


def f1_at(scores: np.ndarray, positive: np.ndarray, threshold: float) -> float:
    chosen = scores >= threshold
    return 2 * (chosen & positive).sum() / (chosen.sum() + positive.sum())


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1_than_the_best_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.random(41).round(1)
    positive = generator.random(41) < scores
    best = best_f1_threshold(scores, positive)
    every = [f1_at(scores, positive, threshold) for threshold in np.linspace(0, 1, 1001)]
    assert f1_at(scores, positive, best) == pytest.approx(max(every))


def test_a_threshold_without_positives_is_a_half() -> None:
    assert best_f1_threshold(np.array([0.9, 0.1]), np.array([False, False])) == 0.5


def test_few_positives_draw_the_threshold_to_the_global_one() -> None:
    # The second category scores lower on the whole; it has three known positives, the first 300.
    scores = np.concatenate([np.tile([0.9, 0.5], 300), [0.3] * 3 + [0.1] * 3])
    column = np.zeros((len(scores), 2), dtype=np.float32)
    column[:, 0] = column[:, 1] = scores
    labels = np.full((len(scores), 2), UNKNOWN, dtype=np.int8)
    labels[:600, 0] = np.tile([POSITIVE, NEGATIVE], 300)
    labels[600:, 1] = [POSITIVE] * 3 + [NEGATIVE] * 3
    made = calibrate(column, labels)
    assert made.known_positives == (300, 3)
    own = 0.2
    expected = (3 * own + SHRINKAGE * made.global_threshold) / (3 + SHRINKAGE)
    assert made.thresholds[1] == pytest.approx(expected)
    assert made.thresholds[0] == pytest.approx(0.7, abs=0.02)


def test_unknown_labels_do_not_move_a_threshold() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random((29, 2)).astype(np.float32)
    labels = generator.choice([POSITIVE, NEGATIVE], (29, 2)).astype(np.int8)
    more = np.vstack([scores, generator.random((13, 2)).astype(np.float32)])
    unknown = np.vstack([labels, np.full((13, 2), UNKNOWN, dtype=np.int8)])
    assert calibrate(scores, labels) == calibrate(more, unknown)


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
