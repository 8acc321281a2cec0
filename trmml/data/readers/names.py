"""Names of labels in the cells of a table: how a cell lists them, and what looks like several in one."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from trmml.errors import DataError
from trmml.labels import BLANK_WORDS

SEPARATOR = "|"

_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"[\[({{]\s*(?:{_QUOTED}\s*(?:,\s*|(?=['\"\])}}])))*[\])}}]", re.DOTALL)
"""A list as Python, JSON or NumPy (which writes no commas) print it."""
_CHOICES = re.compile(r'\{\s*"choices"\s*:\s*(\[.*\])\s*\}', re.DOTALL)
"""What Label Studio writes into a cell of its CSV, if several choices were made."""
_USUAL = ",;/+&\t\n "
"""Marks that people put between labels. Others (a hyphen, a full stop) are parts of many names."""


def names_by_cell(
    cells: Sequence[str],
    separator: str | None,
    path: Path,
    wanted: Iterable[str] | None,
    default: str | None = SEPARATOR,
) -> dict[str, tuple[str, ...]]:
    """Return the labels that each cell lists, by the text of the cell.

    Args:
        cells: Of the column with the labels.
        separator: Between labels in one cell, if the user said so.
        path: The table, for messages.
        wanted: Labels that the user named; a word for "blank" among them is a label.
        default: What separates labels if nobody says; None where a cell holds one label.

    Raises:
        DataError: If a name may be one label or several, and nobody has said which.
    """
    kept = set(wanted or ())
    blank = {word for word in BLANK_WORDS if word not in {name.casefold() for name in kept}}
    mark = separator or default
    found: dict[str, tuple[str, ...]] = {}
    plain: list[str] = []
    for cell in dict.fromkeys(cells):
        text = cell.strip()
        names = _listed(text, path)
        if names is None:
            plain.append(cell)
            names = [text] if mark is None else text.split(mark)
        stripped = (name.strip() for name in names)
        found[cell] = tuple(dict.fromkeys(n for n in stripped if n.casefold() not in blank))
    if separator is None:
        counts = Counter(cell for cell in cells if found[cell])
        texts = {cell: counts[cell] for cell in plain if found[cell]}
        every = {name for names in found.values() for name in names} | kept
        _refuse_doubtful(texts, {n for cell in texts for n in found[cell]}, every, path, default)
    return found


def is_list_text(cell: str) -> bool:
    """Say whether a cell holds a list of names as a program prints it."""
    return _LIST.fullmatch(cell.strip()) is not None or bool(_CHOICES.fullmatch(cell.strip()))


def _listed(text: str, path: Path) -> list[str] | None:
    """Return the names in a list that a program printed; None if the text is no such list."""
    choices = _CHOICES.fullmatch(text)
    inner = choices[1] if choices else text
    if _LIST.fullmatch(inner):
        return [str(ast.literal_eval(name)) for name in re.findall(_QUOTED, inner, re.DOTALL)]
    if text[:1] + text[-1:] in ("[]", "{}") and re.search("[,:]", text):
        raise DataError(
            f"{path}: the cell {text[:60]!r} is no list of label names; write them as "
            f'dog{SEPARATOR}cat or as ["dog", "cat"], or name them with one column per label.'
        )
    return None


def _refuse_doubtful(
    cells: dict[str, int], names: set[str], every: set[str], path: Path, default: str | None
) -> None:
    """Refuse names that look like several labels.

    Args:
        cells: How often each cell that is no printed list is there.
        names: The labels that were read from them.
        every: All labels.
        path: The table, for messages.
        default: What was taken to separate them.
    """
    # Names may hold commas ("apple, red"), so another mark is asked for and never guessed.
    if default is not None and not any(default in cell for cell in cells):
        mark = next((mark for mark in ",;" if any(mark in cell for cell in cells)), None)
        if mark is not None:
            raise DataError(
                f"{path}: labels in one cell are separated by '{SEPARATOR}', as in "
                f"dog{SEPARATOR}cat; for another mark say separator={mark!r}."
            )
    found = _parts_are_labels(names, every, all) or _most_share_a_mark(cells, names, default)
    if found is None and default is not None and not any(default in cell for cell in cells):
        # Where no cell shows what separates labels, one part that is a label is enough to ask.
        found = _parts_are_labels(names, every, any)
    if found is None:
        return
    name, mark, reason = found
    as_one = f"separator={SEPARATOR!r}" if default else "format='long' (--table-format long)"
    raise DataError(
        f"{path}: {name!r} may be one label or several: {reason}. Say separator={mark!r} "
        f"(--separator) if that stands between labels, or {as_one} if this is one name."
    )


def _parts_are_labels(
    names: set[str], every: set[str], enough: Callable[[Iterable[bool]], bool]
) -> tuple[str, str, str] | None:
    known = {name.casefold() for name in every}
    for name in sorted(names):
        marks = dict.fromkeys(character for character in name if not character.isalnum())
        for mark in (" and ", *sorted(marks, key=str.isspace)):
            parts = [part.strip() for part in name.split(mark)]
            parts = [part for part in parts if part] if mark.isspace() else parts
            labels = [part for part in parts if part.casefold() in known]
            if len(parts) > 1 and enough(part in labels for part in parts):
                are = "are labels themselves" if len(labels) > 1 else "is a label itself"
                return name, mark, f"{' and '.join(map(repr, labels))} {are}"
    return None


def _most_share_a_mark(
    cells: dict[str, int], names: set[str], default: str | None
) -> tuple[str, str, str] | None:
    for mark in _USUAL if default else f"{SEPARATOR}{_USUAL}":
        having = {cell: count for cell, count in cells.items() if mark in cell}
        # Where most cells have the usual mark, they are separated by that.
        others = sum(count for cell, count in cells.items() if default and default in cell)
        if sum(having.values()) <= max(sum(cells.values()) / 2, others):
            continue
        several = sorted(name for name in names if mark in name.strip(mark))
        # Names of several words have new words in each; lists of a few labels repeat theirs.
        parts = {part.strip().casefold() for name in several for part in name.split(mark)}
        mixed = len({frozenset(name.casefold().split(mark)) for name in several}) < len(several)
        most_parts = len(several) - 1 if mark == " " else len(several)
        if several and (mixed or mark in "|,;+&\n" or len(parts) <= most_parts):
            return several[0], mark, f"most cells have {mark!r} in them"
    return None
