"""Fine-tuning: from a partly labelled data set to a model folder; see `run_folder` for what lies there.

Under torchrun all processes train one model, and the first one writes; see `trmml.training.distributed`.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trmml.backbone.clip import FrozenCLIP
from trmml.config.groups import FinetuneConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError
from trmml.evaluation.calibration import calibrate
from trmml.files import with_home
from trmml.matcher.model import TextRegionMatcher
from trmml.reports.numbers import counted
from trmml.reports.progress import say
from trmml.training import distributed
from trmml.training.batches import AugmentedPhotos, CachedFeatures, use_bfloat16
from trmml.training.callbacks import EpochEnd, LogTo, require_writer, say_epoch, say_kept, writer_to
from trmml.training.features import cache_bytes, compute_features
from trmml.training.fingerprint import fingerprint_of
from trmml.training.mixing import warn_if_no_gain
from trmml.training.photos import (
    TrainingPhotos,
    ValidationPhotos,
    as_dataset,
    known_log_odds,
    train_and_val,
)
from trmml.training.run_folder import RunFolder, check_together, facts_of
from trmml.training.starting import starting_model
from trmml.training.trainer import CHECKPOINT, Trainer
from trmml.zoo.folder import LOG, read_facts

logger = logging.getLogger(__name__)


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
    progress: bool = True,
    log_to: LogTo | None = None,
) -> TextRegionMatcher:
    """Learn the labels of a data set in which most cells may be unknown.

    Args:
        data: A data set, or a label table as `read_dataset` takes it; one that needs more to be read
            (which split, what an absent label means) goes through that first.
        images: Folder that photo paths of a table are relative to.
        model: A trained matcher to start from: a folder, a name or the model itself. Where no epoch is
            better on the validation photos, the result is this model with new thresholds and, where that
            is better and enough is known to tell, with a probe of the new photos.
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
        progress: Whether to say on stderr how far the training is: a line per epoch, and bars on a
            terminal.
        log_to: Another program that is to show the epochs: `tensorboard`, whose files are written to the
            folder `tensorboard` of the output, or `trackio`. Its package has to be installed.

    Returns:
        The trained model, in evaluation mode and frozen; its `report` says how it was made and what was
        measured.

    Raises:
        DataError: If the data cannot be used; all photos with a problem are named at once.
        ConfigError: If a setting is wrong or the output exists.
        OutputError: If the output cannot be written; what was trained so far can be resumed.
        DependencyError: If the package that `log_to` needs is not installed.

    Example:
        >>> model = trmml.finetune("labels.csv", images="photos/", output="runs/shop")
        >>> print(trmml.predict("photos/new.jpg", model))
    """
    started = time.monotonic()
    if model is not None and isinstance(backbone, FrozenCLIP):
        raise ConfigError(
            "A trained `model` has its CLIP; `backbone` can only say where that is now, as a name."
        )
    settings = _resolved(config)
    with distributed.joined():
        run = None if output is None else RunFolder(with_home(output), resume)
        callbacks = _Callbacks(run, settings, progress and distributed.is_first(), log_to)
        distributed.wait()  # all have looked before the first one writes
        everything = as_dataset(data, images, labels)
        held_out = None if val is None else as_dataset(val, images, labels, may_lack_labels=True)
        matcher, start = starting_model(model, backbone, everything.labels, settings)
        train, held_out = train_and_val(everything, held_out, settings)
        # In the order of the table, so that another split finds the same features.
        photos = list(dict.fromkeys((*everything.photos, *held_out.photos)))
        settings = _settled(settings, matcher, len(photos))
        fingerprint = fingerprint_of(settings, matcher.config, start.digest, train, held_out)
        finished = None if run is None else run.begin(fingerprint, settings)
        if run is not None and finished is not None:
            return _finished_before(finished, run, callbacks.show)
        try:
            training, validation = _features(
                matcher, settings, photos, train, held_out, callbacks.show
            )
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
            _train(trainer, run, callbacks)
        except BaseException:
            if run is not None:
                run.leave()
            raise
        return _finished(trainer, run, callbacks.show, started)


class _Callbacks:
    """Who is told of each epoch: the user, and another program."""

    def __init__(
        self, run: RunFolder | None, settings: FinetuneConfig, show: bool, log_to: str | None
    ) -> None:
        self.show, self.writer = show, None
        if log_to is not None:  # all processes check it, the first one writes
            require_writer(log_to, has_output=run is not None)
        if log_to is not None and run is not None and distributed.is_first():
            self.writer = writer_to(log_to, run.working, run.output.name, settings.to_dict())

    def __call__(self, so_far: EpochEnd) -> None:
        if self.show:
            say_epoch(so_far)
        if self.writer is not None:
            self.writer(so_far)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _finished_before(model: TextRegionMatcher, run: RunFolder, show: bool) -> TextRegionMatcher:
    """Return the model of a run that is resumed and has nothing left to do."""
    if show:
        say(f"{run.output} was finished before; nothing is left to train.")
    model.report = {part: read_facts(run.output, part) for part in ("metrics", "finetune")}
    return model.to(distributed.own_device())


def _train(trainer: Trainer, run: RunFolder | None, callbacks: _Callbacks) -> None:
    """Train the epochs that are left, from the checkpoint if there is one."""
    if run is not None and (run.working / CHECKPOINT).exists():
        trainer.resume(run.working / CHECKPOINT)
    check_together(trainer.fingerprint, len(trainer.history))
    if callbacks.show:
        _say_start(trainer, run)
    try:
        trainer.train(None if run is None else run.working, callbacks.show, callbacks)
    finally:
        callbacks.close()


def _say_start(trainer: Trainer, run: RunFolder | None) -> None:
    done, epochs = len(trainer.history), trainer.config.training.epochs
    begun = f"going on after epoch {done} of {epochs}" if done else counted(epochs, "epoch")
    place = (
        ""
        if run is None
        else f"; the figures of each are in {run.working / LOG}, then in {run.output}"
    )
    num_photos, num_val = len(trainer.train_data), len(trainer.validation.data)
    say(
        f"Training on {num_photos} photos, {num_val} for validation, on {trainer.model.device}: "
        f"{begun}{place}."
    )


def _finished(
    trainer: Trainer, run: RunFolder | None, show: bool, started: float
) -> TextRegionMatcher:
    """Return the best epoch's model with its thresholds and its report, written if there is a run."""
    model, val = trainer.model, trainer.validation.data
    scores, model.unlearned = trainer.use_best(), frozenset()
    if trainer.best_epoch is None:
        new = "thresholds and a probe of the new photos" if trainer.has_new_probe else "thresholds"
        advice = (
            "Its logits are those of its probe alone, which no epoch changes; more photos may help, or "
            "to start from its CLIP (backbone) instead."
            if model.probe is not None and bool((model.probe.share == 1).all())
            else "More photos may help, or lower rates (training.learning_rate, "
            "training.prompt_learning_rate)."
        )
        logger.warning(
            "No epoch was better on the validation photos than the model that training started "
            "from; it is kept, with new %s. %s", new, advice,
        )  # fmt: skip
    if show:
        say_kept(trainer.best_epoch, trainer.best_map, trainer.validation.map_of(scores))
    # The thresholds are new; rules of the model that training started from stay.
    rules = model.calibration.rules
    model.calibration = replace(calibrate(scores, val.states, model.labels), rules=rules)
    model.report = facts_of(trainer, scores, model.calibration.thresholds)
    model.report["finetune"]["seconds"] = round(time.monotonic() - started, 1)
    warn_if_no_gain(model.report["finetune"]["compared_with"])
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


def _settled(
    settings: FinetuneConfig, matcher: TextRegionMatcher, num_photos: int
) -> FinetuneConfig:
    """Return settings that say what will be done: nothing is left to the model or the machine."""
    changes: dict[str, Any] = {"matching": matcher.config.matching.to_dict()}
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

    views = (
        cached(train) if is_cached else AugmentedPhotos(train.photos, frozen, training, progress)
    )
    return TrainingPhotos(train, views), ValidationPhotos(val, cached(val))
