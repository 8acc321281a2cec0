"""Label tables in CSV, whatever separates their cells: which column is what, and which rows count."""

import csv
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from trmml.data.finding import PHOTO_SUFFIXES
from trmml.data.readers.forms import (
    LABEL_COLUMNS,
    LIST_COLUMNS,
    VALUE_COLUMNS,
    Line,
    Sheet,
    guessed_form,
    read_chexpert,
    read_list,
    read_long,
    read_wide,
)
from trmml.data.readers.rows import MAX_NAMED, SPLIT_COLUMN, Options, Table
from trmml.data.readers.sides import (
    image_column,
    is_faint,
    is_side,
    may_be_split,
    sounds_like_a_side,
    split_names,
)
from trmml.data.readers.vectors import spread_vectors
from trmml.data.spelling import spelled
from trmml.errors import DataError, nearest
from trmml.labels import LABEL_ENCODINGS

_READERS = {"wide": read_wide, "list": read_list, "long": read_long, "chexpert": read_chexpert}


def read_csv(text: str, path: Path, options: Options, form: str | None) -> Table:
    """Read a CSV of any form; `form` says which, else its columns do.

    Raises:
        DataError: With the line of what cannot be used.
    """
    named = re.match(r"sep=(.)\r?\n", text)  # Excel's word on its own files
    # The header alone tells: names of labels in the cells below may hold any of these marks.
    delimiter = named[1] if named else max(",;\t", key=lambda mark: _names_a_photo(text, mark))
    return read_sheet(_csv_lines(text, path, delimiter)[1 if named else 0 :], path, options, form)


def read_sheet(lines: list[Line], path: Path, options: Options, form: str | None) -> Table:
    """Read rows of cells, below and above which there may be empty ones, as `read_lines` does."""
    # Spreadsheets leave rows of nothing but separators, some of them above the header.
    written = [i for i, (_, cells) in enumerate(lines) if any(cell.strip() for cell in cells)]
    if not written:
        raise DataError(f"{path} holds nothing but separators; a table needs a header and rows.")
    return read_lines(lines[written[0] :], path, options, form)


def read_lines(lines: list[Line], path: Path, options: Options, form: str | None) -> Table:
    """Read a header and rows of cells.

    Args:
        lines: The header first; each with its line number.
        path: For messages.
        options: How to read.
        form: `wide`, `list`, `long` or `chexpert`; told by the columns if None.

    Raises:
        DataError: With the line of what cannot be used.
    """
    spread = ""
    if form in (None, "wide"):
        lines, spread = spread_vectors(lines, path, options.labels)
        form = "wide" if spread else form
    sheet = replace(_sheet(lines, path, options), is_guessed=form is None)
    form = form or guessed_form(sheet.header, sheet.others, sheet.all_rows, options)
    table = _READERS[form](sheet)
    notes = [spread] if spread else []
    notes.append(table.interpretation)
    if is_faint(sheet.header[sheet.image]):
        notes.append(f"The column {sheet.header[sheet.image]!r} names the photo.")
    if options.split is None and sheet.split is not None:
        parts = Counter(cells[sheet.split].strip() or "blank" for _, cells in sheet.all_rows)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(parts.items()))
        column = repr(sheet.header[sheet.split])
        notes.append(f"All rows are taken, whatever their column {column} says ({counts}).")
    left_out = _left_out(sheet, form)
    if left_out:
        notes.append(f"Columns left out: {_listed(left_out)}.")
        notes[-1] += " `labels` (--labels) takes them in." if form == "wide" else ""
    if form == "wide":
        notes += _doubts(sheet, table)
    return replace(table, interpretation=" ".join(notes))


def _left_out(sheet: Sheet, form: str) -> list[str]:
    """Return the columns that a table has for nothing, as far as nobody has chosen them."""
    names = [name for i, name in enumerate(sheet.header) if i not in (sheet.image, sheet.split)]
    if form in ("list", "long"):
        read = (*LIST_COLUMNS, *LABEL_COLUMNS, *VALUE_COLUMNS)
        return [name for name in names if name.lower() not in read]
    read = {sheet.header[i] for i in sheet.others}
    return [] if sheet.options.labels is not None else [name for name in names if name not in read]


def _doubts(sheet: Sheet, table: Table) -> list[str]:
    """Name the columns that are read as labels, and may say something else of a photo."""
    if sheet.options.labels is not None or not sheet.rows:  # somebody has chosen them
        return []
    doubted = [name for name in table.labels if sounds_like_a_side(name)]
    first, *rest = (cells for _, cells in sheet.rows)
    same = [
        sheet.header[i]
        for i in sheet.others
        if rest and first[i].strip() and all(cells[i] == first[i] for cells in rest)
    ]
    if len(same) < len(sheet.others):
        doubted += [name for name in same if name not in doubted]
    if not doubted:
        return []
    return [
        f"Read as labels, though they sound like something else or are the same in all photos: "
        f"{_listed(doubted)}; if they are none, name the labels with `labels` (--labels)."
    ]


def _listed(names: list[str]) -> str:
    more = f" … ({len(names)} in all)" if len(names) > MAX_NAMED else ""
    return ", ".join(map(repr, names[:MAX_NAMED])) + more


def _sheet(lines: list[Line], path: Path, options: Options) -> Sheet:
    """Find out what each column is, and choose the rows of the wanted split."""
    header = [spelled(name).strip() for name in lines[0][1]]
    image = _image_column(header, path)
    # Spreadsheets leave rows of nothing but separators below the last one.
    all_rows = [(line, cells) for line, cells in lines[1:] if any(cell.strip() for cell in cells)]
    for line, cells in all_rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line} has {len(cells)} cells, the header has {len(header)}."
            )
    split, all_rows = _split_column(header, all_rows, options)
    if options.split is not None and split is None:
        raise DataError(f"{path} has no column 'split' to choose {options.split!r} from.")
    rows = all_rows
    if options.split is not None and split is not None:
        rows = _rows_of_split(all_rows, split, options.split, path)
    others = [i for i in range(len(header)) if i not in (image, split)]
    wanted = options.labels or ()
    kept = [i for i in others if header[i] in wanted or not is_side(header[i])]
    return Sheet(path, header, image, split, kept or others, rows, all_rows, options)


def _split_column(
    header: list[str], rows: list[Line], options: Options
) -> tuple[int | None, list[Line]]:
    """Return the column that says which split a row is of, and the rows with the split's name in it."""
    order = sorted(range(len(header)), key=lambda i: header[i] != SPLIT_COLUMN)
    for i in order:
        is_label = header[i] in (options.labels or ()) and header[i] != SPLIT_COLUMN
        if is_label or not may_be_split(header[i]):
            continue
        names = split_names(header[i], [cells[i] for _, cells in rows])
        if names is not None:
            return i, [
                (line, [*cells[:i], name, *cells[i + 1 :]])
                for (line, cells), name in zip(rows, names, strict=True)
            ]
    return None, rows


def _rows_of_split(rows: list[Line], column: int, split: str, path: Path) -> list[Line]:
    chosen = [(line, cells) for line, cells in rows if cells[column].strip() == split]
    if not chosen:
        found = sorted({cells[column].strip() for _, cells in rows})
        raise DataError(f"{path} has no row with split {split!r}. {nearest(split, found)}")
    return chosen


def _names_a_photo(text: str, delimiter: str) -> int:
    """Say how well a mark cuts the first row: 2 if it names a photo's column, 1 if a photo itself."""
    try:
        names = next(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter))
    except csv.Error:
        return 0
    if len(names) > 1 and image_column(names) is not None:
        return 2
    return int(len(names) > 1 and any(name.lower().endswith(PHOTO_SUFFIXES) for name in names))


def _csv_lines(text: str, path: Path, delimiter: str) -> list[Line]:
    """Return the rows, each with the number of its last line: a quoted cell may go over several."""
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
    """Return the position of the photo's column, of a header whose names are there and differ."""
    found = image_column(header)
    if found is None:
        _refuse_headless(header, path)
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
    return found


def _refuse_headless(cells: list[str], path: Path) -> None:
    """Say what to write above a first row that names a photo.

    Raises:
        DataError: If it does.
    """
    photo = next((i for i, cell in enumerate(cells) if cell.lower().endswith(PHOTO_SUFFIXES)), None)
    if photo is None:
        return
    states = LABEL_ENCODINGS["1/0/-1"]
    others = [cell for i, cell in enumerate(cells) if i != photo]
    if len(others) == 1 and others[0].lower() not in states:
        names = ["labels"]
    elif len(others) == 2 and others[0].lower() not in states and others[1].lower() in states:
        names = ["label", "value"]
    else:
        names = [f"label{i + 1}" for i in range(len(others))]
    names.insert(photo, "image")
    meant = "" if "label1" not in names else " with the names of the labels"
    raise DataError(
        f"{path} has no header: its first row is {', '.join(map(repr, cells[:4]))}. Write a row above "
        f"it, as {','.join(names[:12])}{' …' if len(names) > 12 else ''}{meant}."
    )
