"""What all readers share: rows with their places, what a blank means, and the photos that they name."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from trmml.errors import DataError
from trmml.labels import NEGATIVE, UNKNOWN

MAX_NAMED = 10
SPLIT_COLUMN = "split"
GUESSED_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Tried in turn for a photo that is named without one."""

Unlabeled = Literal["unknown", "negative"]
TableFormat = Literal[
    "wide", "list", "long", "chexpert", "jsonl", "coco", "label-studio", "voc", "folders"
]


@dataclass(frozen=True)
class Options:
    """How the user says that a table is to be read.

    Attributes:
        labels: Categories to read; all if None.
        label_encoding: Name of the encoding of cells.
        unlabeled: What a label that a list of positives leaves out means.
        split: Rows to read.
        separator: Between labels in one cell.
    """

    labels: tuple[str, ...] | None = None
    label_encoding: str | None = None
    unlabeled: Unlabeled | None = None
    split: str | None = None
    separator: str | None = None


@dataclass(frozen=True)
class Row:
    """One record of a table.

    Attributes:
        line: Where it stands; counted from 1.
        image: The photo, as the table names it.
        states: What it states, by category.
        unmentioned: What the other categories are, if not what they are in the whole table.
        other_names: Further names to try for the photo.
    """

    line: int
    image: str
    states: dict[str, int]
    unmentioned: int | None = None
    other_names: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Table:
    """All rows, and what a category that a row does not mention is in it.

    Attributes:
        rows: In the order of the file.
        category_names: In the order of the file.
        interpretation: What was understood, in one sentence.
        unmentioned: What a category is that a row does not state.
        unit: What `Row.line` counts.
    """

    rows: list[Row]
    category_names: list[str]
    interpretation: str
    unmentioned: int = UNKNOWN
    unit: str = "line"


def unmentioned_state(unlabeled: str | None, path: Path) -> int:
    """Return what a label is that a list of positives leaves out.

    Raises:
        DataError: If nobody has said it.
    """
    if unlabeled not in ("unknown", "negative"):
        raise DataError(
            f"{path} lists positive labels only. Say what a label that is not listed means: "
            "unlabeled='unknown' if nobody looked, unlabeled='negative' if it is not there."
        )
    return UNKNOWN if unlabeled == "unknown" else NEGATIVE


def refuse_encoding(options: Options, path: Path, form: str) -> None:
    """Make sure that no encoding of cells was given for a form that has none.

    Raises:
        DataError: If one was given.
    """
    if options.label_encoding is not None:
        raise DataError(f"{path} {form}; `label_encoding` does not apply.")


def merge_duplicates(table: Table, path: Path) -> list[Row]:
    """Join rows of the same photo; two that state different things are an error."""
    merged: dict[str, Row] = {}

    def rest(row: Row) -> int:
        return table.unmentioned if row.unmentioned is None else row.unmentioned

    for row in table.rows:
        if not row.image:
            raise DataError(f"{path}, {table.unit} {row.line}: the photo is not named.")
        photo = str(Path(row.image))  # ./a.jpg is a.jpg
        earlier = merged.setdefault(photo, row)
        if earlier is row:
            continue
        # What neither row mentions is the same in both; where a row leaves the rest open, only what
        # it states itself can disagree.
        names = row.states.keys() | (earlier.states.keys() if rest(row) != UNKNOWN else set())
        for name in sorted(names):
            first = earlier.states.get(name, rest(earlier))
            second = row.states.get(name, rest(row))
            if UNKNOWN not in (first, second) and first != second:
                raise DataError(
                    f"{path}: {table.unit}s {earlier.line} and {row.line} disagree about {name!r} "
                    f"in {row.image}; keep one of them."
                )
        for name, state in row.states.items():
            if state != UNKNOWN:
                earlier.states[name] = state
        if rest(earlier) != rest(row):
            merged[photo] = replace(earlier, unmentioned=UNKNOWN)
    return list(merged.values())


def find_table_photos(rows: list[Row], table: Path, images: str | Path | None) -> list[Path]:
    """Resolve photo paths; all that are missing or empty are named in one error."""
    folders = [table if table.is_dir() else table.parent]
    if images is not None:
        folders.insert(0, Path(images).expanduser())
        if not folders[0].is_dir():
            raise DataError(f"The photo folder {folders[0]} does not exist.")
    photos, missing, empty = [], [], []
    for row in rows:
        photo = _found(row, folders)
        if photo is None:
            missing.append(row.image)
            continue
        photos.append(photo)
        if photo.stat().st_size == 0:
            empty.append(row.image)
    if missing or empty:
        looked = " and ".join(str(folder) for folder in folders)
        problems = []
        if missing:
            problems.append(f"{len(missing)} of {len(rows)} photos not found: {_some(missing)}")
        if empty:
            problems.append(f"{len(empty)} photos are empty (0 bytes): {_some(empty)}")
        raise DataError(f"{table}: {'; '.join(problems)}. Looked in {looked}.")
    return photos


def _found(row: Row, folders: list[Path]) -> Path | None:
    names = [row.image, *row.other_names]
    if not Path(row.image).suffix:
        names += [row.image + suffix for suffix in GUESSED_SUFFIXES]
    for folder in folders:
        for name in names:
            try:
                if (folder / name).is_file():
                    return folder / name
            except (OSError, ValueError):  # a name that no file can have
                continue
    return None


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
