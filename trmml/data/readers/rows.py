"""What all readers share: rows with their places, what a blank means, and the photos that they name."""

import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trmml.data.spelling import look_alikes, spelled
from trmml.errors import DataError
from trmml.files import is_folder
from trmml.labels import NEGATIVE, UNKNOWN

MAX_NAMED = 10
SPLIT_COLUMN = "split"
SPLIT_NAMES = (
    *("train", "training", "trainval", "val", "valid", "validation", "dev", "eval"),
    *("test", "testing", "holdout"),
)
"""What people call the parts of a data set, in lower case."""
GUESSED_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Tried in turn for a photo that is named without one."""

Unlabeled = Literal["unknown", "negative"]
TableFormat = Literal[
    "wide",
    "list",
    "long",
    "chexpert",
    "jsonl",
    "coco",
    "label-studio",
    "voc",
    "folders",
    "keywords",
]
Hierarchy = Literal["last", "path"]


@dataclass(frozen=True)
class Options:
    """How the user says that a table is to be read.

    Attributes:
        labels: Labels to read; all if None.
        label_encoding: Name of the encoding of cells.
        unlabeled: What a label that a list of positives leaves out means.
        split: Rows to read.
        separator: Between labels in one cell.
        hierarchy: Of keywords in a hierarchy, whether the label is the last part or the whole path.
        leave_out: Keywords that are no labels.
    """

    labels: tuple[str, ...] | None = None
    label_encoding: str | None = None
    unlabeled: Unlabeled | None = None
    split: str | None = None
    separator: str | None = None
    hierarchy: Hierarchy = "last"
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One record of a table.

    Attributes:
        line: Where it stands; counted from 1.
        image: The photo, as the table names it.
        states: What it states, by label.
        unmentioned: What the other labels are, if not what they are in the whole table.
        other_names: Further names to try for the photo.
        source: What it was read from, where a name says more than `line`.
    """

    line: int
    image: str
    states: dict[str, int]
    unmentioned: int | None = None
    other_names: tuple[str, ...] = field(default=(), compare=False)
    source: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """What the row is called in messages."""
        return self.source or str(self.line)


@dataclass(frozen=True)
class Table:
    """All rows, and what a label that a row does not mention is in it.

    Attributes:
        rows: In the order of the file.
        labels: In the order of the file.
        interpretation: What was understood, in one sentence.
        unmentioned: What a label is that a row does not state.
        unit: What `Row.line` counts.
        has_all_labels: Whether `labels` are all that somebody looked for, as COCO's categories; of a
            label that a list of positives happens not to name, more is known.
    """

    rows: list[Row]
    labels: list[str]
    interpretation: str
    unmentioned: int = UNKNOWN
    unit: str = "line"
    has_all_labels: bool = False


def unmentioned_state(unlabeled: str | None, path: Path) -> int:
    """Return what a label is that a list of positives leaves out.

    Raises:
        DataError: If nobody has said it.
    """
    if unlabeled not in ("unknown", "negative"):
        raise DataError(
            f"{path} lists positive labels only. Say what a label that is not listed means: "
            "unlabeled='unknown' (--unlabeled unknown) if nobody looked, 'negative' if it is not there."
        )
    return UNKNOWN if unlabeled == "unknown" else NEGATIVE


def refuse_encoding(options: Options, path: Path, form: str) -> None:
    """Make sure that no encoding of cells was given for a form that has none.

    Raises:
        DataError: If one was given.
    """
    if options.label_encoding is not None:
        raise DataError(f"{path} {form}; `label_encoding` does not apply.")


def with_one_spelling(table: Table, path: Path) -> Table:
    """Return a table in which every label is spelled in one way, and say what still looks alike.

    Raises:
        DataError: If a row states different things of a label by its two spellings.
    """
    every = dict.fromkeys([*table.labels, *(name for row in table.rows for name in row.states)])
    to_spelled = {name: spelled(name) for name in every}
    changed = {name for name, new in to_spelled.items() if new != name}
    notes = [table.interpretation]
    if changed:
        labels = list(dict.fromkeys(to_spelled[name] for name in table.labels))
        several = {to_spelled[name] for name in changed} & (every.keys() - changed)
        if several:
            names = ", ".join(map(repr, sorted(several)[:MAX_NAMED]))
            notes.append(f"Spelled in several forms of Unicode, and one label each: {names}.")
        rows = [_respelled(row, to_spelled, changed, table, path) for row in table.rows]
        table = replace(table, rows=rows, labels=labels)
    for group in look_alikes(table.labels)[:MAX_NAMED]:
        shown = ", ".join(f"{name!r} ({name!a})" for name in group)
        notes.append(f"These labels look the same and are not: {shown}.")
    return replace(table, interpretation=" ".join(notes))


def _respelled(
    row: Row, to_spelled: dict[str, str], changed: set[str], table: Table, path: Path
) -> Row:
    if changed.isdisjoint(row.states):
        return row
    states: dict[str, int] = {}
    for name, state in row.states.items():
        known = states.get(to_spelled[name], UNKNOWN)
        if UNKNOWN not in (known, state) and known != state:
            raise DataError(
                f"{path}, {table.unit} {row.place}: {to_spelled[name]!r} is there in two spellings, "
                "once positive and once negative; keep one of them."
            )
        states[to_spelled[name]] = known if state == UNKNOWN else state
    return replace(row, states=states)


def merge_duplicates(table: Table, path: Path, images: Path | None) -> tuple[list[Row], list[Path]]:
    """Find the photos, and join the rows of each; two that state different things are an error.

    Args:
        table: What was read; may name a photo in several rows and in several ways.
        path: The table's file or folder.
        images: Folder to look in first.

    Returns:
        One row per photo, and the photos.

    Raises:
        DataError: If photos are missing or empty, rows of one photo disagree, or two names lead to one
            photo and one of them only without its folder or hash.
    """
    named: dict[str, Row] = {}
    for row in table.rows:
        if not row.image:
            raise DataError(f"{path}, {table.unit} {row.place}: the photo is not named.")
        _join(named, str(Path(row.image)), row, table, path)  # ./a.jpg is a.jpg
    # Once more by file: a table may name one photo in two ways, and links lead to the same.
    merged: dict[Path, Row] = {}
    photos: dict[Path, Path] = {}
    guessed: set[Path] = set()
    found = _find_photos(list(named.values()), path, images)
    for row, (photo, is_guess) in zip(named.values(), found, strict=True):
        file = photo.resolve()
        if file in merged and (is_guess or file in guessed):
            earlier = merged[file]
            raise DataError(
                f"{path}: {table.unit}s {earlier.place} and {row.place} name {earlier.image} and "
                f"{row.image}, and for both there is only {photo}; give each a file of the name that "
                "the table has, or remove one of them."
            )
        if is_guess:
            guessed.add(file)
        photos.setdefault(file, photo)
        _join(merged, file, row, table, path)
    return list(merged.values()), list(photos.values())


def _join(merged: dict[Any, Row], key: Any, row: Row, table: Table, path: Path) -> None:
    """Add what a row states to what is known of its photo."""

    def rest(row: Row) -> int:
        return table.unmentioned if row.unmentioned is None else row.unmentioned

    earlier = merged.setdefault(key, row)
    if earlier is row:
        return
    # What neither row mentions is the same in both; where a row leaves the rest open, only what
    # it states itself can disagree.
    names = row.states.keys() | (earlier.states.keys() if rest(row) != UNKNOWN else set())
    for name in sorted(names):
        first = earlier.states.get(name, rest(earlier))
        second = row.states.get(name, rest(row))
        if UNKNOWN not in (first, second) and first != second:
            places = dict.fromkeys((earlier.image, row.image))
            raise DataError(
                f"{path}: {table.unit}s {earlier.place} and {row.place} disagree about {name!r} "
                f"in {' = '.join(places)}; keep one of them."
            )
    for name, state in row.states.items():
        if state != UNKNOWN:
            earlier.states[name] = state
    if rest(earlier) == UNKNOWN:
        # A row that leaves the rest open takes nothing from one that says what it is.
        merged[key] = replace(earlier, unmentioned=rest(row))


def _find_photos(rows: list[Row], table: Path, images: Path | None) -> list[tuple[Path, bool]]:
    """Find each row's photo, as `_found` does; all that are missing or empty are named in one error."""
    folders = [table if table.is_dir() else table.parent]
    if images is not None:
        folders.insert(0, images)
        if not is_folder(folders[0]):
            raise DataError(f"The photo folder {folders[0]} does not exist.")
    photos, missing, empty = [], [], []
    for row in rows:
        found = _found(row, folders)
        if found is None:
            missing.append(row.image)
            continue
        photos.append(found)
        # What a broken download leaves; named here with all others, before any work.
        if found[0].stat().st_size == 0:
            empty.append(row.image)
    if missing or empty:
        looked = " and ".join(str(folder.resolve()) for folder in folders)
        problems = []
        if missing:
            problems.append(f"{len(missing)} of {len(rows)} photos not found: {_some(missing)}")
        if empty:
            problems.append(f"{len(empty)} photos are empty (0 bytes): {_some(empty)}")
        raise DataError(
            f"{table}: {'; '.join(problems)}. Looked in {looked}; name "
            "another folder with `images` (--images)."
        )
    return photos


def _found(row: Row, folders: list[Path]) -> tuple[Path, bool] | None:
    """Return a row's photo, and whether it was found under one of the other names alone."""
    names = [row.image, *row.other_names]
    others = {_composed(name) for name in row.other_names} - {_composed(row.image)}
    if not Path(row.image).suffix:
        names += [row.image + suffix for suffix in GUESSED_SUFFIXES]
    # macOS takes names apart into letters and accents, other systems leave them together.
    forms = [unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD")]
    for folder in folders:
        for name in dict.fromkeys([*names, *forms]):
            try:
                if (folder / name).is_file():
                    return folder / name, _composed(name) in others
            except (OSError, ValueError):  # a name that no file can have
                continue
    return None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
