"""Fine-tuning: from a partly labelled data set to a model folder; see `run_folder` for what lies there.

Under torchrun all processes train one model, and the first one writes; see `trmml.training.distributed`.
"""

import copy
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.loading import SMALL_CLIP
from trmml.config.groups import FinetuneConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.data.splits import photos_in_both, split_dataset
from trmml.errors import ConfigError, DataError
from trmml.evaluation.calibration import calibrate
from trmml.evaluation.measuring import require_known
from trmml.files import with_home
from trmml.labels import POSITIVE, known_mask
from trmml.matcher.model import TextRegionMatcher
from trmml.training import distributed
from trmml.training.batches import AugmentedPhotos, CachedFeatures, use_bfloat16
from trmml.training.features import cache_bytes, compute_features
from trmml.training.run_folder import RunFolder, check_together, digest_of, facts_of, fingerprint_of
from trmml.training.trainer import CHECKPOINT, Trainer, TrainingPhotos, ValidationPhotos
from trmml.zoo.folder import read_facts
from trmml.zoo.loading import load_for_training, make_config

logger = logging.getLogger(__name__)

FEW_POSITIVES = 5
"""Of a label among the validation photos: with fewer its threshold is mostly chance."""


def finetune(
    data: Any,
    *,
    images: str | Path | None = None,
    model: str | Path | TextRegionMatcher | None = None,
    backbone: str | FrozenCLIP | None = None,
    labels: Sequence[str] | None = None,
    val: Any = None,
    config: FinetuneConfig | Mapping[str, Any] | str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> TextRegionMatcher:
    """Learn the labels of a data set in which most cells may be unknown.

    Args:
        data: A data set, or a label table as `read_dataset` takes it; one that needs more to be read
            (which split, what an absent label means) goes through that first.
        images: Folder that photo paths of a table are relative to.
        model: A trained matcher to start from: a folder, a name or the model itself. It stays as it
            is where no epoch is better on the validation photos.
        backbone: Or a bare CLIP to start from: `<open_clip name>/<pretrained tag>`,
            `<open_clip name>/file:<path>` or `local-dir:<folder>`; by default the small CLIP that
            comes with the package. A larger one gives better results. Beside `model`: where its
            CLIP is now, if it moved.
        labels: Labels to learn; all of the data set by default.
        val: Validation photos, likewise; by default the share `training.val_fraction` is held out.
        config: Settings: a `FinetuneConfig`, changes by dotted name as
            `{"training.epochs": 5}`, or a recipe in TOML.
        output: Folder for the trained model; without one nothing is written, nor can be resumed.
        resume: Whether to go on with an unfinished run, or return a finished one, of this output.
        progress: Whether to show bars; by default only on a terminal.

    Returns:
        The trained model, in evaluation mode and frozen; its `report` says how it was made and what was
        measured.

    Raises:
        DataError: If the data cannot be used; all photos with a problem are named at once.
        ConfigError: If a setting is wrong or the output exists.
        OutputError: If the output cannot be written; what was trained so far can be resumed.
    """
    started = time.monotonic()
    if model is not None and isinstance(backbone, FrozenCLIP):
        raise ConfigError(
            "A trained `model` has its CLIP; `backbone` can only say where that is now, as a name."
        )
    settings = _resolved(config)
    show = sys.stderr.isatty() if progress is None else progress
    with distributed.joined():
        run = None if output is None else RunFolder(with_home(output), resume)
        distributed.wait()  # all have looked before the first one writes
        everything = _dataset(data, images, labels)
        held_out = None if val is None else _dataset(val, images, labels, may_lack_labels=True)
        matcher, start = _starting_model(model, backbone, everything.labels, settings)
        train, held_out = _train_and_val(everything, held_out, settings)
        # In the order of the table, so that another split finds the same features.
        photos = list(dict.fromkeys((*everything.photos, *held_out.photos)))
        settings = _settled(settings, matcher, len(photos))
        fingerprint = fingerprint_of(settings, matcher.config, start.digest, train, held_out)
        finished = None if run is None else run.begin(fingerprint)
        if run is not None and finished is not None:
            finished.report = {
                part: read_facts(run.output, part) for part in ("metrics", "finetune")
            }
            return finished.to(distributed.own_device())
        show = show and distributed.is_first()
        try:
            training, validation = _features(matcher, settings, photos, train, held_out, show)
            if start.labels is None:
                sample = training.features.sample()
                matcher.start_from_data(sample, known_log_odds(train, settings))
            trainer = Trainer(
                matcher,
                settings,
                training,
                validation,
                fingerprint=fingerprint,
                learned=start.labels,
            )
            _train(trainer, run, show)
        except BaseException:
            if run is not None:
                run.leave()
            raise
        return _finished(trainer, run, started)


def _train(trainer: Trainer, run: RunFolder | None, progress: bool) -> None:
    """Train the epochs that are left, from the checkpoint if there is one."""
    if run is not None and (run.working / CHECKPOINT).exists():
        trainer.resume(run.working / CHECKPOINT)
    check_together(trainer.fingerprint, len(trainer.history))
    trainer.train(None if run is None else run.working, progress)
    if trainer.best_epoch is None:
        logger.warning(
            "No epoch was better on the validation photos than the model that training started "
            "from; it is kept, with new thresholds. More photos may help, or lower rates "
            "(training.learning_rate, training.prompt_learning_rate)."
        )


def _finished(trainer: Trainer, run: RunFolder | None, started: float) -> TextRegionMatcher:
    """Return the best epoch's model with its thresholds and its report, written if there is a run."""
    model, val = trainer.model, trainer.val_data
    scores = trainer.use_best()
    model.calibration = calibrate(scores, val.states, model.labels)
    model.report = facts_of(trainer, scores, model.calibration.thresholds)
    model.report["finetune"]["seconds"] = round(time.monotonic() - started, 1)
    if run is not None:
        run.finish(model, model.report)
        model.source = str(run.output)
    return model


def _resolved(config: FinetuneConfig | Mapping[str, Any] | str | Path | None) -> FinetuneConfig:
    if config is None:
        return FinetuneConfig()
    if isinstance(config, FinetuneConfig):
        return config
    if isinstance(config, str | Path):
        return FinetuneConfig.from_toml(with_home(config))
    return FinetuneConfig().changed(config)


def _dataset(
    data: Any,
    images: str | Path | None,
    labels: Sequence[str] | None,
    *,
    may_lack_labels: bool = False,
) -> MultiLabelDataset:
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


class _Start(NamedTuple):
    """What training starts from: labels and digest of a trained model, or nothing."""

    labels: tuple[str, ...] | None
    digest: str


def _starting_model(
    model: str | Path | TextRegionMatcher | None,
    backbone: str | FrozenCLIP | None,
    labels: tuple[str, ...],
    settings: FinetuneConfig,
) -> tuple[TextRegionMatcher, _Start]:
    """Return the model to train, on its device, and what it was before."""
    if model is not None:
        matcher = load_for_training(model, backbone if isinstance(backbone, str) else None)
        _require_size(settings, matcher.config.photo.image_size, "the model to start from sees")
        # Before the labels change: what that computes differs in its last bits between machines.
        start = _Start(matcher.labels, digest_of(matcher))
        if matcher.labels != labels:
            matcher = matcher.relabelled(labels)
    else:
        if isinstance(backbone, FrozenCLIP):
            _require_size(settings, backbone.photo.image_size, "the CLIP was loaded for")
        else:
            backbone = FrozenCLIP.load(backbone or SMALL_CLIP, image_size=settings.image_size)
        matcher = TextRegionMatcher(make_config(backbone, labels, settings.matching), backbone)
        matcher.start_from_text(settings.training.seed)
        start = _Start(None, "")
    device = distributed.own_device()
    if matcher.backbone.device != device:
        # It may be the caller's, whose models must find it where it was.
        matcher.backbone = copy.deepcopy(matcher.backbone)
    return matcher.to(device), start


def _require_size(settings: FinetuneConfig, image_size: int, whose: str) -> None:
    if settings.image_size not in (None, image_size):
        raise ConfigError(
            f"image_size is {settings.image_size}, but {whose} photos of {image_size} px; leave it out."
        )


def _train_and_val(
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


def _settled(
    settings: FinetuneConfig, matcher: TextRegionMatcher, num_photos: int
) -> FinetuneConfig:
    """Return settings that say what will be done: nothing is left to the model or the machine."""
    changes: dict[str, Any] = {"matching": matcher.config.matching.to_dict()}
    if not matcher.matching.learns:
        raise ConfigError(
            "Zero-shot matching has nothing to learn. Name its CLIP (backbone=, --backbone) to "
            "start from, and leave matching.way as it is."
        )
    training = settings.training
    needed = cache_bytes(num_photos, matcher.backbone, training.views)
    fits = needed <= training.cache_gb * 1e9
    if training.features == "cached" and not fits:
        raise ConfigError(
            f"The features of {num_photos} photos need {needed / 1e9:.1f} GB, "
            f"training.cache_gb is {training.cache_gb:g}; raise it, or use "
            "training.features=augmented."
        )
    if training.features == "auto":
        if not fits:
            logger.warning(
                "The features would need %.1f GB, more than training.cache_gb (%g): photos are "
                "encoded anew in every epoch.", needed / 1e9, training.cache_gb
            )  # fmt: skip
        is_cached = fits and matcher.device.type == "cpu"
        changes["training.features"] = "cached" if is_cached else "augmented"
    half = use_bfloat16(training, matcher.device)
    changes["training.precision"] = "bfloat16" if half else "float32"
    return settings.changed(changes)


def _check_learnable(train: MultiLabelDataset) -> None:
    positives = (train.states == POSITIVE).any(axis=0)
    without = [n for n, seen in zip(train.labels, positives, strict=True) if not seen]
    if without:
        raise DataError(
            f"{train.source}: no known positive photo to train on for {', '.join(without[:10])}"
            f"{' …' if len(without) > 10 else ''}; label one, or name the other "
            "labels with `labels` (--labels)."
        )


def _warn_of_little_validation(val: MultiLabelDataset) -> None:
    counts = (val.states == POSITIVE).sum(axis=0)
    few = [
        f"{name} {count}"
        for name, count in zip(val.labels, counts, strict=True)
        if count < FEW_POSITIVES
    ]
    if few:
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        logger.warning(
            "Few known positives among the %d validation photos (%s%s): the best epoch and these "
            "labels' thresholds rest on little.", len(val), ", ".join(few[:10]), more
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


def _features(
    model: TextRegionMatcher,
    settings: FinetuneConfig,
    photos: list[Path],
    train: MultiLabelDataset,
    val: MultiLabelDataset,
    progress: bool,
) -> tuple[TrainingPhotos, ValidationPhotos]:
    """Compute what is to be cached, and return the photos of both parts with their features."""
    training, frozen = settings.training, model.backbone
    is_cached = training.features == "cached"
    if not is_cached:
        photos = list(val.photos)
    position = {photo: i for i, photo in enumerate(photos)}
    store = compute_features(
        photos,
        frozen,
        views=training.views if is_cached else "plain",
        num_workers=training.num_workers,
        progress=progress,
    )

    def cached(dataset: MultiLabelDataset) -> CachedFeatures:
        return CachedFeatures(store, np.array([position[photo] for photo in dataset.photos]))

    views = cached(train) if is_cached else AugmentedPhotos(train.photos, frozen, training)
    return TrainingPhotos(train, views), ValidationPhotos(val, cached(val))
