"""Splitting off validation photos, with the known states of every label spread evenly; overlaps."""

import warnings

import numpy as np

from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE


def split_dataset(
    dataset: MultiLabelDataset, fraction: float, seed: int
) -> tuple[MultiLabelDataset, MultiLabelDataset]:
    """Split by photo, stratified on known positives and known negatives (Sechidis et al., 2011).

    A label's only known positives stay in training: what is never seen cannot be learned.

    Args:
        dataset: Photos with partly known labels.
        fraction: Share of the photos to hold out, in (0, 1).
        seed: Seed of the split.

    Returns:
        Training and validation photos, in the order of the data set.

    Raises:
        DataError: If there are too few photos to split.
    """
    num_held_out = round(fraction * len(dataset))
    if num_held_out < 1 or num_held_out >= len(dataset):
        raise DataError(
            f"{dataset.source} has {len(dataset)} photos, too few to hold out {100 * fraction:g} % "
            "for validation; give a validation table."
        )
    # Slow to import and needed here alone.
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    indicator = np.hstack([dataset.states == POSITIVE, dataset.states == NEGATIVE]).astype(np.int8)
    splitter = MultilabelStratifiedShuffleSplit(
        n_splits=1,
        test_size=num_held_out,  # pyright: ignore[reportArgumentType] (its stub says str)
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train, _ = next(splitter.split(np.zeros(len(dataset)), indicator))
    is_train = np.zeros(len(dataset), dtype=bool)
    is_train[train] = True
    positive = dataset.states == POSITIVE
    without = positive.any(axis=0) & ~positive[is_train].any(axis=0)
    is_train |= positive[:, without].any(axis=1)
    if is_train.all():
        raise DataError(
            f"{dataset.source} has too few labelled photos to hold any out; give a validation table."
        )
    return dataset.subset(np.flatnonzero(is_train)), dataset.subset(np.flatnonzero(~is_train))


def photos_in_both(train: MultiLabelDataset, val: MultiLabelDataset) -> int:
    """Count the photos that are in two data sets."""
    first, second = ({photo.resolve() for photo in part.photos} for part in (train, val))
    return len(first & second)
