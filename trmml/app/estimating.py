"""What a model thinks of every photo of a session, worked out in the background, and learning anew.

One thread does one thing after the other; the session is read and changed under a lock.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from trmml.app.learning import as_number, learn
from trmml.app.session import Session
from trmml.data.dataset import MultiLabelDataset
from trmml.data.photos import load_photo
from trmml.errors import DataError, ImageError, TrmmlError
from trmml.labels import known_mask
from trmml.matcher.model import TextRegionMatcher
from trmml.tasks.estimates import (
    Sources,
    calibrated,
    joined,
    log_odds_of,
    probability_of,
    scores_of,
)
from trmml.training.features import PHOTOS_PER_SHARD, compute_features
from trmml.zoo.folder import load_folder, save_model

logger = logging.getLogger(__name__)

LEARNED = "model-*"
"""What the folders of learned models are called, with a number."""


class Estimator:
    """Keeps a session's probabilities up to date.

    Attributes:
        start: The model that every training starts from.
        model: The one that is asked: `start`, or what was learned last.
        status: What is being done, how far it is, and what went wrong, for people.
    """

    def __init__(
        self,
        session: Session,
        start: TextRegionMatcher,
        lock: threading.RLock,
        models: Path,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Prepare; nothing is computed before `begin`.

        Args:
            session: Whose photos and cells.
            start: Knows all labels of the session.
            lock: Held whenever the session is used.
            models: Folder for what is learned; the last model in it is gone on with.
            settings: Changes of `FinetuneConfig` for learning.
        """
        self.session, self.start, self.lock = session, start, lock
        self.models, self.settings = models, settings
        self.model = start
        self.status: dict[str, Any] = {"task": "waiting", "done": 0, "total": 0, "error": None}
        self.rounds: list[dict[str, Any]] = []
        shape = session.states.shape
        self._sources = Sources(*(np.full(shape, np.nan, dtype=np.float32) for _ in range(2)))
        self._readable = np.arange(len(session.table))
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._waiting: Future[None] | None = None

    def begin(self) -> None:
        """Go on with the model that was learned last, and estimate all photos in the background."""
        self._waiting = self._pool.submit(self._guarded, self._first)

    def learn(self) -> bool:
        """Train in the background; False if something is being done already."""
        if self.is_busy:
            return False
        self.status = {"task": "learning", "done": 0, "total": 0, "error": None}
        self._waiting = self._pool.submit(self._guarded, self._learn)
        return True

    @property
    def is_busy(self) -> bool:
        """Whether the thread is at work."""
        return self._waiting is not None and not self._waiting.done()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until there is nothing left to do."""
        if self._waiting is not None:
            self._waiting.result(timeout)

    def stop(self) -> None:
        """End after the step that is being done."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def refresh(self) -> None:
        """Calibrate anew on what is known by now."""
        with self.lock, contextlib.suppress(np.linalg.LinAlgError):
            self.session.probability = self._calibrated()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do something, and show what went wrong in place of ending in silence."""
        error = None
        try:
            work()
        except _Stopped:
            return
        except TrmmlError as problem:
            error = str(problem)
        except Exception as problem:
            logger.exception("The background work of the page failed.")
            error = f"{type(problem).__name__}: {problem}"
        self.status = {"task": "idle", "done": 0, "total": 0, "error": error}

    def _first(self) -> None:
        last = self._last_model()
        self._estimate(self.start)
        if last is not None:
            self.model = last
            self._estimate(last)

    def _last_model(self) -> TextRegionMatcher | None:
        folders = sorted(self.models.glob(LEARNED))
        for folder in reversed(folders):
            try:
                model = load_folder(folder)
            except TrmmlError as error:
                logger.warning("%s is passed over: %s", folder, error)
                continue
            if set(model.labels) <= set(self.session.table.labels):
                model.source = str(folder)
                return model.to(self.start.device)
        return None

    def _learn(self) -> None:
        with self.lock:
            now = replace(self.session.table, states=self.session.states.copy())
            measures = self.session.measures()
        rows = self._readable
        data = now.subset(rows)
        store = compute_features(data.photos, self.start.backbone)

        def on_epoch(done: int, total: int) -> None:
            if self._stopped.is_set():
                raise _Stopped
            self.status = {"task": "learning", "done": done, "total": total, "error": None}

        found = learn(
            self.start,
            data,
            self.session.validates[rows],
            store,
            np.nan_to_num(self._sources.model[rows], nan=0.5),
            measures[rows],
            settings=self.settings,
            on_epoch=on_epoch,
        )
        number = 1 + len(list(self.models.glob(LEARNED)))
        folder = self.models / LEARNED.replace("*", f"{number:03}")
        save_model(found.model, folder)
        found.model.source = str(folder)
        self.model = found.model
        self.rounds.append(
            {
                "answers": len(self.session.journal.answers),
                "before": as_number(found.before),
                "after": as_number(found.after),
                "gain_range": [as_number(end) for end in found.gain_range],
                "labels": len(found.model.labels),
                "trained_on": found.trained_on,
                "validated_on": found.validated_on,
                "measured_on": found.measured_on,
                "measured_labels": found.measured_labels,
                "folder": str(folder),
            }
        )
        self._estimate(found.model)

    def _estimate(self, model: TextRegionMatcher) -> None:
        """Fill in what a model thinks, some photos at a time; unreadable ones are put aside."""
        labels = [label for label in self.session.table.labels if label in model.labels]
        columns = [self.session.table.labels.index(label) for label in labels]
        table = self.session.table.with_labels(labels)
        done = 0
        while done < len(self._readable):
            if self._stopped.is_set():
                raise _Stopped
            total = len(self._readable)
            self.status = {"task": "estimating", "done": done, "total": total, "error": None}
            rows = self._readable[done : done + PHOTOS_PER_SHARD]
            try:
                found = scores_of(model, table.subset(rows), False)
            except DataError:
                if not self._put_aside(rows, table):
                    raise
                continue
            for source, values in zip(self._sources, found, strict=True):
                source[rows[:, None], columns] = values
            done += len(rows)
            self.refresh()

    def _put_aside(self, rows: np.ndarray, table: MultiLabelDataset) -> bool:
        """Leave out photos that cannot be read; say whether there are any."""
        bad = [row for row in rows.tolist() if not _is_readable(table.photos[row])]
        with self.lock:
            self.session.unreadable[bad] = True
        self._readable = np.flatnonzero(~self.session.unreadable)
        return bool(bad)

    def _calibrated(self) -> Float32[np.ndarray, "image label"]:
        """Return both estimates, calibrated if enough is known, else the model's score."""
        rows = np.flatnonzero(~np.isnan(self._sources.model).any(axis=1))
        here = Sources(*(source[rows] for source in self._sources))
        known = replace(self.session.table, states=self.session.states).subset(rows)
        probability = self._sources.model.copy()
        probability[rows] = calibrated_probability(here, known, self.session.validates[rows])
        return probability

    def facts(self) -> dict[str, Any]:
        """Return the trainings so far and what is being done, for people."""
        return {"status": self.status, "rounds": self.rounds, "model": self._name()}

    def _name(self) -> str:
        return self.model.source or repr(self.model)


def calibrated_probability(
    sources: Sources, known: MultiLabelDataset, validates: Bool[np.ndarray, " image"]
) -> Float32[np.ndarray, "image label"]:
    """Return what both sources say together, calibrated if enough is known, else the model's score.

    Args:
        sources: Of the same photos and labels.
        known: What is known of them.
        validates: Photos that the model did not learn from, on which it says no more than it should;
            they calibrate where enough is known of them.
    """
    for chosen in (validates, np.ones(len(known), dtype=bool)):
        part = np.flatnonzero(chosen & known_mask(known.states).any(axis=1))
        if not len(part):
            continue
        try:
            reference = Sources(*(source[part] for source in sources))
            weights, offsets, _ = calibrated(reference, known.subset(part))
        except DataError:  # too little is known
            continue
        return probability_of(joined(log_odds_of(*sources), weights) + offsets)
    return sources.model.copy()


class _Stopped(Exception):
    """The page was closed."""


def _is_readable(photo: Path) -> bool:
    try:
        load_photo(photo, 224)
    except ImageError:
        return False
    return photo.stat().st_size > 0
