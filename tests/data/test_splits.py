import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

from trmml.data.dataset import MultiLabelDataset
from trmml.data.splits import split_dataset, stratified_holdout
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

PHOTOS, LABELS = 211, 5


def make(states: np.ndarray) -> MultiLabelDataset:
    photos = tuple(Path(f"{i:04}.png") for i in range(len(states)))
    names = tuple(f"c{i}" for i in range(states.shape[1]))
    return MultiLabelDataset(photos, states.astype(np.int8), names, source="t.csv")


@pytest.fixture
def dataset() -> MultiLabelDataset:
    generator = np.random.default_rng(1)
    shape = (PHOTOS, LABELS)
    return make(generator.choice([POSITIVE, NEGATIVE, UNKNOWN], size=shape, p=[0.2, 0.3, 0.5]))


def random_statements(num_photos: int, num_labels: int, known: float, seed: int) -> np.ndarray:
    """Known positives and known negatives of labels from rare to common that come together."""
    generator = np.random.default_rng(seed)
    shape = (num_photos, num_labels)
    how_common = generator.beta(0.6, 6, num_labels) * (0.5 + generator.random((num_photos, 1)))
    positive = generator.random(shape) < how_common
    is_known = generator.random(shape) < known
    return np.hstack([positive & is_known, ~positive & is_known])


def mean_deviation(stated: np.ndarray, held_out: np.ndarray, fraction: float) -> float:
    """Mean distance of the share of each statement that is held out from the wanted one."""
    counts = stated.sum(axis=0)
    shares = stated[held_out].sum(axis=0)[counts > 0] / counts[counts > 0]
    return float(np.abs(shares - fraction).mean())


def held_out_by_iterstrat(stated: np.ndarray, num_held_out: int, seed: int) -> np.ndarray:
    splitter = MultilabelStratifiedShuffleSplit(
        n_splits=1, test_size=num_held_out, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, chosen = next(splitter.split(np.zeros(len(stated)), stated.astype(np.int8)))
    held_out = np.zeros(len(stated), dtype=bool)
    held_out[chosen] = True
    return held_out


TABLES = [
    (97, 5, 0.5),
    (211, 5, 1.0),
    (307, 19, 0.1),
    (499, 19, 0.5),
    (997, 79, 1.0),
    (499, 97, 0.03),
]


@pytest.mark.parametrize(("num_photos", "num_labels", "known"), TABLES)
@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_statements_are_spread_as_evenly_as_by_iterstrat(
    num_photos: int, num_labels: int, known: float, fraction: float
) -> None:
    num_held_out = round(fraction * num_photos)
    ours, theirs, by_chance = [], [], []
    for seed in range(5):
        stated = random_statements(num_photos, num_labels, known, seed)
        held_out = stratified_holdout(stated, num_held_out, seed)
        assert held_out.sum() == num_held_out
        ours.append(mean_deviation(stated, held_out, fraction))
        other = held_out_by_iterstrat(stated, num_held_out, seed)
        theirs.append(mean_deviation(stated, other, fraction))
        chance = np.random.default_rng(seed).permutation(num_photos) < num_held_out
        by_chance.append(mean_deviation(stated, chance, fraction))
    # Theirs may hold out more or fewer photos than were asked for, which can spread them better.
    assert np.mean(ours) < 1.06 * np.mean(theirs)
    assert np.mean(ours) < 0.9 * np.mean(by_chance)


def test_where_iterstrat_holds_out_the_wanted_number_the_split_is_as_good() -> None:
    compared = 0
    for seed in range(20):
        stated = random_statements(211, 5, known=1.0, seed=seed)
        theirs = held_out_by_iterstrat(stated, 42, seed)
        if theirs.sum() == 42:
            compared += 1
            ours = mean_deviation(stated, stratified_holdout(stated, 42, seed), 0.2)
            assert ours <= mean_deviation(stated, theirs, 0.2) + 0.01
    assert compared >= 10


@pytest.mark.parametrize("num_held_out", [0, 1, 40, 170, 210, 211])
def test_exactly_so_many_photos_are_held_out(num_held_out: int) -> None:
    stated = random_statements(PHOTOS, LABELS, known=0.3, seed=2)
    for seed in range(5):
        assert stratified_holdout(stated, num_held_out, seed).sum() == num_held_out


def test_a_statement_of_one_photo_in_four_is_spread_by_hand() -> None:
    # Two labels of four photos each, half of the photos: two of each, whatever the seed.
    stated = np.zeros((8, 2), dtype=bool)
    stated[:4, 0] = stated[4:, 1] = True
    for seed in range(11):
        held_out = stratified_holdout(stated, 4, seed)
        assert stated[held_out].sum(axis=0).tolist() == [2, 2]


@pytest.mark.parametrize(("num_photos", "num_labels"), [(22_500, 18), (5_000, 500)])
def test_large_tables_take_seconds(num_photos: int, num_labels: int) -> None:
    stated = random_statements(num_photos, num_labels, known=0.5, seed=0)
    started = time.process_time()  # of this process: other work on the machine does not count
    held_out = stratified_holdout(stated, num_photos // 10, seed=0)
    assert time.process_time() - started < 5
    assert mean_deviation(stated, held_out, 0.1) < 0.02


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


def test_the_only_positives_of_a_label_stay_in_training() -> None:
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
