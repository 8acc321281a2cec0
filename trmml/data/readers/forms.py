"""The forms that rows of cells can have: wide, list, long, and CheXpert's."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from trmml.data.readers.names import is_list_text, names_by_cell
from trmml.data.readers.rows import Options, Row, Table, refuse_encoding, unmentioned_state
from trmml.errors import DataError
from trmml.labels import (
    BLANK_WORDS,
    DEFAULT_ENCODING,
    LABEL_ENCODINGS,
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    UNKNOWN_WORDS,
    encoding_named,
)

LIST_COLUMNS = ("labels", "tags")
LABEL_COLUMNS = ("label", "labelname", "category", "class", "tag")
VALUE_COLUMNS = ("confidence", "value", "present", "state")
CHEXPERT_FACTS = ("sex", "age", "frontal/lateral", "ap/pa")

_VERIFIED = {"1": POSITIVE, "1.0": POSITIVE, "0": NEGATIVE, "0.0": NEGATIVE}
"""Cells of a long table. Open Images also has shares between them, of what a machine guessed."""

Line = tuple[int, list[str]]
"""The number of a line, and its cells."""


@dataclass(frozen=True)
class Sheet:
    """A header and rows of cells, of a CSV file or of a table in memory.

    Attributes:
        path: Where it was read from, for messages.
        header: Names of the columns.
        image: Position of the column that names the photo.
        split: Position of the column `split`, if there is one.
        others: Positions of all other columns.
        rows: The rows of the wanted split.
        all_rows: The rows of every split: each split has the labels of the whole table.
        options: How the user says that it is to be read.
        is_guessed: Whether the form was told by the columns, and not by the user.
    """

    path: Path
    header: list[str]
    image: int
    split: int | None
    others: list[int]
    rows: list[Line]
    all_rows: list[Line]
    options: Options
    is_guessed: bool = True


def guessed_form(header: list[str], others: list[int], rows: list[Line], options: Options) -> str:
    """Tell the form by the names and cells of the columns other than photo and split.

    Returns:
        `chexpert`, `list`, `long` or `wide`.
    """
    lowered = {i: header[i].lower() for i in others}
    if "frontal/lateral" in lowered.values():
        return "chexpert"
    is_only = len(others) == 1

    def holds_names(column: int) -> bool:
        # 0 and 1 state a label of the column's name, unless `unlabeled` says that they are names.
        return (is_only and options.unlabeled is not None) or not _states_labels(rows, column)

    lists = [i for i in others if lowered[i] in LIST_COLUMNS and holds_names(i)]
    # A wide table may have a column "tags" beside the labels that were asked for.
    are_columns = any(name in header for name in options.labels or ())
    if len(lists) == 1 and (is_only or not are_columns):
        return "list"
    if not _is_long(lowered, holds_names):
        return "wide"
    # Whoever names a separator, or has lists in the cells, has several labels in one of them.
    named = next(i for i, name in lowered.items() if name in LABEL_COLUMNS)
    several = options.separator is not None or any(is_list_text(cells[named]) for _, cells in rows)
    return "list" if is_only and several else "long"


def _is_long(lowered: dict[int, str], holds_names: Callable[[int], bool]) -> bool:
    labels = [i for i, name in lowered.items() if name in LABEL_COLUMNS]
    if len(labels) != 1:
        return False
    has_values = any(name in VALUE_COLUMNS for name in lowered.values())
    return has_values or (len(lowered) == 1 and holds_names(labels[0]))


def _states_labels(rows: list[Line], column: int) -> bool:
    return all(cells[column].strip().lower() in LABEL_ENCODINGS["1/0/-1"] for _, cells in rows)


def read_wide(sheet: Sheet) -> Table:
    """Read one column per label, with a state in each cell.

    Raises:
        DataError: For a cell that is none of its encoding.
    """
    options, header = sheet.options, sheet.header
    if options.unlabeled is not None:
        raise DataError(
            f"{sheet.path} is a wide table, in which blanks are unknown; `unlabeled` does not apply."
        )
    chosen = [i for i in sheet.others if options.labels is None or header[i] in options.labels]
    encoding_name = options.label_encoding or DEFAULT_ENCODING
    encoding = encoding_named(encoding_name)
    parsed, words = [], Counter[str]()
    for line, cells in sheet.rows:
        states = {}
        for i in chosen:
            state = encoding.get(cells[i].strip().lower())
            if state is None:
                raise _bad_cell(sheet, line, i, cells[i].strip())
            if state != UNKNOWN:
                states[header[i]] = state
            elif cells[i].strip().lower() in UNKNOWN_WORDS:
                words[cells[i].strip()] += 1
        parsed.append(Row(line, cells[sheet.image].strip(), states))
    meaning = f"Wide table, cells as {encoding_name} (positive/negative/unknown); blank is unknown."
    meaning += _counted(words, "are unknown")
    return Table(parsed, [header[i] for i in sheet.others], meaning)


def _counted(words: Counter[str], meaning: str) -> str:
    """Return a sentence for each word that stands for something in several cells."""
    return "".join(f" {count} cells {word!r} {meaning}." for word, count in words.items())


def _bad_cell(sheet: Sheet, line: int, column: int, cell: str) -> DataError:
    """Say what a cell may be: of an encoding that was not named, of no label column, or a slip."""
    place = f"{sheet.path}, line {line}, column {sheet.header[column]!r}"
    label_encoding = sheet.options.label_encoding
    values = [cells[column].strip().lower() for _, cells in sheet.rows]
    if cell in ("-1", "-1.0") and label_encoding is None:
        count = sum(value in ("-1", "-1.0") for value in values)
        return DataError(
            f"{place}: -1 ({count} times in this column) can mean negative or unknown; say which "
            f"with --label-encoding or label_encoding: {', '.join(LABEL_ENCODINGS)} "
            "(positive/negative/unknown)."
        )
    known = encoding_named(label_encoding or DEFAULT_ENCODING)
    # Where most cells are something else, the column says something else of the photo.
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


def read_chexpert(sheet: Sheet) -> Table:
    """Read a table of CheXpert: facts about the patient, then findings, −1 for uncertain.

    Raises:
        DataError: For a cell that is not 1, 0, −1 or blank, or if another encoding was asked for.
    """
    if sheet.options.label_encoding not in (None, "chexpert"):
        raise DataError(f"{sheet.path} is a table of CheXpert; its label_encoding is chexpert.")
    findings = [i for i in sheet.others if sheet.header[i].lower() not in CHEXPERT_FACTS]
    options = replace(sheet.options, label_encoding="chexpert")
    table = read_wide(replace(sheet, others=findings, options=options))
    meaning = "CheXpert: 1 positive, 0 negative; uncertain (-1) and not mentioned (blank) unknown."
    return replace(table, interpretation=meaning)


def read_list(sheet: Sheet) -> Table:
    """Read one column that lists the positive labels of a photo.

    Raises:
        DataError: If nobody has said what a label that is not listed means, or how labels in a cell
            are separated.
    """
    refuse_encoding(sheet.options, sheet.path, "lists labels by name")
    unmentioned = unmentioned_state(sheet.options.unlabeled, sheet.path)
    found = [i for i in sheet.others if sheet.header[i].lower() in LIST_COLUMNS]
    is_long = not found
    if is_long:
        found = [i for i in sheet.others if sheet.header[i].lower() in LABEL_COLUMNS]
    if len(found) != 1:
        raise DataError(
            f"{sheet.path}: a table that lists positives has one column "
            f"{' or '.join(LIST_COLUMNS)}, found {[sheet.header[i] for i in sheet.others]}."
        )
    cells_of_lists = [cells[found[0]] for _, cells in sheet.all_rows]
    # Where somebody wrote "?", even a label that is not listed may be there.
    is_open = {cell: _stands_for_unknown(cell.strip(), sheet.options) for cell in cells_of_lists}
    listed = [cell for cell in cells_of_lists if not is_open[cell]]
    names_in = names_by_cell(listed, sheet.options.separator, sheet.path, sheet.options.labels)
    parsed = [
        Row(
            line,
            cells[sheet.image].strip(),
            dict.fromkeys(names_in.get(cells[found[0]], ()), POSITIVE),
            UNKNOWN if is_open[cells[found[0]]] else None,
        )
        for line, cells in sheet.rows
    ]
    names = dict.fromkeys(name for cell in listed for name in names_in[cell])
    meaning = (
        f"Table that lists positives; a label that is not listed is {sheet.options.unlabeled}."
    )
    words = Counter(cell.strip() for cell in listed if cell.strip() and not names_in[cell])
    meaning += _counted(words, "list nothing")
    unsaid = Counter(cell.strip() for cell in cells_of_lists if is_open[cell])
    meaning += _counted(unsaid, "say nothing of the photo; if that is a label, name it in `labels`")
    if is_long:  # a row for each of a photo's labels, or for some of them
        parsed = _one_row_per_photo(parsed)
    return Table(parsed, list(names), meaning, unmentioned)


def _stands_for_unknown(cell: str, options: Options) -> bool:
    return cell.lower() in UNKNOWN_WORDS and cell not in (options.labels or ())


def read_long(sheet: Sheet) -> Table:
    """Read one row per photo and label, as Open Images has them.

    Raises:
        DataError: If no column names the label, or a label is not verified as 1 or 0.
    """
    path, unlabeled = sheet.path, sheet.options.unlabeled
    refuse_encoding(sheet.options, path, "has one row per photo and label, with 1 or 0")
    lowered = {sheet.header[i].lower(): i for i in sheet.others}
    label_at = next((lowered[name] for name in LABEL_COLUMNS if name in lowered), None)
    value_at = next((lowered[name] for name in VALUE_COLUMNS if name in lowered), None)
    if label_at is None:
        raise DataError(
            f"{path}: a long table has one row per photo and label; name its columns image, label "
            f"and confidence. Its columns are {', '.join(sheet.header)}."
        )
    if value_at is not None and unlabeled is not None:
        raise DataError(
            f"{path} states positives and negatives; what it does not state is unknown, `unlabeled` "
            "does not apply."
        )
    if value_at is None and sheet.is_guessed:
        listed = [cells[label_at] for _, cells in sheet.all_rows]
        names_by_cell(listed, None, path, sheet.options.labels, default=None)
    parsed = [
        Row(line, cells[sheet.image].strip(), _long_state(sheet, line, cells, label_at, value_at))
        for line, cells in sheet.rows
    ]
    names = list(dict.fromkeys(cells[label_at].strip() for _, cells in sheet.all_rows))
    if value_at is None:
        unmentioned = unmentioned_state(unlabeled, path)
        meaning = f"One row per positive label; a label without a row is {unlabeled}."
        return Table(_one_row_per_photo(parsed), names, meaning, unmentioned)
    meaning = "One row per photo and label, 1 present, 0 absent; a label without a row is unknown."
    return Table(parsed, names, meaning)


def _long_state(
    sheet: Sheet, line: int, cells: list[str], label_at: int, value_at: int | None
) -> dict[str, int]:
    """Return the one label that a row is about, and its state; positive where rows have no value."""
    name = cells[label_at].strip()
    is_blank = name.lower() in BLANK_WORDS and name not in (sheet.options.labels or ())
    if is_blank or _stands_for_unknown(name, sheet.options):
        said = f" ({name!r} stands for a blank; a label of that name goes into `labels`)"
        raise DataError(f"{sheet.path}, line {line}: the label is not named{said if name else ''}.")
    if value_at is None:
        return {name: POSITIVE}
    cell = cells[value_at].strip()
    if cell not in _VERIFIED:
        raise DataError(
            f"{sheet.path}, line {line}: {cell!r} is not 1 (verified present) or 0 (verified absent); "
            "leave out labels that no person has verified, or decide them first."
        )
    return {name: _VERIFIED[cell]}


def _one_row_per_photo(rows: list[Row]) -> list[Row]:
    # Where a label without a row is negative, each row alone would deny what the photo's others state.
    joined: dict[str, Row] = {}
    for row in rows:
        joined.setdefault(row.image, row).states.update(row.states)
    return list(joined.values())
