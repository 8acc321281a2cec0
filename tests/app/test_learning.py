from pathlib import Path

import numpy as np
import pytest

from trmml.app.learning import (
    _for_few_answers,
    _gain_range,
    _measurable,
    _measured,
    _that_choose,
    validation_photos,
)
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN


def test_about_a_fifth_validates_whatever_other_photos_there_are() -> None:
    names = [f"{i}.jpg" for i in range(2000)]
    chosen = validation_photos(names)
    assert 0.17 < chosen.mean() < 0.23
    np.testing.assert_array_equal(validation_photos(names[500:700]), chosen[500:700])


def test_labels_of_which_little_is_known_do_not_flatter() -> None:
    column = np.array([1, 0, 1, 0, 0, 1])
    states = np.stack([column, np.ones(6), [1, 1, 0, 0, 0, 0]], axis=1).astype(np.int8)
    assert {POSITIVE, NEGATIVE, UNKNOWN} == {1, 0, -1}
    assert _measurable(states).tolist() == [True, False, False]
    scores = np.linspace(0.9, 0.1, 6)[:, None] * np.ones(3)
    # By rank: positives come first, third and sixth.
    assert _measured(scores, states) == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert np.isnan(_measured(scores[:, 1:], states[:, 1:]))


def test_a_handful_of_answers_does_not_choose_the_epoch() -> None:
    states = np.full((12, 4), UNKNOWN, dtype=np.int8)
    states[:5, :2], states[5:10, :2] = POSITIVE, NEGATIVE
    data = MultiLabelDataset(tuple(Path(f"{i}.jpg") for i in range(12)), states, tuple("abcd"))
    assert _that_choose(data) is data
    states[0, 0] = UNKNOWN  # four positives of one label: one of four labels is known well
    assert (_that_choose(data).states == UNKNOWN).all()


def test_few_answers_hold_to_what_was_thought_before() -> None:
    def known(count: int) -> np.ndarray:
        states = np.full((100, 2), UNKNOWN, dtype=np.int8)
        states[:count] = NEGATIVE
        return states

    assert _for_few_answers(known(80)) == {}
    # A weight of 0.1, (80 / 40)² times, and thirty times at most.
    found = _for_few_answers(known(40))
    assert found == {"pseudo_labels.enabled": False, "loss.distillation": pytest.approx(0.4)}
    for count in (14, 0):
        assert _for_few_answers(known(count))["loss.distillation"] == 3.0


def test_the_range_of_a_gain_is_wide_where_little_is_known() -> None:
    generator = np.random.default_rng(1)
    states = np.where(generator.random((400, 2)) < 0.3, POSITIVE, NEGATIVE).astype(np.int8)
    noise = generator.random((2, 400, 2))
    before, after = 0.3 * states + noise[0], 0.6 * states + noise[1]
    gain = _measured(after, states) - _measured(before, states)
    low, high = _gain_range(before, after, states)
    assert 0 < low < gain < high
    few = _gain_range(before[:20], after[:20], states[:20])
    assert few[1] - few[0] > 2 * (high - low)
    assert _gain_range(before, before, states) == (0, 0)
    nothing = np.full_like(states, UNKNOWN)
    assert np.isnan(_gain_range(before, after, nothing)).all()
