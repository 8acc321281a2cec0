"""`trmml data`: look at label tables."""

from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.exits import DATA
from trmml.cli.options import (
    Encoding,
    Images,
    Labels,
    Quiet,
    Report,
    Separator,
    Split,
    Table,
    TableFormatOption,
    UnlabeledOption,
    as_json,
    no_bars,
    read_table,
)

app = typer.Typer(help="Look at label tables, and convert them.", no_args_is_help=True)


@app.command("check")
def check(
    table: Table,
    images: Images = None,
    labels: Labels = None,
    label_encoding: Encoding = None,
    unlabeled: UnlabeledOption = None,
    split: Split = None,
    table_format: TableFormatOption = None,
    separator: Separator = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
    quiet: Quiet = False,
) -> None:
    """Say how a table is understood, and whether `finetune` would take it; opens every photo.

    Example: trmml data check labels.csv --images photos/
    """
    from trmml.data.photos import unreadable_photos

    dataset = read_table(
        table, images, labels, label_encoding, unlabeled, split, table_format, separator
    )
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


@app.command("convert")
def convert(
    table: Table,
    output: Annotated[Path, typer.Argument(help="A .csv (wide) or .jsonl file.")],
    images: Images = None,
    labels: Labels = None,
    label_encoding: Encoding = None,
    unlabeled: UnlabeledOption = None,
    split: Split = None,
    table_format: TableFormatOption = None,
    separator: Separator = None,
) -> None:
    """Write a table of any form as a wide CSV or as JSONL; the three states are kept.

    Photo paths are written relative to --images, or else to the folder of the new file.

    Example: trmml data convert instances.json labels.csv --images photos/ --unlabeled negative
    """
    from trmml.data.writing import write_dataset

    dataset = read_table(
        table, images, labels, label_encoding, unlabeled, split, table_format, separator
    )
    write_dataset(dataset, output, images=images)
    summary = dataset.summary()
    typer.echo(summary.interpretation, err=True)
    typer.echo(
        f"{output}: {len(dataset)} photos, {len(dataset.category_names)} labels, "
        f"{100 * summary.known_share:.1f} % of the cells known"
    )
