import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from trmml.evaluation.metrics import (
    average_precision,
    average_precisions,
    f1,
    mean_average_precision,
    top_k_mask,
)
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

IMAGES, CATEGORIES = 53, 7


def random_case(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.random((IMAGES, CATEGORIES))
    if ties:
        scores = scores.round(1)
    states = generator.choice(
        [POSITIVE, NEGATIVE, UNKNOWN], (IMAGES, CATEGORIES), p=[0.3, 0.4, 0.3]
    )
    return scores, states.astype(np.int8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_scikit_learn_on_the_known_labels(
    seed: int, ties: bool
) -> None:
    scores, states = random_case(seed, ties)
    for column, value in enumerate(average_precisions(scores, states)):
        known = states[:, column] != UNKNOWN
        expected = average_precision_score(states[known, column] == POSITIVE, scores[known, column])
        assert value == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    states = np.array([1, 0, 1, 0], dtype=np.int8)
    # Precision 1/1 at the first positive, 2/3 at the second.
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), states) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    # All tied: one threshold, precision 2/4.
    assert average_precision(np.full(4, 0.5), states) == pytest.approx(0.5)


def test_average_precision_does_not_depend_on_the_order_of_tied_photos() -> None:
    scores, states = random_case(11, ties=True)
    order = np.random.default_rng(0).permutation(IMAGES)
    np.testing.assert_array_equal(
        average_precisions(scores, states), average_precisions(scores[order], states[order])
    )


def test_interpolated_average_precision_takes_the_best_later_precision() -> None:
    states = np.array([0, 1, 1, 0], dtype=np.int8)
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    # Precisions 1/2 and 2/3 at the positives; the envelope lifts the first to 2/3.
    assert average_precision(scores, states) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision(scores, states, interpolated=True) == pytest.approx(2 / 3)


@pytest.mark.parametrize("only", [POSITIVE, NEGATIVE, UNKNOWN])
def test_a_category_without_both_states_is_left_out_of_the_mean(only: int) -> None:
    scores, states = random_case(3, ties=False)
    rest = mean_average_precision(scores[:, 1:], states[:, 1:])
    states[:, 0] = only
    assert np.isnan(average_precisions(scores, states)[0])
    assert mean_average_precision(scores, states) == rest


def test_nothing_known_has_no_mean() -> None:
    states = np.full((3, 2), UNKNOWN, dtype=np.int8)
    assert np.isnan(mean_average_precision(np.zeros((3, 2)), states))


def test_f1_is_that_of_scikit_learn_when_everything_is_known() -> None:
    generator = np.random.default_rng(1)
    states = generator.integers(0, 2, (IMAGES, CATEGORIES)).astype(np.int8)
    predicted = generator.random((IMAGES, CATEGORIES)) < 0.4
    result = f1(predicted, states)
    assert result.overall_f1 == pytest.approx(f1_score(states, predicted, average="micro"))
    precision = precision_score(states, predicted, average="macro")
    recall = recall_score(states, predicted, average="macro")
    assert result.label_precision == pytest.approx(precision)
    assert result.label_recall == pytest.approx(recall)
    assert result.label_f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_f1_ignores_predictions_on_unknown_labels() -> None:
    states = np.array([[1, -1], [0, -1], [1, 1]], dtype=np.int8)
    predicted = np.array([[True, True], [False, True], [False, True]])
    result = f1(predicted, states)
    assert result.overall_precision == 1.0
    assert result.overall_recall == pytest.approx(2 / 3)


def test_f1_of_nothing_is_zero() -> None:
    states = np.zeros((2, 3), dtype=np.int8)
    assert f1(np.zeros((2, 3), dtype=bool), states) == (0, 0, 0, 0, 0, 0)


def test_top_k_marks_the_best_and_prefers_the_earlier_of_equals() -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.4, 0.4, 0.4]])
    np.testing.assert_array_equal(top_k_mask(scores, 2), [[False, True, True], [True, True, False]])
