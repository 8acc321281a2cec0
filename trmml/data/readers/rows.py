"""What all readers share: rows with their places, what a blank means, and the photos that they name."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from trmml.data.spelling import look_alikes, spelled
from trmml.errors import DataError
from trmml.labels import NEGATIVE, UNKNOWN

MAX_NAMED = 10
SPLIT_COLUMN = "split"
SPLIT_NAMES = (
    *("train", "training", "trainval", "val", "valid", "validation", "dev", "eval"),
    *("test", "testing", "holdout"),
)
"""What people call the parts of a data set, in lower case."""

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
    "photos",
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


def with_notes(table: Table, *notes: str) -> Table:
    """Return a table with further sentences on how it was understood."""
    said = " ".join(filter(None, (table.interpretation, *notes)))
    return replace(table, interpretation=said)


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
