"""Label tables in CSV: wide, list, long, and CheXpert's."""

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from trmml.data.readers.rows import (
    SPLIT_COLUMN,
    Options,
    Row,
    Table,
    refuse_encoding,
    unmentioned_state,
)
from trmml.errors import DataError, nearest
from trmml.labels import (
    DEFAULT_ENCODING,
    LABEL_ENCODINGS,
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    encoding_named,
)

IMAGE_COLUMNS = (
    *("image", "filename", "file_name", "file", "path", "photo", "image_path"),
    *("imageid", "image_id", "fname"),
)
LIST_COLUMNS = ("labels", "tags")
LABEL_COLUMNS = ("label", "labelname", "category", "class", "tag")
VALUE_COLUMNS = ("confidence", "value", "present", "state")
CHEXPERT_FACTS = ("sex", "age", "frontal/lateral", "ap/pa")
SEPARATOR = "|"

Line = tuple[int, list[str]]


@dataclass(frozen=True)
class _Columns:
    """Names of the columns, and where photo and labels are."""

    header: list[str]
    image: int
    others: list[int]


def read_csv(text: str, path: Path, options: Options, form: str | None) -> Table:
    """Read a CSV of any form; `form` says which, else its columns do."""
    named = re.match(r"sep=(.)\r?\n", text)  # Excel's word on its own files
    delimiter = named[1] if named else max(",;\t", key=lambda mark: _has_image_column(text, mark))
    lines = _csv_lines(text, path, delimiter)
    return read_lines(lines[1:] if named else lines, path, options, form)


def read_lines(lines: list[Line], path: Path, options: Options, form: str | None) -> Table:
    """Read a header and rows of cells.

    Args:
        lines: The header first; each with its line number.
        path: For messages.
        options: How to read.
        form: `wide`, `list`, `long` or `chexpert`; told by the columns if None.
    """
    split = options.split
    header = [name.strip() for name in lines[0][1]]
    image_at = _image_column(header, path)
    split_at = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
    if split is not None and split_at is None:
        raise DataError(f"{path} has no column 'split' to choose {split!r} from.")
    all_rows = [(line, cells) for line, cells in lines[1:] if any(cell.strip() for cell in cells)]
    for line, cells in all_rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line} has {len(cells)} cells, the header has {len(header)}."
            )
    rows = all_rows
    if split is not None and split_at is not None:
        rows = [(line, cells) for line, cells in all_rows if cells[split_at].strip() == split]
        if not rows:
            found = sorted({cells[split_at].strip() for _, cells in all_rows})
            raise DataError(f"{path} has no row with split {split!r}. {nearest(split, found)}")
    others = [i for i in range(len(header)) if i not in (image_at, split_at)]
    columns = _Columns(header, image_at, others)
    form = form or guessed_form(header, others, all_rows, options)
    reader = {"wide": _wide, "list": _list, "long": _long, "chexpert": _chexpert}[form]
    table = reader(rows, all_rows, columns, path, options)
    if split is None and split_at is not None:
        parts = Counter(cells[split_at].strip() or "blank" for _, cells in all_rows)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(parts.items()))
        note = f"All rows are taken, whatever their column 'split' says ({counts})."
        return replace(table, interpretation=f"{table.interpretation} {note}")
    return table


def guessed_form(header: list[str], others: list[int], rows: list[Line], options: Options) -> str:
    """Tell the form by the names and cells of the columns other than photo and split."""
    lowered = {i: header[i].lower() for i in others}
    if "frontal/lateral" in lowered.values():
        return "chexpert"
    is_only = len(others) == 1

    def holds_names(column: int) -> bool:
        # 0 and 1 state a label of the column's name, unless `unlabeled` says that they are names.
        return (is_only and options.unlabeled is not None) or not _states_labels(rows, column)

    lists = [i for i in others if lowered[i] in LIST_COLUMNS and holds_names(i)]
    are_columns = any(name in header for name in options.labels or ())
    if len(lists) == 1 and (is_only or not are_columns):
        return "list"
    names = [i for i in others if lowered[i] in LABEL_COLUMNS]
    has_values = any(name in VALUE_COLUMNS for name in lowered.values())
    if len(names) == 1 and (has_values or (is_only and holds_names(names[0]))):
        return "long"
    return "wide"


def _states_labels(rows: list[Line], column: int) -> bool:
    return all(cells[column].strip().lower() in LABEL_ENCODINGS["1/0/-1"] for _, cells in rows)


def _has_image_column(text: str, delimiter: str) -> bool:
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:
        return False
    return len(names) > 1 and any(name.strip().lower() in IMAGE_COLUMNS for name in names)


def _csv_lines(text: str, path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the rows, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines = []
    try:
        for row in reader:
            lines.append((reader.line_num, row))
    except csv.Error as error:
        # An open quote swallows the rest of the file: what helps is where its row starts.
        start = lines[-1][0] + 1 if lines else 1
        raise DataError(
            f"{path}: the row that starts at line {start} is not CSV: {error}; check its quotes."
        ) from error
    return lines


def _image_column(header: list[str], path: Path) -> int:
    lowered = [name.lower() for name in header]
    found = [i for i, name in enumerate(lowered) if name in IMAGE_COLUMNS]
    if not found:
        raise DataError(
            f"{path} has no column for the photo; name it 'image'. Its columns are "
            f"{', '.join(repr(name) for name in header[:8])}."
        )
    repeated = sorted(name for name, count in Counter(header).items() if count > 1 and name)
    if repeated:
        raise DataError(f"{path} has the column {repeated[0]!r} more than once.")
    if "" in header:
        raise DataError(
            f"{path}, column {header.index('') + 1} has no name; name it or remove it. (Pandas "
            "writes its index there, unless told `index=False`.)"
        )
    return next(lowered.index(name) for name in IMAGE_COLUMNS if name in lowered)


def _wide(
    rows: list[Line], all_rows: list[Line], columns: _Columns, path: Path, options: Options
) -> Table:
    if options.unlabeled is not None:
        raise DataError(
            f"{path} is a wide table, in which blanks are unknown; `unlabeled` does not apply."
        )
    header, label_encoding = columns.header, options.label_encoding
    label_columns = columns.others
    chosen = [i for i in label_columns if options.labels is None or header[i] in options.labels]
    encoding_name = label_encoding or DEFAULT_ENCODING
    encoding = encoding_named(encoding_name)
    parsed = []
    for line, cells in rows:
        states = {}
        for i in chosen:
            state = encoding.get(cells[i].strip().lower())
            if state is None:
                raise _bad_cell(path, line, header[i], cells[i].strip(), label_encoding, rows, i)
            if state != UNKNOWN:
                states[header[i]] = state
        parsed.append(Row(line, cells[columns.image].strip(), states))
    meaning = f"Wide table, cells as {encoding_name} (positive/negative/unknown); blank is unknown."
    return Table(parsed, [header[i] for i in label_columns], meaning)


def _bad_cell(
    path: Path,
    line: int,
    column: str,
    cell: str,
    label_encoding: str | None,
    rows: list[tuple[int, list[str]]],
    column_at: int,
) -> DataError:
    place = f"{path}, line {line}, column {column!r}"
    if cell in ("-1", "-1.0") and label_encoding is None:
        count = sum(cells[column_at].strip() in ("-1", "-1.0") for _, cells in rows)
        return DataError(
            f"{place}: -1 ({count} times in this column) can mean negative or unknown; say which "
            f"with --label-encoding or label_encoding: {', '.join(LABEL_ENCODINGS)} "
            "(positive/negative/unknown)."
        )
    values = [cells[column_at].strip().lower() for _, cells in rows]
    known = encoding_named(label_encoding or DEFAULT_ENCODING)
    hint = (
        "; if this column is no label, name the label columns with `labels` (--labels)"
        if sum(value in known for value in values) < len(values) / 2
        else ""
    )
    negative = "-1" if label_encoding == "1/-1/0" else "0"
    return DataError(
        f"{place}: {cell!r} is not a label; write 1, {negative} or leave it blank"
        f"{'' if label_encoding is None else f' (label_encoding is {label_encoding})'}{hint}."
    )


def _chexpert(
    rows: list[Line], all_rows: list[Line], columns: _Columns, path: Path, options: Options
) -> Table:
    """Read a table of CheXpert: facts about the patient, then findings, -1 for uncertain."""
    findings = [i for i in columns.others if columns.header[i].lower() not in CHEXPERT_FACTS]
    if options.label_encoding not in (None, "chexpert"):
        raise DataError(f"{path} is a table of CheXpert; its label_encoding is chexpert.")
    options = replace(options, label_encoding="chexpert")
    table = _wide(rows, all_rows, replace(columns, others=findings), path, options)
    meaning = "CheXpert: 1 positive, 0 negative; uncertain (-1) and not mentioned (blank) unknown."
    return replace(table, interpretation=meaning)


def _list(
    rows: list[Line], all_rows: list[Line], columns: _Columns, path: Path, options: Options
) -> Table:
    refuse_encoding(options, path, "lists labels by name")
    unmentioned = unmentioned_state(options.unlabeled, path)
    found = [i for i in columns.others if columns.header[i].lower() in LIST_COLUMNS]
    if len(found) != 1:
        raise DataError(
            f"{path}: a table that lists positives has one column {' or '.join(LIST_COLUMNS)}, "
            f"found {[columns.header[i] for i in columns.others]}."
        )
    listed = [cells[found[0]] for _, cells in all_rows]
    mark = options.separator or SEPARATOR
    if options.separator is None and not any(mark in cell for cell in listed):
        other = next((m for m in ",;" if any(m in cell for cell in listed)), None)
        if other is not None:
            raise DataError(
                f"{path}: labels in one cell are separated by '{SEPARATOR}', as in "
                f"dog{SEPARATOR}cat; for another mark say separator={other!r}."
            )

    def names_in(cell: str) -> list[str]:
        return [name.strip() for name in cell.split(mark) if name.strip()]

    parsed = [
        Row(line, cells[columns.image].strip(), dict.fromkeys(names_in(cells[found[0]]), POSITIVE))
        for line, cells in rows
    ]
    # As in a wide table, every split has the labels of the whole table.
    names = dict.fromkeys(name for cell in listed for name in names_in(cell))
    meaning = f"Table that lists positives; a label that is not listed is {options.unlabeled}."
    return Table(parsed, list(names), meaning, unmentioned)


def _long(
    rows: list[Line], all_rows: list[Line], columns: _Columns, path: Path, options: Options
) -> Table:
    """Read one row per photo and label, as Open Images has them."""
    refuse_encoding(options, path, "has one row per photo and label, with 1 or 0")
    lowered = {columns.header[i].lower(): i for i in columns.others}
    label_at = next((lowered[name] for name in LABEL_COLUMNS if name in lowered), None)
    value_at = next((lowered[name] for name in VALUE_COLUMNS if name in lowered), None)
    if label_at is None:
        raise DataError(
            f"{path}: a long table has one row per photo and label; name its columns image, label "
            f"and confidence. Its columns are {', '.join(columns.header)}."
        )
    if value_at is not None and options.unlabeled is not None:
        raise DataError(
            f"{path} states positives and negatives; what it does not state is unknown, `unlabeled` "
            "does not apply."
        )
    parsed = []
    for line, cells in rows:
        name, cell = cells[label_at].strip(), "1" if value_at is None else cells[value_at].strip()
        if not name:
            raise DataError(f"{path}, line {line}: the label is not named.")
        state = {"1": POSITIVE, "1.0": POSITIVE, "0": NEGATIVE, "0.0": NEGATIVE}.get(cell)
        if state is None:
            raise DataError(
                f"{path}, line {line}: {cell!r} is not 1 (verified present) or 0 (verified absent); "
                "leave out labels that no person has verified, or decide them first."
            )
        parsed.append(Row(line, cells[columns.image].strip(), {name: state}))
    names = list(dict.fromkeys(cells[label_at].strip() for _, cells in all_rows))
    if value_at is None:
        unmentioned = unmentioned_state(options.unlabeled, path)
        meaning = f"One row per positive label; a label without a row is {options.unlabeled}."
        joined: dict[str, Row] = {}
        for row in parsed:  # a row leaves open what the photo's other rows state
            earlier = joined.setdefault(row.image, row)
            earlier.states.update(row.states)
        return Table(list(joined.values()), names, meaning, unmentioned)
    meaning = "One row per photo and label, 1 present, 0 absent; a label without a row is unknown."
    return Table(parsed, names, meaning)
