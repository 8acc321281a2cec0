"""Learning from what is known now, on cached features: a training of seconds or minutes.

Which photos validate is decided by their names alone, so that a photo that validates never becomes one
that a later model has learned from. What is known of them chooses the best epoch, where that is enough;
what is shown as mAP is measured on those of their cells alone that no ranking chose.
"""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from trmml.config.groups import FinetuneConfig, LossConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.evaluation.calibration import calibrate
from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN, known_mask
from trmml.matcher.model import TextRegionMatcher
from trmml.training.batches import CachedFeatures
from trmml.training.features import FeatureStore
from trmml.training.fingerprint import fingerprint_of
from trmml.training.photos import (
    TrainingPhotos,
    ValidationPhotos,
    can_choose_epoch,
    known_log_odds,
)
from trmml.training.run_folder import facts_of
from trmml.training.trainer import Trainer
from trmml.zoo.loading import load_for_training, make_config

VALIDATION_SHARE = 0.2
FEWEST_MEASURED = 3
"""Positives, and negatives, of a label that mAP counts."""
RESAMPLES = 200
"""Of the photos that measure."""
FEW_KNOWN = 80
"""Known states of a label, in the mean, below which training holds more to what was thought before."""
FEWEST_UNKNOWN = 512
"""Photos of which nothing is known teach as well; so many are taken, or as many as are known."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What came of a training.

    Attributes:
        model: The new one; it has the labels that could be learned.
        before: Validation mAP of what was thought before, in [0, 1], on the cells that measure, over the
            labels of which they have three positives and three negatives; NaN if there is none.
        after: That of the new model, on the same cells.
        gain_range: Where the gain lies in nine cases of ten, as far as these cells tell; from a
            bootstrap over their photos, NaN if there is none.
        trained_on: Photos with something known that it learned from.
        validated_on: Photos that validate, with something known.
        measured_on: Cells that the two are measured on.
        measured_labels: Labels that the two are the mean over.
    """

    model: TextRegionMatcher
    before: float
    after: float
    gain_range: tuple[float, float]
    trained_on: int
    validated_on: int
    measured_on: int
    measured_labels: int


def validation_photos(names: Sequence[str]) -> Bool[np.ndarray, " image"]:
    """Say which photos validate: about a fifth, whatever others there are."""

    def share(name: str) -> float:
        return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64

    return np.array([share(name) < VALIDATION_SHARE for name in names], dtype=bool)


def learn(
    start: TextRegionMatcher,
    data: MultiLabelDataset,
    validates: Bool[np.ndarray, " image"],
    store: FeatureStore,
    thought: Float[np.ndarray, "image label"],
    measures: Bool[np.ndarray, "image label"],
    *,
    settings: dict[str, Any] | None = None,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> Learned:
    """Train a model on what is known.

    Args:
        start: The model to start from; it stays as it is.
        data: Photos, in the order of the features, with what is known of them.
        validates: Which of them validate.
        store: Their features, in the plain view.
        thought: The scores before, to compare with.
        measures: Cells of photos that validate which were not chosen for what is thought of them.
        settings: Changes of `FinetuneConfig`, by dotted name.
        on_epoch: Called with the number of finished epochs and of all.

    Raises:
        DataError: If too little is known to train or to validate.
    """
    known = known_mask(data.states)
    labels = _learnable(data, ~validates)
    columns = [data.labels.index(label) for label in labels]
    val_rows = np.flatnonzero(validates & known[:, columns].any(axis=1))
    if not len(val_rows):
        raise DataError(
            "Nothing is known yet of the photos that are kept for validation (a fifth of them); "
            "answer a few more questions."
        )
    is_known = np.asarray(known[:, columns].any(axis=1))
    train_rows = _training_rows(is_known, ~validates)
    chosen = data.with_labels(labels)
    train, val = chosen.subset(train_rows), chosen.subset(val_rows)
    changes = _for_few_answers(train.states) | (settings or {})
    matcher, config, learned = _prepared(start, labels, changes)
    features = CachedFeatures(store, train_rows)
    if learned is None:
        matcher.start_from_data(features.sample(), known_log_odds(train, config))
    trainer = Trainer(
        matcher,
        config,
        TrainingPhotos(train, features),
        ValidationPhotos(_that_choose(val), CachedFeatures(store, val_rows)),
        fingerprint=fingerprint_of(config, matcher.config, start.source or "", train, val),
        learned=learned,
    )
    trainer.history = _Watched(config.training.epochs, on_epoch)
    trainer.train(None, progress=False)
    trainer.history = list(trainer.history)
    scores, matcher.unlearned = trainer.use_best(), frozenset()
    matcher.calibration = calibrate(scores, val.states, labels)
    matcher.report = facts_of(trainer, scores, matcher.calibration.thresholds)
    measured = np.where(measures[val_rows][:, columns], val.states, np.int8(UNKNOWN))
    thought = thought[val_rows][:, columns]
    return Learned(
        model=matcher,
        before=_measured(thought, measured),
        after=_measured(scores, measured),
        gain_range=_gain_range(thought, scores, measured),
        trained_on=int(known[train_rows][:, columns].any(axis=1).sum()),
        validated_on=len(val_rows),
        measured_on=int(known_mask(measured).sum()),
        measured_labels=int(_measurable(measured).sum()),
    )


def _that_choose(val: MultiLabelDataset) -> MultiLabelDataset:
    """Return what may choose between the epochs and the model before: nothing where little is known."""
    if can_choose_epoch(val):
        return val
    return replace(val, states=np.full_like(val.states, UNKNOWN))


def _measurable(states: Int8[np.ndarray, "image label"]) -> Bool[np.ndarray, " label"]:
    """Say which labels can be right and wrong: of one positive alone almost any order is perfect."""
    counts = [(states == state).sum(axis=0) for state in (POSITIVE, NEGATIVE)]
    return np.asarray(np.minimum(*counts) >= FEWEST_MEASURED)


def _measured(
    scores: Float[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]
) -> float:
    labels = _measurable(states)
    if not labels.any():
        return math.nan
    return float(mean_average_precision(scores[:, labels], states[:, labels]))


def _gain_range(
    before: Float[np.ndarray, "image label"],
    after: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
) -> tuple[float, float]:
    """Return the 5th and 95th percentile of the gain over photos drawn anew (Efron, 1979)."""
    labels = _measurable(states)
    before, after, states = before[:, labels], after[:, labels], states[:, labels]
    generator, gains = np.random.default_rng(0), []
    for _ in range(RESAMPLES if labels.any() else 0):
        rows = generator.integers(len(states), size=len(states))
        drawn = states[rows]
        gains.append(
            mean_average_precision(after[rows], drawn) - mean_average_precision(before[rows], drawn)
        )
    found = np.array(gains)[~np.isnan(gains)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.percentile(found, (5, 95)).tolist()
    return low, high


class _Watched(list[dict[str, Any]]):
    """The records of finished epochs; says so when one is added."""

    def __init__(self, total: int, on_epoch: Callable[[int, int], None]) -> None:
        super().__init__()
        self.total, self.on_epoch = total, on_epoch

    def append(self, record: dict[str, Any]) -> None:
        super().append(record)
        self.on_epoch(len(self), self.total)


def _learnable(data: MultiLabelDataset, trains: Bool[np.ndarray, " image"]) -> tuple[str, ...]:
    seen = (data.states[trains] == POSITIVE).any(axis=0)
    labels = tuple(name for name, is_seen in zip(data.labels, seen, strict=True) if is_seen)
    if not labels:
        raise DataError(
            "No label has a known positive photo to learn from yet; answer yes a few times first."
        )
    return labels


def _training_rows(
    known: Bool[np.ndarray, " image"], trains: Bool[np.ndarray, " image"]
) -> Int64[np.ndarray, " chosen"]:
    """Return the known photos that train, and some of the others."""
    with_labels = np.flatnonzero(known & trains)
    others = np.random.RandomState(0).permutation(np.flatnonzero(~known & trains))
    return np.sort(np.append(with_labels, others[: max(FEWEST_UNKNOWN, len(with_labels))]))


def _for_few_answers(states: Int8[np.ndarray, "image label"]) -> dict[str, Any]:
    """Return the settings that few answers need, most of which are to questions that a ranking chose.

    The share of positives among such answers is not that of the photos, which limits how many pseudo
    labels there are; and the model must not forget for a handful of them what it knew. After 400
    answers both helped by some mAP, on an earlier small CLIP; after 1,600 they would cost one, and no
    longer apply.
    """
    known = max(float(known_mask(states).sum(axis=0).mean()), 1.0)
    if known >= FEW_KNOWN:
        return {}
    weight = LossConfig().distillation * (FEW_KNOWN / known) ** 2
    return {"pseudo_labels.enabled": False, "loss.distillation": min(weight, 3.0)}


def _prepared(
    start: TextRegionMatcher, labels: tuple[str, ...], settings: dict[str, Any]
) -> tuple[TextRegionMatcher, FinetuneConfig, tuple[str, ...] | None]:
    """Return the model to train, the settings, and the labels that it has learned before."""
    config = FinetuneConfig().changed({"training.features": "cached", **settings})
    if not start.matching.learns:  # zero-shot: a bare CLIP
        matcher = TextRegionMatcher(
            make_config(start.backbone, labels, config.matching), start.backbone
        )
        matcher.start_from_text(config.training.seed)
        return matcher.to(start.device), config, None
    learned = tuple(label for label in start.labels if label not in start.unlearned)
    matcher = load_for_training(start)
    if matcher.labels != labels:
        matcher = matcher.relabelled(labels)
    half = "float32" if start.device.type == "cpu" else config.training.precision
    changes = {"matching": matcher.config.matching.to_dict(), "training.precision": half}
    return matcher.to(start.device), config.changed(changes), learned


def as_number(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return None if math.isnan(value) else round(value, 6)
