"""Tables in memory: a pandas DataFrame or a Hugging Face dataset, taken for what they can do."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trmml.data.readers.csv import IMAGE_COLUMNS, read_lines
from trmml.data.readers.forms import LIST_COLUMNS, Line
from trmml.data.readers.rows import (
    SPLIT_COLUMN,
    Options,
    Row,
    Table,
    refuse_encoding,
    unmentioned_state,
)
from trmml.errors import DataError
from trmml.labels import POSITIVE, UNKNOWN

HERE = Path("the table")
"""What a table in memory is called in messages."""


def is_frame(table: Any) -> bool:
    """Say whether a value is a DataFrame or a Hugging Face dataset, without importing either."""
    return hasattr(table, "columns") or hasattr(table, "column_names")


def read_frame(table: Any, options: Options, form: str | None) -> Table:
    """Read columns as the columns of a CSV; lists of class labels as lists of positives.

    Raises:
        DataError: With the row of what cannot be used.
    """
    # A DataFrame has its columns as attributes, too, so that the names alone say nothing.
    named = getattr(table, "column_names", None)
    keys = list(named if isinstance(named, list) else table.columns)
    names = [str(key) for key in keys]  # pandas also has numbers
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"{HERE} has the column {repeated!r} more than once.")
    features = getattr(table, "features", None)
    features = features if isinstance(features, Mapping) else {}
    lists = [name for name in names if name.lower() in LIST_COLUMNS and _is_list(table[name])]
    if lists:
        if form not in (None, "list"):
            raise DataError(f"{HERE} has lists of labels in {lists[0]!r}; it is not {form}.")
        inner = getattr(features.get(lists[0]), "feature", None)
        classes: list[str] = list(getattr(inner, "names", None) or ())
        return _read_lists(table, names, lists[0], classes, options)
    return read_lines(_lines(table, keys, features), HERE, options, form)


def _lines(table: Any, keys: list[Any], features: Mapping[Any, Any]) -> list[Line]:
    """Return header and rows as the texts that a CSV would have."""
    # A class label is a number there; a negative one stands for a missing label.
    coded = {key for key in keys if hasattr(features.get(key), "names")}
    columns = [[_cell(value, key in coded) for value in table[key]] for key in keys]
    lines: list[Line] = [(0, [str(key) for key in keys])]
    return lines + [(i, list(row)) for i, row in enumerate(zip(*columns, strict=True), start=1)]


def _is_list(values: Any) -> bool:
    """Say whether a column has lists: of Python, of numpy (from Parquet) or of arrow."""
    first = next((value for value in values if value is not None), None)
    return hasattr(first, "__iter__") and not isinstance(first, str | bytes | dict)


def _read_lists(
    table: Any, names: list[str], column: str, classes: list[str], options: Options
) -> Table:
    """Read a column of lists of positives, of names or of numbers of classes.

    Args:
        table: The table.
        names: Of its columns.
        column: The one with the lists.
        classes: Names of the classes, if the lists hold their numbers.
        options: How to read.
    """
    refuse_encoding(options, HERE, "lists labels")
    unmentioned = unmentioned_state(options.unlabeled, HERE)
    image = next((name for name in names if name.lower() in IMAGE_COLUMNS), None)
    if image is None:
        raise DataError(f"{HERE} has no column for the photo; name it 'image'.")
    if options.split is not None and SPLIT_COLUMN not in names:
        raise DataError(f"{HERE} has no column 'split'; leave out split={options.split!r}.")
    splits = table[SPLIT_COLUMN] if SPLIT_COLUMN in names else itertools.repeat(None)
    rows, found = [], dict.fromkeys(classes)
    # Not strict: without a column of splits, theirs go on for ever.
    records = zip(table[image], table[column], splits, strict=False)
    for number, (place, labels, split) in enumerate(records, start=1):
        if options.split in (None, split):
            row = _row(place, labels, classes, number)
            found |= dict.fromkeys(row.states)
            rows.append(row)
    meaning = f"Lists of positives; a label that is not listed is {options.unlabeled}."
    return Table(rows, list(found), meaning, unmentioned, unit="row")


def _row(place: Any, labels: Any, classes: list[str], number: int) -> Row:
    """Return what a list states; where it, or a label of it, is missing, the rest is unknown."""
    if not _is_list([labels]):
        if _cell(labels, is_class=False):
            raise DataError(f"{HERE}, row {number}: {labels!r} is not a list of labels.")
        return Row(number, _path(place, number), {}, UNKNOWN)
    # As alone in a cell, a class of -1 stands for a missing label: the list is not complete.
    present = [label for label in labels if not (classes and label == UNKNOWN)]
    stated = [_class_name(label, classes, number) for label in present]
    rest = UNKNOWN if len(present) < len(labels) else None
    return Row(number, _path(place, number), dict.fromkeys(stated, POSITIVE), rest)


def _class_name(label: Any, classes: list[str], number: int) -> str:
    if not classes:
        return str(label)
    if not 0 <= label < len(classes):
        raise DataError(
            f"{HERE}, row {number}: there is no class {label}; they go from 0 to {len(classes) - 1}."
        )
    return classes[label]


def _cell(value: Any, is_class: bool) -> str:
    """Return the text of a value in a CSV; a blank for whatever stands for "missing"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if is_class and value == UNKNOWN:
        return ""
    if isinstance(value, dict):
        return _path(value, 0)
    text = str(value)
    # Of pandas' missing value and numpy's booleans, whose classes are not imported here.
    return {"<NA>": "", "True": "1", "False": "0"}.get(text, text)


def _path(value: Any, number: int) -> str:
    """Return where a photo lies: a path, or what a Hugging Face dataset says without decoding."""
    place = value.get("path") if isinstance(value, dict) else value
    if not isinstance(place, str | Path):
        raise DataError(
            f"{HERE}, row {number}: the photo is a {type(value).__name__}, not a path. For a Hugging "
            'Face dataset use cast_column("image", Image(decode=False)), and save photos that are '
            "kept inside of it to files."
        )
    return str(place)
