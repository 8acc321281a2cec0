"""The photos of a run: read, split into those to train on and those to validate on, and checked."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from trmml.config.groups import FinetuneConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.data.splits import photos_in_both, split_dataset
from trmml.errors import DataError
from trmml.evaluation.requirements import require_known
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN, known_mask
from trmml.reports.numbers import first_of
from trmml.training.batches import AugmentedPhotos, CachedFeatures

logger = logging.getLogger(__name__)

FEW_POSITIVES = 5
"""Of a label among the validation photos: with fewer its threshold is mostly chance."""


class TrainingPhotos(NamedTuple):
    """What is known of photos, and their features as they come in training."""

    dataset: MultiLabelDataset
    features: CachedFeatures | AugmentedPhotos


class ValidationPhotos(NamedTuple):
    """What is known of photos, and their features."""

    dataset: MultiLabelDataset
    features: CachedFeatures


def as_dataset(
    data: Any,
    images: str | Path | None,
    labels: Sequence[str] | None,
    *,
    may_lack_labels: bool = False,
) -> MultiLabelDataset:
    """Return a data set as it is, or read it, with chosen labels."""
    if isinstance(data, int | float):
        raise DataError(
            f"`data` and `val` are tables, got {data}; to hold out a share of the data for validation, "
            f"pass config={{'training.val_fraction': {data}}} and no `val`."
        )
    if not isinstance(data, MultiLabelDataset):
        return read_dataset(data, images=images, labels=labels, may_lack_labels=may_lack_labels)
    if labels is None:
        return data
    return data.aligned_to(labels) if may_lack_labels else data.with_labels(labels)


def train_and_val(
    everything: MultiLabelDataset, val: MultiLabelDataset | None, settings: FinetuneConfig
) -> tuple[MultiLabelDataset, MultiLabelDataset]:
    """Return photos to train on and to validate on, with the same labels."""
    if val is None:
        training = settings.training
        train, val = split_dataset(everything, training.val_fraction, training.seed)
    else:
        train = everything
        require_known(val, train.labels, str(train.source))
        val = val.aligned_to(train.labels)
        shared = photos_in_both(train, val)
        if shared:
            logger.warning("%d photos are for training and for validation.", shared)
    _check_learnable(train)
    _warn_of_little_validation(val)
    return train, val


def _check_learnable(train: MultiLabelDataset) -> None:
    positives = (train.states == POSITIVE).any(axis=0)
    without = [n for n, seen in zip(train.labels, positives, strict=True) if not seen]
    if without:
        raise DataError(
            f"{train.source}: no known positive photo to train on for {', '.join(without[:10])}"
            f"{' …' if len(without) > 10 else ''}; label one, or name the other "
            "labels with `labels` (--labels)."
        )


def can_choose_epoch(val: MultiLabelDataset) -> bool:
    """Say whether enough is known to choose the best epoch; otherwise the last one is taken.

    Enough are five known positives and five negatives for half of the labels (our choice). The best of
    twelve epochs by a handful of photos is the luckiest one: with 100 photos of COCO-18, ten of them to
    validate, it had 50 mAP on other photos, and the last one 59.
    """
    counts = [(val.states == state).sum(axis=0) for state in (POSITIVE, NEGATIVE)]
    return bool((np.minimum(*counts) >= FEW_POSITIVES).mean() >= 0.5)


def _warn_of_little_validation(val: MultiLabelDataset) -> None:
    counts = (val.states == POSITIVE).sum(axis=0)
    if not counts.any():
        logger.warning(
            "No positive is known among the %d validation photos, so that nothing can be validated: the "
            "last epoch is taken, and all thresholds are 0.5. Give others (val, --val).", len(val)
        )  # fmt: skip
        return
    few = [
        f"{name} {count}"
        for name, count in zip(val.labels, counts, strict=True)
        if count < FEW_POSITIVES
    ]
    if few:
        chooses = "the best epoch," if can_choose_epoch(val) else "the last epoch is taken;"
        logger.warning(
            "Few known positives among the %d validation photos (%s): %s these labels' thresholds "
            "and every figure of them rest on little.", len(val), first_of(few), chooses
        )  # fmt: skip
    silent = [
        n for n, column in zip(val.labels, val.states.T, strict=True) if (column == UNKNOWN).all()
    ]
    if silent:
        logger.warning(
            "The validation photos (%s) say nothing of %s, not even that it is absent; is it named "
            "otherwise there?", val.source, first_of(list(map(repr, silent)))
        )  # fmt: skip


def known_log_odds(train: MultiLabelDataset, settings: FinetuneConfig) -> torch.Tensor:
    """Log-odds of a positive among the known states of each label, smoothed by one of each.

    A label without known negatives counts its unknown states as weak ones.
    """
    positives = (train.states == POSITIVE).sum(axis=0)
    known = known_mask(train.states).sum(axis=0)
    negatives = (known - positives).astype(np.float64)
    assumed = settings.loss.assumed_negative * (len(train) - known)
    negatives = np.where(negatives == 0, assumed, negatives)
    return torch.from_numpy(np.log((positives + 1) / (negatives + 1))).float()
