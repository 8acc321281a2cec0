"""What commands share: options, and reading and printing values."""

import json
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trmml.errors import ConfigError

if TYPE_CHECKING:
    from trmml.data.dataset import MultiLabelDataset


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


class Report(StrEnum):
    """How a report is printed."""

    table = "table"
    json = "json"


class GoalKind(StrEnum):
    """What a threshold is to reach."""

    f1 = "f1"
    precision = "precision"
    recall = "recall"
    cost = "cost"


class Unlisted(StrEnum):
    """What a label that a table does not list means."""

    unknown = "unknown"
    negative = "negative"


Table = Annotated[Path, typer.Argument(help="Label table: CSV, JSONL, COCO, VOC, … or a folder.")]
Images = Annotated[Path | None, typer.Option(help="Folder that photo paths are relative to.")]
Labels = Annotated[str | None, typer.Option(help="Labels to use, separated by commas.")]
Encoding = Annotated[
    str | None,
    typer.Option("--label-encoding", help="Cells of a wide CSV, e.g. 1/-1/0 or chexpert."),
]
UnlabeledOption = Annotated[
    Unlisted | None, typer.Option(help="What a label means that a list of positives leaves out.")
]
TableFormatOption = Annotated[
    str | None, typer.Option(help="Of the table, if the guess is wrong: wide, list, long, coco, …")
]
Separator = Annotated[str | None, typer.Option(help="Between labels in one cell; | by default.")]
Split = Annotated[str | None, typer.Option(help="Use only rows with this text in column 'split'.")]
Backbone = Annotated[
    str | None, typer.Option(help="CLIP, e.g. ViT-B-16-quickgelu/openai or local-dir:FOLDER.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def read_table(
    table: Path,
    images: Path | None,
    labels: str | None,
    label_encoding: str | None,
    unlabeled: Unlisted | None,
    split: str | None,
    table_format: str | None = None,
    separator: str | None = None,
) -> "MultiLabelDataset":
    """Read a label table with the options that all commands share."""
    from trmml.data.tables import read_dataset

    meaning: Literal["unknown", "negative"] | None = None
    if unlabeled is not None:
        meaning = "unknown" if unlabeled is Unlisted.unknown else "negative"
    return read_dataset(
        table,
        images=images,
        labels=names_of(labels),
        label_encoding=label_encoding,
        unlabeled=meaning,
        split=split,
        format=table_format,
        separator=separator,
    )


def names_of(labels: str | None) -> list[str] | None:
    """Split names at commas."""
    return None if labels is None else [name.strip() for name in labels.split(",") if name.strip()]


def assignments_of(texts: list[str]) -> dict[str, Any]:
    """Read `name=value`; a value is TOML, or else plain text."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, as training.epochs=5; got {text!r}.")
        try:
            values[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name.strip()] = value.strip()
    return values


def no_bars(quiet: bool) -> bool:
    """Say whether to leave out progress bars: when told so, or away from a terminal."""
    return quiet or not sys.stderr.isatty()


def as_json(values: Any) -> str:
    """Return indented JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False)
