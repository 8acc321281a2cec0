"""Readers of label tables: wide CSV, list CSV and JSONL, all into one data set.

A blank is never guessed: in a wide table it is unknown, and a format that lists positives alone is
read only when `unlabeled` says what a label that is not listed means.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trmml.data.dataset import MultiLabelDataset
from trmml.data.rows import Row, Table, find_table_photos, merge_duplicates
from trmml.errors import DataError, nearest
from trmml.labels import (
    DEFAULT_ENCODING,
    LABEL_ENCODINGS,
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    encoding_named,
)

IMAGE_COLUMNS = ("image", "filename", "file_name", "file", "path", "photo", "image_path")
LIST_COLUMNS = ("labels", "tags")
SPLIT_COLUMN = "split"
SEPARATOR = "|"

Unlabeled = Literal["unknown", "negative"]


def read_dataset(
    table: str | Path,
    *,
    images: str | Path | None = None,
    labels: Sequence[str] | None = None,
    label_encoding: str | None = None,
    unlabeled: Unlabeled | None = None,
    split: str | None = None,
) -> MultiLabelDataset:
    """Read photos and their partly known labels.

    Three forms are told apart by their content: a wide CSV (`image`, then one column per label with
    `1`, `0` or blank), a list CSV (`image` and `labels` with `a|b|c`), and JSONL with `image`,
    `positive` and `negative`. Commas, semicolons and tabs separate columns.

    Args:
        table: Path of a `.csv`, `.tsv` or `.jsonl` file, in UTF-8 (or UTF-16 with its mark).
        images: Folder that photo paths are relative to; the table's own folder is tried next.
        labels: Categories to read, in this order; all by default.
        label_encoding: How the cells of a wide CSV are written: `1/0/blank` by default, `1/-1/0`,
            `1/0/-1` (positive/negative/unknown) or `chexpert`.
        unlabeled: What a label that a list CSV does not list means; required there.
        split: Read only rows with this text in the column `split`.

    Returns:
        The data set; its `summary()` says what was understood.

    Raises:
        DataError: For a table or photo that cannot be used, with file, line and column.
    """
    path = Path(table).expanduser()
    text = _read_text(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        parsed = _read_jsonl(text, path, split, unlabeled, label_encoding)
    else:
        parsed = _read_csv(text, path, split, unlabeled, label_encoding, labels)
    if not parsed.rows:
        which = f" with split {split!r}" if split else ""
        raise DataError(f"{path} has no rows{which}; a table needs at least one photo.")
    names = list(parsed.category_names)
    for name in labels or ():
        if name not in names:
            raise DataError(f"{path} has no label {name!r}. {nearest(name, names)}")
    names = names if labels is None else list(labels)
    if not names:
        raise DataError(f"{path} names no label; a wide table has one column per label.")
    merged = merge_duplicates(parsed, path)
    photos = find_table_photos([row.image for row in merged], path, images)
    array = np.full((len(merged), len(names)), parsed.unmentioned, dtype=np.int8)
    column = {name: i for i, name in enumerate(names)}
    for cells, row in zip(array, merged, strict=True):
        for name, state in row.states.items():
            if name in column:
                cells[column[name]] = state
    return MultiLabelDataset(
        photos=tuple(photos),
        labels=array,
        category_names=tuple(names),
        source=str(path),
        interpretation=parsed.interpretation,
    )


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the table {path}: {error.strerror}.") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line} is not UTF-8; save the table as UTF-8 (CSV UTF-8 in Excel)."
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty; a table needs a header and at least one row.")
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes; is it a spreadsheet file? Export it as CSV.")
    return text


def _read_csv(
    text: str,
    path: Path,
    split: str | None,
    unlabeled: Unlabeled | None,
    label_encoding: str | None,
    labels: Sequence[str] | None,
) -> Table:
    delimiter = max(",;\t", key=lambda mark: _has_image_column(text, mark))
    lines = _csv_lines(text, path, delimiter)
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
    list_at = [i for i in others if header[i].lower() in LIST_COLUMNS]
    if len(list_at) == 1 and (len(others) == 1 or labels is None):
        listed = [cells[list_at[0]] for _, cells in all_rows]
        return _list_rows(rows, listed, image_at, list_at[0], path, unlabeled, label_encoding)
    if unlabeled is not None:
        raise DataError(
            f"{path} is a wide table, in which blanks are unknown; `unlabeled` does not apply."
        )
    return _wide_rows(rows, header, image_at, others, path, label_encoding, labels)


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
    repeated = sorted({name for name in header if header.count(name) > 1 and name})
    if repeated:
        raise DataError(f"{path} has the column {repeated[0]!r} more than once.")
    if "" in header:
        raise DataError(f"{path}, column {header.index('') + 1} has no name.")
    return next(lowered.index(name) for name in IMAGE_COLUMNS if name in lowered)


def _wide_rows(
    rows: list[tuple[int, list[str]]],
    header: list[str],
    image_at: int,
    label_columns: list[int],
    path: Path,
    label_encoding: str | None,
    labels: Sequence[str] | None,
) -> Table:
    chosen = [i for i in label_columns if labels is None or header[i] in labels]
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
        parsed.append(Row(line, cells[image_at].strip(), states))
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
            f"with label_encoding: {', '.join(LABEL_ENCODINGS)} (positive/negative/unknown)."
        )
    values = [cells[column_at].strip().lower() for _, cells in rows]
    known = encoding_named(label_encoding or DEFAULT_ENCODING)
    hint = (
        "; if this column is no label, name the label columns with `labels`"
        if sum(value in known for value in values) < len(values) / 2
        else ""
    )
    negative = "-1" if label_encoding == "1/-1/0" else "0"
    return DataError(
        f"{place}: {cell!r} is not a label; write 1, {negative} or leave it blank"
        f"{'' if label_encoding is None else f' (label_encoding is {label_encoding})'}{hint}."
    )


def _list_rows(
    rows: list[tuple[int, list[str]]],
    listed: list[str],
    image_at: int,
    list_at: int,
    path: Path,
    unlabeled: Unlabeled | None,
    label_encoding: str | None,
) -> Table:
    unmentioned = _unmentioned(unlabeled, path)
    if label_encoding is not None:
        raise DataError(f"{path} lists labels by name; `label_encoding` does not apply.")
    if not any(SEPARATOR in cell for cell in listed) and any("," in c or ";" in c for c in listed):
        raise DataError(
            f"{path}: labels in one cell are separated by '{SEPARATOR}', as in dog{SEPARATOR}cat."
        )
    parsed = [
        Row(line, row[image_at].strip(), dict.fromkeys(_listed_names(row[list_at]), POSITIVE))
        for line, row in rows
    ]
    # As in a wide table, every split has the labels of the whole table.
    names = dict.fromkeys(name for cell in listed for name in _listed_names(cell))
    meaning = f"Table that lists positives; a label that is not listed is {unlabeled}."
    return Table(parsed, list(names), meaning, unmentioned)


def _listed_names(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(SEPARATOR) if name.strip()]


def _unmentioned(unlabeled: str | None, path: Path) -> int:
    if unlabeled not in ("unknown", "negative"):
        raise DataError(
            f"{path} lists positive labels only. Say what a label that is not listed means: "
            "unlabeled='unknown' if nobody looked, unlabeled='negative' if it is not there."
        )
    return UNKNOWN if unlabeled == "unknown" else NEGATIVE


def _read_jsonl(
    text: str,
    path: Path,
    split: str | None,
    unlabeled: Unlabeled | None,
    label_encoding: str | None,
) -> Table:
    if label_encoding is not None:
        raise DataError(f"{path} is JSONL; `label_encoding` does not apply.")
    rows, names, lists_negatives = [], {}, False
    # Not splitlines: JSON strings may hold other line separators of Unicode.
    for line, record_text in enumerate(io.StringIO(text, newline=None), start=1):
        if not record_text.strip():
            continue
        record = _json_record(record_text, path, line)
        states: dict[str, int] = {}
        for key, state in (("positive", POSITIVE), ("negative", NEGATIVE)):
            for name in _name_list(record.get(key, []), key, path, line):
                if states.get(name, state) != state:
                    raise DataError(f"{path}, line {line}: {name!r} is both positive and negative.")
                states[name] = state
        lists_negatives |= "negative" in record
        names |= dict.fromkeys(states)
        if split is None or record.get(SPLIT_COLUMN) == split:
            rows.append(Row(line, record["image"], states))
    if lists_negatives and unlabeled is None:
        meaning = "JSONL of positives and negatives; a label that is not listed is unknown."
        return Table(rows, list(names), meaning)
    meaning = f"JSONL; a label that is not listed is {unlabeled}."
    return Table(rows, list(names), meaning, _unmentioned(unlabeled, path))


def _json_record(text: str, path: Path, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line} is not JSON: {error}.") from error
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        raise DataError(f'{path}, line {line} must be an object with "image": "<path>".')
    known = ("image", "positive", "negative", SPLIT_COLUMN)
    for key in record:
        if key not in known:
            raise DataError(f"{path}, line {line}: unknown key {key!r}. {nearest(key, known)}")
    return record


def _name_list(value: Any, key: str, path: Path, line: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise DataError(f"{path}, line {line}: {key!r} must be a list of label names.")
    return value
