"""Tables in memory: a pandas DataFrame or a Hugging Face dataset, taken for what they can do."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trmml.data.readers.csv import IMAGE_COLUMNS, LIST_COLUMNS, Line, read_lines
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


def is_frame(table: Any) -> bool:
    """Say whether a value is a DataFrame or a Hugging Face dataset, without importing either."""
    return hasattr(table, "columns") or hasattr(table, "column_names")


def read_frame(table: Any, options: Options, form: str | None) -> Table:
    """Read columns as the columns of a CSV; lists of class labels as lists of positives."""
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
        return _listed(table, names, lists[0], features, options)
    # A class label is a number there; a negative one stands for a missing label.
    coded = {key for key in keys if hasattr(features.get(key), "names")}
    columns = [[_cell(value, key in coded) for value in table[key]] for key in keys]
    lines: list[Line] = [(0, names)]
    lines += [(i, list(cells)) for i, cells in enumerate(zip(*columns, strict=True), start=1)]
    return read_lines(lines, HERE, options, form)


def _is_list(values: Any) -> bool:
    """Say whether a column has lists: of Python, of numpy (from Parquet) or of arrow."""
    first = next((value for value in values if value is not None), None)
    return hasattr(first, "__iter__") and not isinstance(first, str | bytes | dict)


def _listed(table: Any, names: list[str], column: str, features: Any, options: Options) -> Table:
    refuse_encoding(options, HERE, "lists labels")
    unmentioned = unmentioned_state(options.unlabeled, HERE)
    image = next((name for name in names if name.lower() in IMAGE_COLUMNS), None)
    if image is None:
        raise DataError(f"{HERE} has no column for the photo; name it 'image'.")
    inner = getattr(features.get(column), "feature", None)
    known: list[str] = list(getattr(inner, "names", None) or ())
    rows, found = [], dict.fromkeys(known)
    splits = table[SPLIT_COLUMN] if SPLIT_COLUMN in names else itertools.repeat(None)
    if options.split is not None and SPLIT_COLUMN not in names:
        raise DataError(f"{HERE} has no column 'split'; leave out split={options.split!r}.")
    for number, (place, labels, split) in enumerate(
        zip(table[image], table[column], splits, strict=False), start=1
    ):
        if options.split not in (None, split):
            continue
        if not _is_list([labels]):
            if _cell(labels, is_class=False):
                raise DataError(f"{HERE}, row {number}: {labels!r} is not a list of labels.")
            rows.append(Row(number, _path(place, number), {}, UNKNOWN))
            continue
        # As alone in a cell, a class of -1 stands for a missing label: the list is not complete.
        is_missing = [bool(known) and label == UNKNOWN for label in labels]
        stated = [
            _class_name(label, known, number)
            for label, missing in zip(labels, is_missing, strict=True)
            if not missing
        ]
        rest = UNKNOWN if any(is_missing) else None
        found |= dict.fromkeys(stated)
        rows.append(Row(number, _path(place, number), dict.fromkeys(stated, POSITIVE), rest))
    meaning = f"Lists of positives; a label that is not listed is {options.unlabeled}."
    return Table(rows, list(found), meaning, unmentioned, unit="row")


def _class_name(label: Any, known: list[str], number: int) -> str:
    if not known:
        return str(label)
    if not 0 <= label < len(known):
        raise DataError(
            f"{HERE}, row {number}: there is no class {label}; they go from 0 to {len(known) - 1}."
        )
    return known[label]


def _cell(value: Any, is_class: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if is_class and value == UNKNOWN:
        return ""
    if isinstance(value, dict):
        return _path(value, 0)
    text = str(value)
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
