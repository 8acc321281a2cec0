"""What commands share: options, and reading and printing values."""

import contextlib
import inspect
import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trmml.cli.exits import SOME_FAILED
from trmml.errors import ConfigError
from trmml.files import read_bytes, with_home, writing_to

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


class Hierarchy(StrEnum):
    """What of a keyword in a hierarchy is the label."""

    last = "last"
    path = "path"


class Unlisted(StrEnum):
    """What a label that a table does not list means."""

    unknown = "unknown"
    negative = "negative"


Table = Annotated[Path, typer.Argument(help="Label table: CSV, JSONL, COCO, VOC, … or a folder.")]
Labels = Annotated[
    str | None,
    typer.Option(
        help="Labels to use, separated by commas, or a .txt file with one in a line; a model also "
        "scores ones it never learned."
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="CLIP, e.g. ViT-B-16/datacomp_xl_s13b_b90k or local-dir:FOLDER (trmml models backbones)."
    ),
]
Moved = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="Where the model's CLIP is now, if it moved: local-dir:FOLDER."
    ),
]
Templates = Annotated[
    list[str] | None,
    typer.Option("--template", help="For zero-shot, repeatable: e.g. 'an aerial view of a {}'."),
]
ImageSize = Annotated[
    int | None, typer.Option(help="For zero-shot: side of the photos, in pixels.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Replace a file that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No word of how far it is.")]


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """The options of every command that reads a label table; `with_table_options` puts them there."""

    images: Annotated[
        Path | None, typer.Option(help="Folder that photo paths are relative to.")
    ] = None
    label_encoding: Annotated[
        str | None, typer.Option(help="Cells of a wide CSV, e.g. 1/-1/0 or chexpert.")
    ] = None
    unlabeled: Annotated[
        Unlisted | None,
        typer.Option(help="What a label means that a list of positives leaves out."),
    ] = None
    split: Annotated[
        str | None, typer.Option(help="Use only rows with this text in column 'split'.")
    ] = None
    table_format: Annotated[
        str | None, typer.Option(help="If the guess is wrong: wide, list, long, coco, …")
    ] = None
    separator: Annotated[
        str | None, typer.Option(help="Between labels in one cell; | by default.")
    ] = None
    hierarchy: Annotated[
        Hierarchy, typer.Option(help="Of a keyword as animals|dog: the last part, or the path.")
    ] = Hierarchy.last
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="Keyword that is no label, repeatable; also @people and @places."),
    ] = None

    def read(
        self, table: Path, labels: str | None = None, *, may_lack_labels: bool = False
    ) -> "MultiLabelDataset":
        """Read a table as the options say.

        Args:
            table: A file or folder.
            labels: Names of the labels to read, separated by commas; all if None.
            may_lack_labels: Whether labels that the table does not have are unknown in it.

        Raises:
            DataError: If the table or one of its photos cannot be used.
        """
        from trmml.data.readers.tables import read_dataset

        meaning: Literal["unknown", "negative"] | None = None
        if self.unlabeled is not None:
            meaning = "unknown" if self.unlabeled is Unlisted.unknown else "negative"
        return read_dataset(
            table,
            images=self.images,
            labels=names_of(labels),
            label_encoding=self.label_encoding,
            unlabeled=meaning,
            split=self.split,
            format=self.table_format,
            separator=self.separator,
            hierarchy="path" if self.hierarchy is Hierarchy.path else "last",
            leave_out=tuple(self.leave_out or ()),
            may_lack_labels=may_lack_labels,
        )

    def photo_folder(self, table: Path) -> Path:
        """Return what photo paths are relative to, in the table and in what is written of it."""
        return self.images or (table if table.is_dir() else table.parent)

    def read_others(
        self, table: Path, other: Path | None, split: str | None, labels: str | None
    ) -> "MultiLabelDataset | None":
        """Read further photos: another table, or another split of this one; None if neither is named."""
        if other is None and split is None:
            return None
        # What this table does not state of a label is unknown; it need not name all that are learned.
        return replace(self, split=split).read(other or table, labels, may_lack_labels=True)


def with_shared_labels(
    dataset: "MultiLabelDataset", names: tuple[str, ...], table: Path, chosen: str | None
) -> "MultiLabelDataset":
    """Return a data set with the labels that it shares with a model, and say which are left out.

    Args:
        dataset: What was read.
        names: The model's labels.
        table: Where from.
        chosen: The labels of the option --labels, which must all be the model's.

    Raises:
        DataError: If no label is shared, or the model lacks one that was chosen.
    """
    from trmml.evaluation.requirements import require_known, shared_labels

    if chosen is not None:
        require_known(dataset, names)
    shared = shared_labels(dataset, names)
    more = len(set(shared.dataset.labels) - set(dataset.labels))
    if more:
        typer.echo(
            f"{more} labels of the model that {table.name} never names are negative in it, as "
            "--unlabeled says; --labels chooses others.",
            err=True,
        )
    # Whoever has chosen labels knows that the model has others.
    if str(shared) and (shared.unknown_to_model or chosen is None):
        typer.echo(str(shared), err=True)
    return shared.dataset


def with_table_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `TableOptions` where it has the parameter `options`."""
    signature = inspect.signature(command)
    shared = inspect.signature(TableOptions).parameters
    # By keyword, where the order is free: options, which have defaults, before what has none.
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for own in signature.parameters.values()
        for parameter in (shared.values() if own.name == "options" else [own])
    ]

    def run(**values: Any) -> None:
        options = TableOptions(**{name: values.pop(name) for name in shared})
        command(options=options, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    # Typer reads a command's options from these two.
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@contextlib.contextmanager
def writing(place: Path, *, is_last: bool = True) -> Iterator[None]:
    """Say what was written, or fail with an error that names the place.

    Args:
        place: A file, or a folder that several things are written to one after the other.
        is_last: Whether nothing more comes there, so that it can be said.

    Raises:
        OutputError: If it cannot be written.
    """
    with writing_to(place):
        yield
    if is_last:
        typer.echo(f"wrote {place}", err=True)


def require_free(output: Path, replace: bool) -> None:
    """Check that a result replaces nothing, unless it may.

    Raises:
        ConfigError: If there is such a file.
    """
    if output.exists() and not replace:
        raise ConfigError(f"{output} exists already; choose another output, or add --replace.")


def require_no_table(outputs: Iterable[Path | None], *tables: Path | None) -> None:
    """Check that nothing that a command writes replaces a table that it reads, not even with --replace.

    Raises:
        ConfigError: If something does.
    """
    there = [table for table in tables if table is not None and table.exists()]
    for output in outputs:
        if output is None or not output.exists():
            continue
        # By file and not by name: a link leads to it as well.
        if any(output.samefile(table) for table in there):
            raise ConfigError(
                f"{output} is a table that this command reads; choose another output."
            )


def names_of(labels: str | None) -> list[str] | None:
    """Return the names in a text that are separated by commas, without blanks around them.

    One that ends in `.txt` is a file with a name in each line, which may hold commas.

    Raises:
        ConfigError: If there is no such file, or it holds no text.
    """
    if labels is None:
        return None
    names = labels.split(",")
    if len(names) == 1 and names[0].strip().endswith(".txt"):
        path = with_home(names[0].strip())
        try:
            names = read_bytes(path).decode("utf-8-sig").splitlines()
        except OSError as error:
            raise ConfigError(f"Cannot read the labels in {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path} is not UTF-8; save it as UTF-8, a label in each line."
            ) from error
    return [name.strip() for name in names if name.strip()]


def assignments_of(texts: list[str]) -> dict[str, Any]:
    """Return settings by name from texts like `name=value`; a value is TOML, or else plain text.

    Raises:
        ConfigError: If a text has no equals sign.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, as training.epochs=5; got {text!r}.")
        values[name.strip()] = value.strip()
        with contextlib.suppress(ValueError, RecursionError):  # it is no TOML, or much of it
            # A line end in the text must not bring in a second setting.
            found = tomllib.loads(f"value = {value}")
            if found.keys() == {"value"}:
                values[name.strip()] = found["value"]
    return values


def exit_if_skipped(reasons: Sequence[str]) -> None:
    """Name the photos that could not be read, and end the command with exit code 1 if there are any."""
    for reason in reasons:
        typer.echo(f"skipped: {reason}", err=True)
    if reasons:
        raise typer.Exit(SOME_FAILED)


def as_json(values: Any, indent: int | None = 2) -> str:
    """Return JSON, with escapes where the output cannot hold every character."""
    has_all = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return json.dumps(values, indent=indent, ensure_ascii=not has_all)
