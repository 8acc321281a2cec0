import numpy as np
import pytest

from trmml.evaluation.reliability import reliability, reliability_diagram
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN


def test_the_expected_error_by_hand() -> None:
    scores = np.array([[0.91, 0.95], [0.05, 0.15], [0.95, 0.5]], dtype=np.float32)
    states = np.array(
        [[POSITIVE, NEGATIVE], [NEGATIVE, UNKNOWN], [POSITIVE, UNKNOWN]], dtype=np.int8
    )
    found = reliability(scores, states)
    low, high = found.bins
    assert (low.share_positive, low.num_labels) == (0, 1)
    assert (high.share_positive, high.num_labels) == (pytest.approx(2 / 3), 3)
    mean = (0.91 + 0.95 + 0.95) / 3
    assert found.expected_error == pytest.approx((0.05 + 3 * (mean - 2 / 3)) / 4, abs=1e-6)


def test_scores_that_are_probabilities_have_a_small_error() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random((20_000, 1)).astype(np.float32)
    states = np.where(generator.random((20_000, 1)) < scores, POSITIVE, NEGATIVE).astype(np.int8)
    assert reliability(scores, states).expected_error < 0.01
    assert reliability(scores**3, states).expected_error > 0.2


def test_the_diagram_has_a_bar_as_high_as_its_share() -> None:
    scores = np.full((100, 1), 0.95, dtype=np.float32)
    states = np.array([[POSITIVE]] * 50 + [[NEGATIVE]] * 50, dtype=np.int8)
    picture = np.asarray(reliability_diagram(reliability(scores, states), "half"))
    column = picture[60:500, 70 + round(0.93 * 440)]
    blue = (column == (0x35, 0x61, 0x8F)).all(axis=1)
    assert blue.mean() == pytest.approx(0.5, abs=0.03)
