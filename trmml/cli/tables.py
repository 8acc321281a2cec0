"""The label table as commands take it: the argument, its options, and what is read of it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trmml.cli.options import names_of

if TYPE_CHECKING:
    from trmml.data.dataset import MultiLabelDataset


class Hierarchy(StrEnum):
    """What of a keyword in a hierarchy is the label."""

    last = "last"
    path = "path"


class Unlisted(StrEnum):
    """What a label that a table does not list means."""

    unknown = "unknown"
    negative = "negative"


of_table = partial(typer.Option, rich_help_panel="Label table")
"""An option in this panel of a command's help."""

Table = Annotated[Path, typer.Argument(help="Label table: CSV, JSONL, COCO, VOC, … or a folder.")]
TableLabels = Annotated[
    str | None,
    of_table(
        "--labels", metavar="NAME,NAME", help="Labels to use of the table.", show_default="all"
    ),
]


of_validation = partial(typer.Option, rich_help_panel="Validation photos")
ValSplit = Annotated[
    str | None, of_validation(metavar="NAME", help="Or rows of this table, by column 'split'.")
]


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """The options of every command that reads a label table; `with_table_options` puts them there."""

    images: Annotated[
        Path | None,
        of_table(
            metavar="FOLDER",
            help="What photo paths are relative to.",
            show_default="the folder of the table",
        ),
    ] = None
    label_encoding: Annotated[
        str | None,
        of_table(
            metavar="CODES",
            help="Cells of a wide CSV: positive/negative/unknown, as 1/-1/0, or chexpert.",
            show_default="as the cells say, or asked",
        ),
    ] = None
    unlabeled: Annotated[
        Unlisted | None,
        of_table(
            help="What a label means that a list of positives leaves out.",
            show_default="asked",
        ),
    ] = None
    split: Annotated[
        str | None,
        of_table(
            metavar="NAME",
            help="Use only rows with this in column 'split'.",
            show_default="all rows",
        ),
    ] = None
    table_format: Annotated[
        str | None,
        of_table(
            metavar="FORMAT",
            help="wide, list, long, coco, keywords, …",
            show_default="as the content says",
        ),
    ] = None
    separator: Annotated[
        str | None,
        of_table(metavar="TEXT", help="Between labels in one cell; | by default."),
    ] = None
    hierarchy: Annotated[
        Hierarchy,
        of_table(help="Of a keyword as animals|dog: the last part, or the path."),
    ] = Hierarchy.last
    leave_out: Annotated[
        list[str] | None,
        of_table(
            metavar="KEYWORD",
            help="Is no label, nor what is below it; repeatable; also @people, @places.",
        ),
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
