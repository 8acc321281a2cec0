from itertools import pairwise

import numpy as np
import pytest

from trmml.errors import DataError
from trmml.labels import (
    LABEL_ENCODINGS,
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    encoding_named,
    hide_labels,
    keep_single_positive,
    known_mask,
)

IMAGES, CATEGORIES = 101, 7


@pytest.fixture
def states() -> np.ndarray:
    states = np.random.default_rng(3).choice([POSITIVE, NEGATIVE], size=(IMAGES, CATEGORIES))
    return states.astype(np.int8)


CELLS = {
    "1/0/blank": {"1": POSITIVE, "0": NEGATIVE},
    "1/-1/0": {"1": POSITIVE, "-1": NEGATIVE, "0": UNKNOWN},
    "1/0/-1": {"1": POSITIVE, "0": NEGATIVE, "-1": UNKNOWN},
    "chexpert": {"1": POSITIVE, "0": NEGATIVE, "-1": UNKNOWN},
}


@pytest.mark.parametrize("name", LABEL_ENCODINGS)
def test_an_encoding_reads_numbers_their_decimals_plain_words_blanks_and_nothing_else(
    name: str,
) -> None:
    expected = dict(CELLS[name])
    expected |= {f"{cell}.0": state for cell, state in CELLS[name].items()}
    expected |= {"true": POSITIVE, "yes": POSITIVE, "false": NEGATIVE, "no": NEGATIVE}
    expected |= dict.fromkeys(["", "nan", "none", "null", "<na>"], UNKNOWN)
    expected |= dict.fromkeys(["?", "unknown", "n/a", "na", "#n/a", "-", "–"], UNKNOWN)
    assert dict(encoding_named(name)) == expected


def test_an_unknown_encoding_is_answered_with_the_choices() -> None:
    with pytest.raises(
        DataError, match=r"encoding '0/1'\. Choose one of 1/0/blank, 1/-1/0, 1/0/-1"
    ):
        encoding_named("0/1")


def test_only_positive_and_negative_labels_are_known() -> None:
    states = np.array([[POSITIVE, NEGATIVE, UNKNOWN]], dtype=np.int8)
    assert known_mask(states).tolist() == [[True, True, False]]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 13])
def test_the_masks_are_those_of_the_partial_label_literature(
    states: np.ndarray, fraction: float, seed: int
) -> None:
    np.random.seed(seed)
    keep = np.random.uniform(0, 1, size=(IMAGES, CATEGORIES)) < fraction
    hidden = hide_labels(states, fraction, seed)
    assert hidden.dtype == np.int8
    np.testing.assert_array_equal(hidden, np.where(keep, states, UNKNOWN))


def test_a_label_known_at_a_fraction_is_known_at_every_larger_one(states: np.ndarray) -> None:
    known = [known_mask(hide_labels(states, fraction / 10, seed=0)) for fraction in range(11)]
    assert all((less <= more).all() for less, more in pairwise(known))
    assert not known[0].any()
    assert known[10].all()


def test_hiding_leaves_the_array_and_the_global_generator_alone(states: np.ndarray) -> None:
    np.random.seed(5)
    expected = np.random.random_sample(3)
    np.random.seed(5)
    before = states.copy()
    hide_labels(states, 0.5, seed=0)
    keep_single_positive(states, seed=0)
    np.testing.assert_array_equal(np.random.random_sample(3), expected)
    np.testing.assert_array_equal(states, before)


def test_unknown_labels_stay_unknown_when_others_are_hidden() -> None:
    states = np.full((5, 3), UNKNOWN, dtype=np.int8)
    assert not known_mask(hide_labels(states, 1.0, seed=0)).any()


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan")])
def test_a_fraction_outside_zero_to_one_is_refused(states: np.ndarray, fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got"):
        hide_labels(states, fraction, seed=0)


def test_a_single_positive_is_one_of_the_positives_and_all_that_is_known(
    states: np.ndarray,
) -> None:
    states[::5, 2] = UNKNOWN
    states[4] = NEGATIVE
    kept = keep_single_positive(states, seed=0)
    num_known = known_mask(kept).sum(axis=1)
    np.testing.assert_array_equal(num_known, (states == POSITIVE).any(axis=1))
    assert num_known[4] == 0
    assert (states[known_mask(kept)] == POSITIVE).all()
    assert (kept[known_mask(kept)] == POSITIVE).all()


def test_the_single_positive_is_drawn_evenly() -> None:
    row = [POSITIVE, NEGATIVE, POSITIVE, UNKNOWN, POSITIVE]
    states = np.array([row] * 3001, dtype=np.int8)
    counts = (keep_single_positive(states, seed=0) == POSITIVE).sum(axis=0)
    assert counts[[1, 3]].tolist() == [0, 0]
    # Five standard deviations of a fair draw among three.
    np.testing.assert_allclose(counts[[0, 2, 4]], 3001 / 3, atol=130)


def test_the_single_positive_depends_on_the_seed_alone(states: np.ndarray) -> None:
    first = keep_single_positive(states, seed=11)
    np.testing.assert_array_equal(first, keep_single_positive(states, seed=11))
    assert (first != keep_single_positive(states, seed=12)).any()
