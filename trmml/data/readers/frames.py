"""Tables in memory: a pandas DataFrame or a Hugging Face dataset, taken for what they can do."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trmml.data.readers.csv import read_lines
from trmml.data.readers.embedded import place_of
from trmml.data.readers.forms import Line
from trmml.data.readers.rows import (
    MAX_NAMED,
    SPLIT_COLUMN,
    Options,
    Row,
    Table,
    refuse_encoding,
    unmentioned_state,
)
from trmml.data.readers.sides import image_column, may_be_split, split_names
from trmml.data.readers.vectors import VECTOR_COLUMNS
from trmml.errors import DataError
from trmml.labels import POSITIVE, UNKNOWN

_STATES = {
    **dict.fromkeys(("1", "yes", "true", "present", "positive"), "1"),
    **dict.fromkeys(("0", "no", "false", "absent", "negative"), "0"),
    **dict.fromkeys(
        ("", "unknown", "unlabeled", "uncertain", "unsure", "not mentioned", "missing"), ""
    ),
}
"""Names of classes that say what a label is, and the cell that says the same in a CSV."""

HERE = Path("the table")
"""What a table in memory is called in messages."""


def is_frame(table: Any) -> bool:
    """Say whether a value is a DataFrame or a Hugging Face dataset, without importing either."""
    return hasattr(table, "columns") or hasattr(table, "column_names")


def read_frame(table: Any, options: Options, form: str | None, path: Path = HERE) -> Table:
    """Read columns as the columns of a CSV; lists of class labels as lists of positives.

    Raises:
        DataError: With the row of what cannot be used.
    """
    table, options = _one_split(table, options)
    # A DataFrame has its columns as attributes, too, so that the names alone say nothing.
    named = getattr(table, "column_names", None)
    keys = list(named if isinstance(named, list) else table.columns)
    names = [str(key) for key in keys]  # pandas also has numbers
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"{path} has the column {repeated!r} more than once.")
    features = getattr(table, "features", None)
    features = features if isinstance(features, Mapping) else {}
    table = _undecoded(table, names, features)
    columns = {str(key): _values(table[key]) for key in keys}
    found = _column_of_names(columns, features, options)
    if found is None:
        lines, notes = _lines(columns, features)
        table = read_lines(lines, path, options, form)
        return replace(table, interpretation=" ".join([table.interpretation, *notes]))
    if form not in (None, "list"):
        raise DataError(f"{path} has lists of labels in {found!r}; it is not {form}.")
    return _read_lists(columns, found, _classes(features.get(found)), options, path)


def _one_split(table: Any, options: Options) -> tuple[Any, Options]:
    """Return the one split of a Hugging Face `DatasetDict` that is asked for; a data set as it is."""
    if isinstance(table, Mapping):
        if options.split not in table:
            raise DataError(
                f"{HERE} is several, of the splits {', '.join(map(str, table))}; pass one of them, as "
                f"dataset[{next(iter(table), 'train')!r}], or name it with `split`."
            )
        return table[options.split], replace(options, split=None)
    if not hasattr(table, "__getitem__"):
        raise DataError(f"{HERE} comes as a stream; load it without `streaming=True`.")
    return table, options


def _undecoded(table: Any, names: list[str], features: Mapping[Any, Any]) -> Any:
    """Return a Hugging Face dataset whose photos stay as they are stored: nothing here looks at them."""
    for name in names:
        feature = features.get(name)
        if image_column([name]) is not None and getattr(feature, "decode", False):
            kind: Any = type(feature)
            table = table.cast_column(name, kind(decode=False))
    return table


def _values(column: Any) -> list[Any]:
    """Return the values of a column as Python has them: also those of arrow, NumPy and torch."""
    if hasattr(column, "to_pylist"):
        return column.to_pylist()
    return [_plain(value) for value in column]


def _plain(value: Any) -> Any:
    if hasattr(value, "as_py"):
        return value.as_py()
    # An array of more dimensions is a photo, which is named as such where it cannot be used.
    is_array = hasattr(value, "tolist") and getattr(value, "ndim", 2) < 2
    return value.tolist() if is_array else value


def _column_of_names(
    columns: dict[str, list[Any]], features: Mapping[Any, Any], options: Options
) -> str | None:
    """Return the column that lists the positives of a photo, or names its one class, if there is one."""
    for name, values in columns.items():
        if name.lower() not in VECTOR_COLUMNS:
            continue
        classes = _classes(features.get(name))
        if _is_list(values) and (classes or not _is_vector(values, options)):
            return name
        is_state = all(one.lower() in _STATES for one in classes)
        if classes and not is_state and name not in (options.labels or ()):
            return name
    return None


def _is_vector(values: list[Any], options: Options) -> bool:
    """Say whether lists hold numbers that are states of labels, and not numbers of classes."""
    lists = [value for value in values if _is_list([value])]
    numbers = [number for one in lists for number in one if not _is_missing(number)]
    if not numbers or not all(isinstance(number, int | float) for number in numbers):
        return False
    if any(isinstance(number, bool | float) for number in numbers):
        return True
    if len({len(one) for one in lists}) > 1 or not {-1, 0, 1}.issuperset(numbers):
        return False
    # Classes are listed once each; where that does not tell, names that are no numbers do.
    names = options.labels or ()
    are_numbers = bool(names) and all(name.isdigit() for name in names)
    return any(len(one) > len(set(one)) for one in lists) or not are_numbers


def _classes(feature: Any) -> list[str]:
    """Return the names of the classes of a column, or of what its lists hold."""
    return list(getattr(getattr(feature, "feature", feature), "names", None) or ())


def _lines(
    columns: dict[str, list[Any]], features: Mapping[Any, Any]
) -> tuple[list[Line], list[str]]:
    """Return header and rows as the texts that a CSV would have, and how classes were understood."""
    cells, notes = [], []
    for name, values in columns.items():
        classes = _classes(features.get(name))
        states = _states_of_classes(name, classes) if classes else None
        # Of two classes that are no words for states the first is no and the second yes.
        if states is None and len(classes) == 2:
            states = ["0", "1"]
            notes.append(
                f"In {name!r} the class {classes[1]!r} is positive, {classes[0]!r} negative."
            )
        cells.append([_cell(value, states or classes or None) for value in values])
    lines: list[Line] = [(0, list(columns))]
    lines += [(i, list(row)) for i, row in enumerate(zip(*cells, strict=True), start=1)]
    return lines, notes


def _states_of_classes(name: str, classes: list[str]) -> list[str] | None:
    """Return the cell that each class of a column stands for; None if they are no states of a label.

    CheXpert's columns, for instance, have the classes unlabeled, uncertain, absent and present.
    """
    words = _STATES | {name.lower(): "1"}
    words |= {f"{no}{mark}{name.lower()}": "0" for no in ("no", "not", "non") for mark in " _-"}
    cells = [words.get(one.strip().lower()) for one in classes]
    return None if None in cells else [cell or "" for cell in cells]


def _is_list(values: Any) -> bool:
    """Say whether a column has lists: of Python, of numpy (from Parquet) or of arrow."""
    first = next((value for value in values if value is not None), None)
    return hasattr(first, "__iter__") and not isinstance(first, str | bytes | dict)


def _read_lists(
    columns: dict[str, list[Any]], column: str, classes: list[str], options: Options, path: Path
) -> Table:
    """Read a column of positives: lists of names or of numbers of classes, or one class each.

    Args:
        columns: The values of each column.
        column: The one with the labels.
        classes: Names of the classes, if they are there by their numbers.
        options: How to read.
        path: The table, for messages.
    """
    refuse_encoding(options, path, "lists labels")
    unmentioned = unmentioned_state(options.unlabeled, path)
    position = image_column(list(columns))
    if position is None:
        raise DataError(f"{path} has no column for the photo; name it 'image'.")
    image = list(columns)[position]
    split, splits = _splits(columns)
    if options.split is not None and split is None:
        raise DataError(f"{path} has no column 'split'; leave out split={options.split!r}.")
    are_lists = _is_list(columns[column])
    rows, found = [], dict.fromkeys(classes)
    records = zip(columns[image], columns[column], splits, strict=True)
    for number, (place, value, part) in enumerate(records, start=1):
        is_wanted = options.split in (None, part)
        labels = value if are_lists or _is_missing(value) else [value]
        row = _row(place if is_wanted else "", labels, classes, f"{path}, row {number}", number)
        found |= dict.fromkeys(row.states)  # as in a file, every split has the labels of all
        rows += [row] if is_wanted else []
    what = "Lists of positives" if are_lists else f"One class in {column!r} for each photo"
    meaning = f"{what}; a label that is not listed is {options.unlabeled}."
    if split is not None and options.split is None:
        counts = ", ".join(f"{n or 'blank'} {c}" for n, c in sorted(Counter(splits).items()))
        meaning += f" All rows are taken, whatever their column {split!r} says ({counts})."
    left_out = [repr(name) for name in columns if name not in (image, column, split)]
    if left_out:
        meaning += f" Columns left out: {', '.join(left_out[:MAX_NAMED])}."
    return Table(rows, list(found), meaning, unmentioned, "row", bool(classes))


def _splits(columns: dict[str, list[Any]]) -> tuple[str | None, list[str]]:
    """Return the column that says which split a row is of, if there is one, and the splits."""
    for name in sorted(columns, key=lambda name: name != SPLIT_COLUMN):
        if may_be_split(name):
            splits = split_names(name, [_cell(value, None) for value in columns[name]])
            if splits is not None:
                return name, splits
    return None, [""] * len(next(iter(columns.values())))


def _row(place: Any, labels: Any, classes: list[str], where: str, number: int) -> Row:
    """Return what a list states; where it, or a label of it, is missing, the rest is unknown."""
    if not _is_list([labels]):
        if not _is_missing(labels):
            raise DataError(f"{where}: {labels!r} is not a list of labels.")
        return Row(number, _path(place, where), {}, UNKNOWN)
    # As alone in a cell, a class of -1 stands for a missing label: the list is not complete.
    present = [
        label for label in labels if not _is_missing(label) and not (classes and label == UNKNOWN)
    ]
    stated = [_class_name(label, classes, where) for label in present]
    rest = UNKNOWN if len(present) < len(labels) else None
    return Row(number, _path(place, where), dict.fromkeys(stated, POSITIVE), rest)


def _class_name(label: Any, classes: list[str], where: str) -> str:
    if not classes or isinstance(label, str):
        return str(label)
    if not 0 <= label < len(classes):
        raise DataError(
            f"{where}: there is no class {label}; they go from 0 to {len(classes) - 1}."
        )
    return classes[label]


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)
    # Of pandas, whose classes are not imported here.
    return value is None or is_nan or str(value) in ("<NA>", "NaT")


def _cell(value: Any, states: list[str] | None) -> str:
    """Return the text of a value in a CSV; a blank for whatever stands for "missing".

    Args:
        value: What the column holds.
        states: The text for each class, in a column of their numbers; −1 is missing.
    """
    if isinstance(value, list | tuple | set):
        return f"[{', '.join(_cell(one, None) or 'nan' for one in value)}]"
    if _is_missing(value):
        return ""
    if isinstance(value, dict):
        return _path(value, str(HERE))
    if states is not None and isinstance(value, int) and value < len(states):
        return "" if value == UNKNOWN else states[value]
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return {"True": "1", "False": "0"}.get(text, text)


def _path(value: Any, where: str) -> str:
    """Return where a photo lies: a path, or what a Hugging Face dataset says without decoding."""
    place = place_of(value) if isinstance(value, dict) else value
    if isinstance(place, int | float) and not isinstance(place, bool) and place == place:
        place = f"{place:.0f}" if float(place).is_integer() else str(place)
    if not isinstance(place, str | Path):
        raise DataError(
            f"{where}: the photo is a {type(value).__name__}, not a path. For a Hugging "
            'Face dataset use cast_column("image", Image(decode=False)).'
        )
    return str(place)
