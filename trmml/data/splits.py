"""Holding out validation photos so that each label keeps its share of known positives and negatives."""

import numpy as np
from jaxtyping import Bool, Int64

from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE

TRAIN, HELD_OUT = 0, 1


def split_dataset(
    dataset: MultiLabelDataset, fraction: float, seed: int
) -> tuple[MultiLabelDataset, MultiLabelDataset]:
    """Split by photo, stratified on known positives and known negatives.

    A label's only known positives stay in training: what is never seen cannot be learned. Where that
    moves photos, fewer are held out.

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
    positive = dataset.states == POSITIVE
    # Negatives count as labels of their own: a threshold needs both, and with blanks a label's
    # negatives do not follow from its positives.
    stated = np.hstack([positive, dataset.states == NEGATIVE])
    held_out = stratified_holdout(stated, num_held_out, seed)
    only_held_out = positive.any(axis=0) & ~positive[~held_out].any(axis=0)
    held_out &= ~positive[:, only_held_out].any(axis=1)
    if not held_out.any():
        raise DataError(
            f"{dataset.source} has too few labelled photos to hold any out; give a validation table."
        )
    return dataset.subset(np.flatnonzero(~held_out)), dataset.subset(np.flatnonzero(held_out))


def stratified_holdout(
    stated: Bool[np.ndarray, "image statement"], num_held_out: int, seed: int
) -> Bool[np.ndarray, " image"]:
    """Choose photos so that of everything stated about photos the same share is chosen.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label
    data", ECML PKDD 2011), Algorithm 1 for two subsets. One thing is ours: a subset that has all its
    photos takes no more, so that the number is exact.

    Args:
        stated: What is said of each photo; a column is, for instance, "shows a dog".
        num_held_out: How many photos to choose, from 0 to all of them.
        seed: Decides between what is equally good.

    Returns:
        True for the chosen photos.
    """
    # NumPy promises the numbers of RandomState for good, those of a Generator only for a version.
    random = np.random.RandomState(seed)
    subsets = _Subsets(stated, num_held_out)
    order = random.permutation(len(stated))
    side = np.full(len(stated), -1, dtype=np.int8)
    left = stated.sum(axis=0)
    while left.any():
        # The rarest first: a common statement can still be evened out by later photos.
        rarest = int(random.choice(np.flatnonzero(left == left[left > 0].min())))
        photos = order[stated[order, rarest] & (side[order] < 0)]
        for photo in photos.tolist():
            side[photo] = subsets.place(photo, rarest, random)
        left -= stated[photos].sum(axis=0)
    for photo in order[side[order] < 0].tolist():  # nothing is known of these
        side[photo] = subsets.place(photo, None, random)
    return side == HELD_OUT


class _Subsets:
    """The two growing subsets: what each still lacks of photos and of each statement."""

    def __init__(self, stated: Bool[np.ndarray, "image statement"], num_held_out: int) -> None:
        self.stated = stated
        self.sizes = (len(stated) - num_held_out, num_held_out)
        self.counts: Int64[np.ndarray, " statement"] = stated.sum(axis=0)
        self.placed = [0, 0]
        self.given = np.zeros((2, stated.shape[1]), dtype=np.int64)

    def place(self, photo: int, statement: int | None, random: np.random.RandomState) -> int:
        """Put a photo into the subset that most lacks a statement, or else photos; return which."""
        train, held_out = self._lacks(TRAIN, statement), self._lacks(HELD_OUT, statement)
        if self.placed[TRAIN] == self.sizes[TRAIN]:
            side = HELD_OUT
        elif self.placed[HELD_OUT] == self.sizes[HELD_OUT]:
            side = TRAIN
        elif train == held_out:
            side = int(random.randint(2))
        else:
            side = HELD_OUT if held_out > train else TRAIN
        self.placed[side] += 1
        self.given[side] += self.stated[photo]
        return side

    def _lacks(self, side: int, statement: int | None) -> tuple[int, int]:
        """Return what is wanting of a statement, in parts of a photo, and of photos."""
        photos = self.sizes[side] - self.placed[side]
        if statement is None:
            return 0, photos
        # Times the number of photos, so that equal needs are equal whole numbers, not nearly.
        wanted = self.sizes[side] * self.counts[statement]
        return int(wanted - len(self.stated) * self.given[side, statement]), photos


def photos_in_both(train: MultiLabelDataset, val: MultiLabelDataset) -> int:
    """Count the photos that are in two data sets, whatever links lead to them."""
    first, second = ({photo.resolve() for photo in part.photos} for part in (train, val))
    return len(first & second)
