"""States in one cell, as [1, 0, 1]: a list of numbers whose labels are named elsewhere."""

import re
from collections.abc import Sequence
from pathlib import Path

from trmml.data.readers.forms import LABEL_COLUMNS, LIST_COLUMNS, Line
from trmml.errors import DataError
from trmml.labels import BLANK_WORDS

VECTOR_COLUMNS = (
    *LIST_COLUMNS,
    *LABEL_COLUMNS,
    *(
        "target",
        "targets",
        "y",
        "vector",
        "multi_hot",
        "multihot",
        "one_hot",
        "onehot",
        "label_vector",
    ),
)

_NUMBER = r"(?:-?\d+(?:\.\d*)?|true|false|nan|null|none)"
_SEVERAL = rf"{_NUMBER}(?:(?:\s*[,;|]\s*|\s+){_NUMBER})"
_VECTOR = re.compile(rf"[\[(]\s*(?:{_SEVERAL}*\s*,?)\s*[\])]|{_SEVERAL}+", re.IGNORECASE)
"""One number or more in brackets, or several without."""


def spread_vectors(
    lines: list[Line], path: Path, wanted: Sequence[str] | None
) -> tuple[list[Line], str]:
    """Return a table with a column per label in place of one with a list of states in each cell.

    Args:
        lines: The header first.
        path: The table, for messages.
        wanted: The labels, in the order of the numbers.

    Returns:
        The table and what was done, in a sentence; as it was, with no word, if it has no such lists.

    Raises:
        DataError: If nobody has named the labels, or another number of them.
    """
    header = [name.strip() for name in lines[0][1]]
    for column, name in enumerate(header):
        if name.lower() not in VECTOR_COLUMNS:
            continue
        # What is wrong with rows of another length is said by whoever reads them.
        cells = [row[column].strip() for _, row in lines[1:] if len(row) == len(header)]
        found = {cell: _numbers(cell) for cell in cells if cell.lower() not in BLANK_WORDS}
        vectors = [numbers for numbers in found.values() if numbers is not None]
        if not vectors or len(vectors) < len(found) or not _are_states(found):
            continue
        labels = _checked_names(name, found, path, wanted)
        return _spread(lines, column, labels), (
            f"The numbers in {name!r} are the states of {', '.join(labels[:4])}"
            f"{' …' if len(labels) > 4 else ''}, in the order of `labels`."
        )
    return lines, ""


def _numbers(cell: str) -> list[str] | None:
    """Return the numbers in a cell; None if it holds anything else."""
    if not _VECTOR.fullmatch(cell):
        return None
    return [number.lower().removesuffix(".") for number in re.findall(_NUMBER, cell, re.I)]


def _are_states(found: dict[str, list[str] | None]) -> bool:
    """Say whether lists of numbers are states of labels, and not numbers of classes."""
    vectors = [numbers for numbers in found.values() if numbers is not None]
    if len({len(numbers) for numbers in vectors}) > 1:
        return False
    numbers = {number for vector in vectors for number in vector}
    if not all(re.fullmatch(r"-?[01](\.0*)?|true|false", n) or n in BLANK_WORDS for n in numbers):
        return False
    # Without brackets "0 1" may be two classes; classes are listed once each.
    has_brackets = all(cell[0] in "[(" for cell in found)
    return has_brackets or any(len(vector) > len(set(vector)) for vector in vectors)


def _checked_names(
    column: str, found: dict[str, list[str] | None], path: Path, wanted: Sequence[str] | None
) -> list[str]:
    cell, numbers = next(iter(found.items()))
    size = len(numbers or ())
    what = f"{path}: the column {column!r} holds lists of {size} states, as {cell[:40]}"
    if wanted is None:
        raise DataError(
            f"{what}, and nothing says of which labels; name them, in their order, with `labels` "
            "(--labels)."
        )
    if len(wanted) != size:
        raise DataError(f"{what}; `labels` (--labels) must name {size} and names {len(wanted)}.")
    return list(wanted)


def _spread(lines: list[Line], column: int, labels: list[str]) -> list[Line]:
    width = len(lines[0][1])
    spread = [(lines[0][0], _replaced(lines[0][1], column, labels))]
    for number, row in lines[1:]:
        cells = row
        if len(row) == width:
            states = _numbers(row[column].strip()) or [""] * len(labels)
            cells = _replaced(row, column, states)
        spread.append((number, cells))
    return spread


def _replaced(row: list[str], column: int, cells: list[str]) -> list[str]:
    return [*row[:column], *cells, *row[column + 1 :]]
