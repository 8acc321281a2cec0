"""Readers of label tables, all into one data set.

A blank is never guessed: in a wide table it is unknown, and a format that lists positives alone is
read only when `unlabeled` says what a label that is not listed means.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Int8

from trmml.data.dataset import MultiLabelDataset
from trmml.data.finding import system_note
from trmml.data.readers.csv import read_csv
from trmml.data.readers.folders import read_folder, read_photos
from trmml.data.readers.frames import HERE, is_frame, read_frame
from trmml.data.readers.joining import merge_duplicates
from trmml.data.readers.json import read_json, read_jsonl
from trmml.data.readers.libraries import read_library
from trmml.data.readers.records import Records, are_records, refuse_no_table
from trmml.data.readers.rows import (
    Hierarchy,
    Options,
    Row,
    Table,
    TableFormat,
    Unlabeled,
    with_notes,
    with_one_spelling,
)
from trmml.data.readers.spreadsheets import PARQUET, WORKBOOKS, read_parquet, read_workbook
from trmml.data.readers.text import read_text
from trmml.data.spelling import spelled
from trmml.errors import ConfigError, DataError, nearest, refuse_text
from trmml.files import is_folder, with_home
from trmml.labels import UNKNOWN


def read_dataset(
    table: Any,
    *,
    images: str | Path | None = None,
    labels: Sequence[str] | None = None,
    label_encoding: str | None = None,
    unlabeled: Unlabeled | None = None,
    split: str | None = None,
    separator: str | None = None,
    format: str | None = None,
    hierarchy: Hierarchy = "last",
    leave_out: Sequence[str] = (),
    may_lack_labels: bool = False,
) -> MultiLabelDataset:
    """Read photos and their partly known labels.

    The format is told by the content, and `summary()` says which it was:

    * `wide`: CSV with `image`, then a column per label with `1`, `0` or blank;
    * `list`: CSV with `image` and `labels`, as `a|b|c`;
    * `long`: CSV with a row per photo and label (`ImageID,Source,LabelName,Confidence`);
    * `chexpert`: CheXpert's CSV;
    * `jsonl`: a line `{"image": …, "positive": […], "negative": […]}` per photo;
    * rows in a workbook (`.xlsx`), in Parquet, or as records in JSON or JSONL, like those of a CSV;
    * `coco`: COCO's or LVIS's JSON; `label-studio`: its JSON or JSON_MIN export;
    * `voc`: a folder with VOC's `Annotations`; `folders`: `label/photo.jpg`;
    * `keywords`: a folder of photos with the keywords that photo programs keep in them, or in XMP
      files beside them; never a guess. Keywords that `trmml tag` wrote do not count;
    * `photos`: a folder of photos of which nothing is known, with `labels`; never a guess.

    Args:
        table: A file, a folder, a pandas DataFrame, a Hugging Face dataset or a list of dicts.
        images: Folder that photo paths are relative to; the table's own folder is tried next.
        labels: Labels to read, in this order; all by default.
        label_encoding: How the cells of a wide CSV are written: `1/0/blank` by default, `1/-1/0`,
            `1/0/-1` (positive/negative/unknown) or `chexpert`.
        unlabeled: What a label means that a format which lists positives leaves out; required there.
        split: Read only rows with this text in the column `split`; for VOC, the name of an image set.
        separator: Between the labels in one cell of a list CSV; `|` by default.
        format: One of the names above, instead of a guess.
        hierarchy: Of keywords as `animals|dog`: whether the `last` part is the label, or the `path`.
        leave_out: Keywords that become no labels, in any case: `People`, `2019 Rome`, `animals|wild`.
            What is below one, or beside it to repeat a part of it, goes with it. `@people` stands for
            what a photo's fields of persons and faces name, `@places` for its fields of places.
        may_lack_labels: Whether `labels` that the table does not have are unknown in all of it, as in
            a table of validation photos; by default they are an error.

    Returns:
        The data set; its `summary()` says what was understood.

    Raises:
        DataError: For a table or photo that cannot be used, with file, line and column.
        ConfigError: If an argument has another form, or goes with another format.

    Example:
        >>> dataset = trmml.read_dataset("labels.csv", images="photos/")
        >>> print(dataset.summary())
    """
    refuse_text(labels, "labels")
    refuse_text(leave_out, "leave_out")
    if format != "keywords" and (hierarchy != "last" or len(leave_out) > 0):
        raise ConfigError(
            "hierarchy and leave_out go with format='keywords' (--table-format). Of another table, name "
            "the labels to use with `labels` (--labels a,b,c or --labels labels.txt)."
        )
    if hierarchy not in get_args(Hierarchy):
        raise ConfigError(f"hierarchy must be 'last' or 'path', got {hierarchy!r}.")
    wanted = None if labels is None else tuple(labels)
    asked = wanted and tuple(map(spelled, wanted))
    ways = (hierarchy, tuple(leave_out))
    options = Options(asked, label_encoding, unlabeled, split, separator, *ways)
    if are_records(table):
        table = Records(table)
    elif not is_frame(table):
        refuse_no_table(table)
    path = HERE if is_frame(table) else with_home(table)
    parsed = _parsed(table, path, options, format)
    names = _names(parsed, asked, path, may_lack_labels)
    rows, photos, note = merge_duplicates(
        parsed, path, None if images is None else with_home(images)
    )
    return MultiLabelDataset(
        photos=tuple(photos),
        states=_states(rows, parsed, names),
        labels=names if wanted is None else wanted,  # as a model spells them, for instance
        source=str(path),
        interpretation=f"{parsed.interpretation} {note}".strip(),
        rest=_rest(rows, parsed) if wanted is None else None,
    )


def _parsed(table: Any, path: Path, options: Options, form: str | None) -> Table:
    """Return what a table of any form states, with one spelling for each label."""
    if form is not None and form not in get_args(TableFormat):
        raise DataError(f"No format {form!r}. {nearest(form, get_args(TableFormat))}")
    found = read_frame(table, options, form) if is_frame(table) else _read(path, options, form)
    _require_rows(found, path, options.split)
    return with_one_spelling(found, path)


def _require_rows(parsed: Table, path: Path, split: str | None) -> None:
    if not parsed.rows:
        which = f" with split {split!r}" if split else ""
        raise DataError(f"{path} has no rows{which}; a table needs at least one photo.")


def _names(
    parsed: Table, wanted: tuple[str, ...] | None, path: Path, may_lack_labels: bool
) -> tuple[str, ...]:
    """Return the labels to read: those wanted, or else all of the table."""
    names = tuple(parsed.labels) if wanted is None else wanted
    if not names:
        raise DataError(f"{path} names no label; a wide table has one column per label.")
    lacking = [name for name in names if name not in parsed.labels]
    if lacking and not may_lack_labels:
        raise DataError(f"{path} has no label {lacking[0]!r}. {nearest(lacking[0], parsed.labels)}")
    return names


def _states(
    rows: Sequence[Row], parsed: Table, names: tuple[str, ...]
) -> Int8[np.ndarray, "image label"]:
    """Return the state of each label, for those that a row mentions and for all others."""
    states = np.full((len(rows), len(names)), parsed.unmentioned, dtype=np.int8)
    column = {name: i for i, name in enumerate(names)}
    for cells, row in zip(states, rows, strict=True):
        if row.unmentioned is not None:
            cells[:] = row.unmentioned
        for name, state in row.states.items():
            if name in column:
                cells[column[name]] = state
    if parsed.has_all_labels:
        # Nobody looked for what the table has no place for, even if its blanks are negative.
        states[:, [column[name] for name in set(names) - set(parsed.labels)]] = UNKNOWN
    return states


def _rest(rows: Sequence[Row], parsed: Table) -> Int8[np.ndarray, " image"] | None:
    """Return what is known in each photo of labels that the table never names; None if nothing is."""
    if parsed.has_all_labels or parsed.unmentioned == UNKNOWN:
        return None
    rest = [parsed.unmentioned if row.unmentioned is None else row.unmentioned for row in rows]
    return np.array(rest, dtype=np.int8)


def _read(path: Path, options: Options, form: str | None) -> Table:
    if is_folder(path):
        if form == "keywords":
            return read_library(path, options)
        if form == "photos":
            return with_notes(read_photos(path, options), system_note(path))
        if form not in (None, "voc", "folders"):
            raise DataError(f"{path} is a folder; format={form!r} is for a file.")
        return with_notes(read_folder(path, options, form), system_note(path))
    if form in ("voc", "folders", "keywords", "photos"):
        raise DataError(f"format={form!r} is for a folder, and {path} is a file.")
    suffix = path.suffix.lower()
    if suffix in WORKBOOKS:
        return read_workbook(path, options, form)
    if suffix in PARQUET:
        return read_parquet(path, options, form)
    text, note = read_text(path)
    if form == "jsonl" or (form is None and suffix in (".jsonl", ".ndjson")):
        return with_notes(read_jsonl(text, path, options), note)
    if form in ("coco", "label-studio") or suffix == ".json":
        return with_notes(read_json(text, path, options, form), note)
    return with_notes(read_csv(text, path, options, form), note)
