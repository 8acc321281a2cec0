"""`trmml label` and `trmml demo`: the page."""

import contextlib
import dataclasses
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli.options import (
    A_MODEL,
    DEFAULT_MODEL,
    Labels,
    Moved,
    assignments_of,
    names_of,
    of_model,
    require_free,
    require_no_table,
)
from trmml.cli.tables import TableLabels, TableOptions, with_table_options

if TYPE_CHECKING:
    from trmml.app.workspace import Workspace
    from trmml.matcher.model import TextRegionMatcher

of_page = partial(typer.Option, rich_help_panel="Page")

Port = Annotated[int, of_page(metavar="PORT", min=0, max=65535, help="0: one that is free.")]
Host = Annotated[
    str, of_page(metavar="ADDRESS", help="Where to listen; 127.0.0.1: on this machine alone.")
]
Open = Annotated[
    bool, of_page("--open/--no-open", metavar="", help="Open the page in the browser.")
]


@with_table_options
def label(
    table: Annotated[
        Path,
        typer.Argument(
            help="Label table, which stays as it is; or a folder of photos, with --labels."
        ),
    ],
    options: TableOptions,
    model: Annotated[
        str,
        of_model(metavar="MODEL", help="What ranks the questions: a folder, a name, or zero-shot."),
    ] = DEFAULT_MODEL,
    backbone: Moved = None,
    labels: TableLabels = None,
    output: Annotated[
        Path | None,
        typer.Option(
            *("--output", "-o"),
            metavar="CSV",
            help="The table with the answers.",
            show_default="TABLE.answered.csv, beside it",
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="JSONL",
            help="The answers, one after the other.",
            show_default="TABLE.answers.jsonl, beside it",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of learning, repeatable: training.epochs=5.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", metavar="", help="Replace an output that another program wrote."),
    ] = False,
    host: Host = "127.0.0.1",
    port: Port = 0,
    open_: Open = True,
) -> None:
    """Answer questions about photos on a local page, learn from the answers, and go on.

    Every answer is in the journal (labels.answers.jsonl) before the next photo
    shows; the table with all answers is labels.answered.csv. Start it again to go
    on.

    Photos without any table are a folder and the labels to ask about, as
    photos/ --labels dog,cat: what the model thinks of them decides what is asked.

    Example:
    trmml label labels.csv --images photos/
    """
    from trmml.app.serving import require_packages

    require_packages()
    stem = table.resolve().with_suffix("") if table.is_file() else table.resolve()
    journal = journal or stem.with_name(f"{stem.name}.answers.jsonl")
    output = output or stem.with_name(f"{stem.name}.answered.csv")
    require_no_table((output, journal), table)
    if not journal.exists():  # else it was written from the journal, and is so again
        require_free(output, replace)
    settings = assignments_of(set_ or [])
    options = _for_photos_alone(options, table, labels)
    dataset = options.read(table, labels, may_lack_labels=labels is not None)
    from trmml.app.workspace import Workspace
    from trmml.zoo.loading import load_model

    matcher = load_model(model, labels=dataset.labels, backbone=backbone)
    matcher.source = matcher.source or model
    images = options.photo_folder(table)
    workspace = Workspace(dataset, matcher, images, journal, output, settings)
    if workspace.journal.answers:
        typer.echo(f"{len(workspace.journal.answers)} answers so far, in {journal}", err=True)
    with contextlib.closing(workspace):
        _serve(matcher, workspace, host, port, open_)
    typer.echo(f"wrote {output}", err=True)


def _for_photos_alone(options: TableOptions, table: Path, labels: str | None) -> TableOptions:
    """Return the options that read a folder as photos without labels, where it is one."""
    from trmml.data.readers.folders import is_without_labels

    is_blank = (
        options == TableOptions(images=options.images)
        and table.is_dir()
        and is_without_labels(table, names_of(labels) or ())
    )
    return dataclasses.replace(options, table_format="photos") if is_blank and labels else options


def demo(
    model: Annotated[str, typer.Argument(help=A_MODEL)] = DEFAULT_MODEL,
    labels: Labels = None,
    backbone: Moved = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    open_: Open = True,
) -> None:
    """Drop photos on a local page to see their tags, scores and heatmaps.

    Example:
    trmml demo runs/shop
    """
    from trmml.app.serving import require_packages

    require_packages()
    from trmml.zoo.loading import load_model

    matcher: TextRegionMatcher = load_model(model, labels=names_of(labels), backbone=backbone)
    _serve(matcher, None, host, port, open_)


def _serve(
    matcher: "TextRegionMatcher", workspace: "Workspace | None", host: str, port: int, open_: bool
) -> None:
    """Serve the page, with questions if there is a workspace, until somebody ends it."""
    from trmml.app.server import make_app
    from trmml.app.serving import serve

    def announce(address: str) -> None:
        typer.echo(address)
        typer.echo("Ctrl+C ends it.", err=True)
        if open_:
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address)

    with contextlib.suppress(KeyboardInterrupt):  # the end that somebody asks for is a good one
        serve(lambda token, hosts: make_app(matcher, workspace, token, hosts), announce, host, port)
