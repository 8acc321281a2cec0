"""Evaluation of a model on a labelled data set, counting known labels only."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8

from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import relative_name
from trmml.errors import DataError
from trmml.evaluation.metrics import F1, average_precisions, f1, top_k_mask
from trmml.evaluation.requirements import require_loaded, shared_labels, warn_if_learned_from
from trmml.files import write_text, writing_to
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN, known_mask
from trmml.matcher.model import TextRegionMatcher
from trmml.reports.columns import first_column
from trmml.reports.progress import followed


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """What was measured; all shares in [0, 1], NaN where a label cannot be scored.

    Attributes:
        labels: What was measured.
        average_precision: Non-interpolated AP of each.
        interpolated_average_precision: In the form of PASCAL VOC 2010.
        positives: Known positives of each.
        known: Known labels of each.
        at_half: F1 at a threshold of 0.5; like the two below NaN where no negative is known.
        at_thresholds: F1 at the model's own thresholds.
        at_top_3: F1 of the three best labels per photo.
        scores: Scores of every photo that could be read, and label.
        skipped: Why photos could not be read.
        readable: Positions of the photos of `scores` in the data set.
        unknown_to_model: Labels of the data set that the model lacks; they are not measured.
        not_in_data: Labels of the model that the data set lacks; they are not measured.
    """

    labels: tuple[str, ...]
    average_precision: Float[np.ndarray, " label"]
    interpolated_average_precision: Float[np.ndarray, " label"]
    positives: tuple[int, ...]
    known: tuple[int, ...]
    num_images: int
    at_half: F1
    at_thresholds: F1
    at_top_3: F1
    scores: Float32[np.ndarray, "image label"]
    skipped: tuple[str, ...] = ()
    readable: tuple[int, ...] = ()
    unknown_to_model: tuple[str, ...] = ()
    not_in_data: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return one line; `str` gives the table."""
        measured = f"{self.num_images} photos, {len(self.labels)} labels"
        return f"{type(self).__name__}({measured}, mAP {_per_cent(self.mean_average_precision).strip()})"

    @property
    def mean_average_precision(self) -> float:
        """Mean AP of the labels that could be scored; NaN if there is none."""
        return _mean(self.average_precision)

    @property
    def mean_interpolated_average_precision(self) -> float:
        """Mean of the interpolated AP; NaN if no label could be scored."""
        return _mean(self.interpolated_average_precision)

    @property
    def num_scored(self) -> int:
        """Labels with a known positive and a known negative."""
        return int((~np.isnan(self.average_precision)).sum())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; NaN becomes null."""
        rows = zip(
            self.labels,
            self.average_precision,
            self.interpolated_average_precision,
            self.positives,
            self.known,
            strict=True,
        )
        values: dict[str, Any] = {
            "images": self.num_images,
            "mAP": _plain(self.mean_average_precision),
            "mAP_interpolated": _plain(self.mean_interpolated_average_precision),
            "labels_scored": self.num_scored,
            "labels_left_out": len(self.labels) - self.num_scored,
            "labels_unknown_to_model": list(self.unknown_to_model),
            "labels_not_in_data": list(self.not_in_data),
        }
        return values | {
            "at_0.5": _plain_f1(self.at_half),
            "at_thresholds": _plain_f1(self.at_thresholds),
            "at_top_3": _plain_f1(self.at_top_3),
            "per_label": {
                name: {
                    "AP": _plain(ap),
                    "AP_interpolated": _plain(interpolated),
                    "known_positives": positives,
                    "known_labels": known,
                }
                for name, ap, interpolated, positives, known in rows
            },
            "skipped": len(self.skipped),
        }

    def __str__(self) -> str:
        """Return a table for people, in per cent."""
        head, *names = first_column("label", self.labels)
        lines = [f"{head}      AP  positives   known"]
        rows = zip(names, self.average_precision, self.positives, self.known, strict=True)
        for name, ap, positives, known in rows:
            lines.append(f"{name}  {_per_cent(ap)}  {positives:>9}  {known:>6}")
        left_out = (
            (len(self.labels) - self.num_scored, "left out: no known positive or negative"),
            (len(self.unknown_to_model), "of the data unknown to the model"),
            (len(self.not_in_data), "of the model not in the data"),
        )
        reasons = "; ".join(f"{count} {reason}" for count, reason in left_out if count)
        lines += [
            "",
            f"mAP {_per_cent(self.mean_average_precision).strip()} over {self.num_scored} labels"
            + (f" ({reasons})" if reasons else "")
            + f", {self.num_images} photos",
        ]
        for name, value in (
            ("0.5", self.at_half),
            ("thresholds", self.at_thresholds),
            ("top 3", self.at_top_3),
        ):
            lines.append(
                f"F1 at {name:<10}  CF1 {_per_cent(value.label_f1)}  "
                f"OF1 {_per_cent(value.overall_f1)}"
            )
        return "\n".join(lines)


def measure(
    scores: Float32[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    labels: tuple[str, ...],
    thresholds: Iterable[float],
    skipped: tuple[str, ...] = (),
    readable: tuple[int, ...] | None = None,
) -> Evaluation:
    """Compute all metrics from scores; unknown labels never count."""
    limits = np.array(tuple(thresholds), dtype=np.float32)
    # With positives alone nothing can be wrong, and every F1 would say so.
    both = bool((states == POSITIVE).any() and (states == NEGATIVE).any())

    def f1_of(predicted: Bool[np.ndarray, "image label"]) -> F1:
        return f1(predicted, states) if both else F1(*[math.nan] * len(F1._fields))

    return Evaluation(
        labels=labels,
        average_precision=average_precisions(scores, states),
        interpolated_average_precision=average_precisions(scores, states, interpolated=True),
        positives=tuple((states == POSITIVE).sum(axis=0).tolist()),
        known=tuple((states != UNKNOWN).sum(axis=0).tolist()),
        num_images=len(scores),
        at_half=f1_of(scores >= 0.5),
        at_thresholds=f1_of(scores >= limits),
        at_top_3=f1_of(top_k_mask(scores, 3)),
        scores=scores,
        skipped=skipped,
        readable=tuple(range(len(scores))) if readable is None else readable,
    )


def evaluate(
    model: TextRegionMatcher,
    dataset: MultiLabelDataset,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Evaluation:
    """Score every photo of a data set and measure against its known labels.

    It warns where these seem to be the photos that the model has learned from.

    Args:
        model: The model.
        dataset: Labels that it shares with the model are measured, and the result names the others.
            Labels of the model that it never names count where they are known to be negative.
        batch_size: Photos per pass through the model.
        progress: Whether to show how far it is.

    Raises:
        DataError: If the data set shares no label with the model, has no known label or no readable
            photo.
        ConfigError: If the model is a name.

    Example:
        >>> model = trmml.load_model("runs/shop")
        >>> print(trmml.evaluate(model, trmml.read_dataset("test.csv", images="photos/")))
    """
    require_loaded(model)
    if not isinstance(dataset, MultiLabelDataset):
        raise DataError(f"Read the table first: trmml.read_dataset({str(dataset)!r}, images=…).")
    shared = shared_labels(dataset, model.labels)
    dataset = shared.dataset
    if not known_mask(dataset.states).any():
        raise DataError(f"{dataset.source} has no known label to evaluate against.")
    warn_if_learned_from(model, dataset)
    columns = [model.labels.index(name) for name in dataset.labels]
    rows, readable, skipped = [], [], []
    predictions = model.predict_many(dataset.photos, batch_size=batch_size)
    counted = followed(predictions, "evaluate", len(dataset), show=progress)
    for position, prediction in enumerate(counted):
        if prediction.error is not None:
            skipped.append(prediction.error)
            continue
        readable.append(position)
        rows.append(prediction.scores[columns])
    if not rows:
        raise DataError(f"No photo of {dataset.source} can be read: {skipped[0]}")
    thresholds = [model.calibration.thresholds[column] for column in columns]
    states = dataset.states[readable]
    names, reasons = dataset.labels, tuple(skipped)
    found = measure(np.stack(rows), states, names, thresholds, reasons, tuple(readable))
    return replace(found, unknown_to_model=shared.unknown_to_model, not_in_data=shared.not_in_data)


def dump_scores(
    evaluation: Evaluation, dataset: MultiLabelDataset, path: Path, images: Path
) -> None:
    """Write a CSV row per readable photo: path, then a score and a state (1, 0, blank) per label.

    Args:
        evaluation: What was measured.
        dataset: On which photos.
        path: The file.
        images: Folder that photos are named from, as in the table.

    Raises:
        OutputError: If the file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = evaluation.labels
    dataset = dataset.naming(names).with_labels(names)
    writer.writerow(["image", *(f"score:{n}" for n in names), *(f"label:{n}" for n in names)])
    for position, scores in zip(evaluation.readable, evaluation.scores, strict=True):
        cells = ["" if state == UNKNOWN else int(state) for state in dataset.states[position]]
        writer.writerow(
            [
                relative_name(dataset.photos[position], images),
                *(f"{score:.9g}" for score in scores),
                *cells,
            ]
        )
    with writing_to(path):
        write_text(path, buffer.getvalue())


def _mean(values: np.ndarray) -> float:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else float("nan")


def _per_cent(value: float) -> str:
    return "   –  " if math.isnan(value) else f"{100 * value:6.2f}"


def _plain_f1(values: F1) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in values._asdict().items()}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
