"""`trmml data`: look at label tables."""

from typing import Annotated

import typer

from trmml.cli.exits import DATA
from trmml.cli.options import (
    Encoding,
    Images,
    Labels,
    Quiet,
    Report,
    Split,
    Table,
    UnlabeledOption,
    as_json,
    no_bars,
    read_table,
)

app = typer.Typer(help="Look at label tables.", no_args_is_help=True)


@app.command("check")
def check(
    table: Table,
    images: Images = None,
    labels: Labels = None,
    label_encoding: Encoding = None,
    unlabeled: UnlabeledOption = None,
    split: Split = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
    quiet: Quiet = False,
) -> None:
    """Say how a table is understood, and whether `finetune` would take it; opens every photo.

    Example: trmml data check labels.csv --images photos/
    """
    from trmml.data.photos import unreadable_photos

    dataset = read_table(table, images, labels, label_encoding, unlabeled, split)
    summary = dataset.summary()
    unreadable = unreadable_photos(dataset.photos, progress=not no_bars(quiet))
    if format is Report.json:
        typer.echo(as_json(summary.to_dict() | {"unreadable": unreadable}))
    else:
        typer.echo(summary)
        for reason in unreadable:
            typer.echo(f"problem: {reason}")
    if unreadable or 0 in summary.positives:
        raise typer.Exit(DATA)
