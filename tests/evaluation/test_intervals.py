"""The paired bootstrap of mAP."""

import numpy as np
import pytest

from trmml.evaluation.intervals import difference, resampled_maps
from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import UNKNOWN

PHOTOS, LABELS = 120, 4


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that say something of their states, with ties, and unknown states."""
    generator = np.random.default_rng(seed)
    states = (generator.random((PHOTOS, LABELS)) < 0.2).astype(np.int8)
    scores = np.round(states + generator.normal(size=states.shape), 1)
    states[generator.random(states.shape) < 0.3] = UNKNOWN
    return scores, states


def test_a_draw_is_the_map_of_photos_that_are_there_several_times() -> None:
    scores, states = drawn(0)
    found = resampled_maps([scores], states, num_draws=20, seed=3)[0]
    assert found[0] == pytest.approx(mean_average_precision(scores, states))
    share = np.full(PHOTOS, 1 / PHOTOS)
    for value, counts in zip(
        found[1:], np.random.default_rng(3).multinomial(PHOTOS, share, 20), strict=True
    ):
        rows = np.repeat(np.arange(PHOTOS), counts)
        assert value == pytest.approx(mean_average_precision(scores[rows], states[rows]))


def test_a_label_without_positives_in_a_draw_is_left_out_there() -> None:
    scores, states = drawn(1)
    states[:, 0] = 0
    states[5, 0] = 1
    found = resampled_maps([scores], states, num_draws=50, seed=0)[0]
    without = np.random.default_rng(0).multinomial(PHOTOS, np.full(PHOTOS, 1 / PHOTOS), 50)[:, 5]
    others = resampled_maps([scores[:, 1:]], states[:, 1:], num_draws=50, seed=0)[0]
    assert (without == 0).any()
    np.testing.assert_allclose(found[1:][without == 0], others[1:][without == 0])


def test_models_that_err_alike_differ_less_than_their_maps_do() -> None:
    scores, states = drawn(2)
    better = scores + 0.3 * (states == 1)
    gain = difference(better, scores, states)
    maps = resampled_maps([better, scores], states)
    assert gain.mean == pytest.approx(
        mean_average_precision(better, states) - mean_average_precision(scores, states)
    )
    assert 0 < gain.low < gain.mean < gain.high
    assert gain.high - gain.low < np.ptp(np.quantile(maps[0], [0.025, 0.975]))
    assert difference(scores, scores, states) == (0, 0, 0)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    states = (generator.random((40_000, 1)) < 0.3).astype(np.int8)
    first, second = states + generator.normal(size=(2, *states.shape))
    true = mean_average_precision(first, states) - mean_average_precision(second, states)
    covered = 0
    for start in range(0, 40_000, 400):
        part = slice(start, start + 400)
        gain = difference(first[part], second[part], states[part], seed=start)
        covered += gain.low <= true <= gain.high
    assert 88 <= covered <= 99


def test_nothing_known_has_no_difference() -> None:
    scores, states = drawn(3)
    gain = difference(scores, scores, np.full_like(states, UNKNOWN))
    assert np.isnan(gain).all()
