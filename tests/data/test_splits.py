from pathlib import Path

import numpy as np
import pytest

from trmml.data.dataset import MultiLabelDataset
from trmml.data.splits import split_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

PHOTOS, CATEGORIES = 211, 5


def make(states: np.ndarray) -> MultiLabelDataset:
    photos = tuple(Path(f"{i:04}.png") for i in range(len(states)))
    names = tuple(f"c{i}" for i in range(states.shape[1]))
    return MultiLabelDataset(photos, states.astype(np.int8), names, source="t.csv")


@pytest.fixture
def dataset() -> MultiLabelDataset:
    generator = np.random.default_rng(1)
    shape = (PHOTOS, CATEGORIES)
    return make(generator.choice([POSITIVE, NEGATIVE, UNKNOWN], size=shape, p=[0.2, 0.3, 0.5]))


def test_every_photo_is_on_one_side_with_its_labels_and_in_order(
    dataset: MultiLabelDataset,
) -> None:
    train, held_out = split_dataset(dataset, 0.2, seed=0)
    assert sorted(train.photos + held_out.photos) == list(dataset.photos)
    for side in (train, held_out):
        assert list(side.photos) == sorted(side.photos)
        positions = [int(photo.stem) for photo in side.photos]
        np.testing.assert_array_equal(side.states, dataset.states[positions])


def test_a_split_depends_on_the_seed_alone(dataset: MultiLabelDataset) -> None:
    np.random.seed(1)
    first = split_dataset(dataset, 0.2, seed=7)
    np.random.seed(2)
    expected = np.random.random_sample()
    np.random.seed(2)
    again = split_dataset(dataset, 0.2, seed=7)
    assert np.random.random_sample() == expected
    assert first[1].photos == again[1].photos
    assert first[1].photos != split_dataset(dataset, 0.2, seed=8)[1].photos


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_photos_and_known_labels_are_shared_out_by_the_fraction(
    dataset: MultiLabelDataset, fraction: float
) -> None:
    _, held_out = split_dataset(dataset, fraction, seed=0)
    assert len(held_out) == pytest.approx(fraction * PHOTOS, abs=2)
    for state in (POSITIVE, NEGATIVE):
        expected = fraction * (dataset.states == state).sum(axis=0)
        np.testing.assert_allclose((held_out.states == state).sum(axis=0), expected, atol=2)


def test_the_only_positives_of_a_category_stay_in_training() -> None:
    states = np.full((23, 7), NEGATIVE)
    states[np.arange(7) * 3, np.arange(7)] = POSITIVE
    for seed in range(11):
        train, held_out = split_dataset(make(states), 0.4, seed=seed)
        assert (train.states == POSITIVE).sum(axis=0).tolist() == [1] * 7
        assert not (held_out.states == POSITIVE).any()
        assert len(held_out) > 0


def test_hidden_labels_are_split_with_the_photos(dataset: MultiLabelDataset) -> None:
    _, held_out = split_dataset(dataset.hide_labels(0.5), 0.2, seed=0)
    positions = [int(photo.stem) for photo in held_out.photos]
    np.testing.assert_array_equal(held_out.hidden_states, dataset.states[positions])


def test_photos_without_any_known_label_can_be_split() -> None:
    train, held_out = split_dataset(make(np.full((10, 3), UNKNOWN)), 0.3, seed=0)
    assert (len(train), len(held_out)) == (7, 3)


@pytest.mark.parametrize(("num_photos", "fraction"), [(1, 0.5), (4, 0.1), (2, 0.9), (0, 0.5)])
def test_too_few_photos_are_refused(num_photos: int, fraction: float) -> None:
    message = rf"t\.csv has {num_photos} photos, too few to hold out {100 * fraction:g} %"
    with pytest.raises(DataError, match=message):
        split_dataset(make(np.full((num_photos, 3), POSITIVE)), fraction, seed=0)


def test_two_photos_are_enough() -> None:
    train, held_out = split_dataset(make(np.full((2, 3), POSITIVE)), 0.6, seed=0)
    assert (len(train), len(held_out)) == (1, 1)


def test_photos_that_all_hold_an_only_positive_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match=r"t\.csv has too few labelled photos to hold any out"):
        split_dataset(make(np.where(np.eye(3), POSITIVE, NEGATIVE)), 0.4, seed=0)
