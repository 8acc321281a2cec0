from pathlib import Path

import numpy as np
import pytest

from trmml.app.learning import _measurable, _measured, _that_choose, validation_photos
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN


def test_about_a_fifth_validates_whatever_other_photos_there_are() -> None:
    names = [f"{i}.jpg" for i in range(2000)]
    chosen = validation_photos(names)
    assert 0.17 < chosen.mean() < 0.23
    np.testing.assert_array_equal(validation_photos(names[500:700]), chosen[500:700])


def test_labels_without_a_known_negative_do_not_flatter() -> None:
    states = np.array([[1, 1, -1], [0, 1, 0], [1, -1, 0]], dtype=np.int8)
    assert {POSITIVE, NEGATIVE, UNKNOWN} == {1, 0, -1}
    assert _measurable(states).tolist() == [True, False, False]
    scores = np.array([[0.9, 0.1, 0.5], [0.5, 0.2, 0.5], [0.2, 0.3, 0.5]])
    # By rank: a positive first, then a negative, then a positive: (1 / 1 + 2 / 3) / 2.
    assert _measured(scores, states) == pytest.approx(5 / 6)
    assert np.isnan(_measured(scores[:, 1:], states[:, 1:]))


def test_a_handful_of_answers_does_not_choose_the_epoch() -> None:
    states = np.full((12, 4), UNKNOWN, dtype=np.int8)
    states[:5, :2], states[5:10, :2] = POSITIVE, NEGATIVE
    data = MultiLabelDataset(tuple(Path(f"{i}.jpg") for i in range(12)), states, tuple("abcd"))
    assert _that_choose(data) is data
    states[0, 0] = UNKNOWN  # four positives of one label: one of four labels is known well
    assert (_that_choose(data).states == UNKNOWN).all()
