"""What the page works on: a table, its session and estimates, its pictures, and what is written."""

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trmml.app.estimating import Estimator
from trmml.app.journal import Journal
from trmml.app.learning import validation_photos
from trmml.app.pictures import Pictures
from trmml.app.session import Given, Question, Session
from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import relative_name, write_dataset
from trmml.errors import DataError, TrmmlError
from trmml.matcher.model import TextRegionMatcher

logger = logging.getLogger(__name__)

ANSWERS_PER_REFRESH = 10
"""So many answers later the probabilities are calibrated and the table is written anew."""


class Workspace:
    """Everything that the page's server needs of one table.

    Attributes:
        session: Questions and answers.
        estimator: What is thought of every cell; learns.
        pictures: Of the photos.
        lock: Held whenever the session is used.
        output: The table with the answers in it.
    """

    def __init__(
        self,
        table: MultiLabelDataset,
        model: TextRegionMatcher,
        images: Path,
        journal: Path,
        output: Path,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Open the journal and write the table with the answers so far.

        Args:
            table: Photos with partly known labels.
            model: Knows all of its labels.
            images: Folder that photos are named from, and that all of them are in.
            journal: File of the answers; models that are learned come into a folder beside it.
            output: `.csv` or `.jsonl` file of the table with the answers; replaced as a whole.
            settings: Changes of `FinetuneConfig` for learning.

        Raises:
            ConfigError: If another process has the journal open.
            DataError: If a photo is outside the folder, or the journal holds what is no answer.
            OutputError: If the journal or the table cannot be written.
        """
        require_inside(table.photos, images)
        names = [relative_name(photo, images) for photo in table.photos]
        self.images, self.output = images, output
        self.lock = threading.RLock()
        self.journal = Journal(journal)
        try:
            validates = validation_photos(names)
            self.session = Session(table, names, self.journal, validates=validates)
            models = journal.with_name(journal.name.removesuffix(".jsonl") + ".models")
            self.estimator = Estimator(self.session, model, self.lock, models, settings)
            self.pictures = Pictures(table.photos)
            self._predicting = threading.Lock()
            self._unwritten = 0
            self.save()
        except BaseException:
            self.journal.close()
            raise

    def begin(self) -> None:
        """Start to estimate in the background."""
        self.estimator.begin()

    def answer(self, given: Sequence[Given]) -> None:
        """Take answers; they are on disk when this returns."""
        with self.lock:
            self._unwritten += len(self.session.answer(given))
            if self._unwritten >= ANSWERS_PER_REFRESH:
                self._refresh()

    def undo(self, answer_id: str) -> Question | None:
        """Take an answer back; return its cell as a question."""
        with self.lock:
            self._unwritten += 1
            return self.session.undo(answer_id)

    def save(self) -> Path:
        """Write the table with the answers, as a whole."""
        with self.lock:
            write_dataset(self.session.merged(), self.output, images=self.images)
            self._unwritten = 0
        return self.output

    def close(self) -> None:
        """End what is being done, write the table and let go of the journal."""
        self.estimator.stop()
        try:
            self.save()
        finally:
            self.journal.close()

    def heatmap(self, row: int, label: str) -> bytes:
        """Return a photo with a label's heatmap over it, by the newest model that knows the label."""
        model = self.estimator.model
        if label not in model.labels:
            model = self.estimator.start
        with self._predicting:
            return self.pictures.heatmap(row, label, model)

    def progress(self) -> dict[str, Any]:
        """Return counts for people."""
        with self.lock:
            return self.session.progress()

    def facts(self) -> dict[str, Any]:
        """Return everything that the page shows beside questions."""
        with self.lock:
            counts = self.session.label_counts()
            progress = self.session.progress()
            labels = self.session.table.labels
            return {
                "view": "answer",
                "table": Path(self.session.table.source).name,
                "photos": len(self.session.table),
                "unreadable": int(self.session.unreadable.sum()),
                "labels": [{"name": n, **c} for n, c in zip(labels, counts, strict=True)],
                "output": str(self.output),
                "journal": str(self.journal.path),
                "progress": progress,
                "heatmaps": self.estimator.start.matching.has_evidence,
                **self.estimator.facts(),
            }

    def _refresh(self) -> None:
        """Calibrate anew and write the table; the answers are safe in the journal if that fails."""
        self._unwritten = 0
        if not self.estimator.is_busy:
            self.estimator.refresh()
        try:
            self.save()
        except TrmmlError as error:
            logger.warning("%s", error)


def require_inside(photos: Sequence[Path], folder: Path) -> None:
    """Check that photos are in a folder by their names; links that lie in it may lead out of it.

    Raises:
        DataError: If some are not; a stranger's table could name any file.
    """
    base = _absolute(folder)
    outside = [str(photo) for photo in photos if not _absolute(photo).is_relative_to(base)]
    if outside:
        raise DataError(
            f"{len(outside)} photos are outside the folder {folder} and are not shown: "
            f"{', '.join(outside[:5])}{' …' if len(outside) > 5 else ''}. Name the folder that "
            "holds all photos with --images."
        )


def _absolute(path: Path) -> Path:
    # `resolve` would follow the links, and keep what `..` means only as the disk sees it.
    return Path(os.path.normpath(path.absolute()))
