"""`trmml data`: look at label tables."""

from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.exits import DATA
from trmml.cli.options import (
    Quiet,
    Replace,
    Report,
    as_json,
    require_free,
    require_no_table,
    writing,
)
from trmml.cli.tables import (
    Table,
    TableLabels,
    TableOptions,
    ValSplit,
    of_validation,
    with_table_options,
)
from trmml.files import write_text

app = typer.Typer(help="Look at label tables, and convert them.", no_args_is_help=True)


@app.command("check")
@with_table_options
def check(
    table: Table,
    options: TableOptions,
    labels: TableLabels = None,
    val: Annotated[
        Path | None,
        of_validation(metavar="TABLE", help="A table of them, which is compared with this one."),
    ] = None,
    val_split: ValSplit = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="That should hold, repeatable: 'puppy implies dog', 'day excludes night'.",
        ),
    ] = None,
    photos: Annotated[
        bool,
        typer.Option(
            "--photos/--no-photos", metavar="", help="Open every photo, or the table alone."
        ),
    ] = True,
    html: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a page with bars and photos.")
    ] = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
    quiet: Quiet = False,
) -> None:
    """Say how a table is understood, and whether `finetune` would take it; opens every photo.

    Example:
    trmml data check labels.csv --images photos/ --html check.html
    """
    from trmml.data.checks import check_dataset

    require_no_table((html,), table, val)
    dataset = options.read(table, labels)
    held_out = options.read_others(table, val, val_split, labels)
    found = check_dataset(
        dataset, val=held_out, rules=rule or (), open_photos=photos, progress=not quiet
    )
    if html is not None:
        from trmml.data.check_page import check_page

        with writing(html):
            write_text(html, check_page(found, dataset))
    typer.echo(as_json(found.to_dict()) if format is Report.json else found)
    if not found.is_accepted:
        raise typer.Exit(DATA)


@app.command("convert")
@with_table_options
def convert(
    table: Table,
    output: Annotated[Path, typer.Argument(help="A .csv (wide) or .jsonl file.")],
    options: TableOptions,
    labels: TableLabels = None,
    replace: Replace = False,
) -> None:
    """Write a table of any form as a wide CSV or as JSONL; the three states are kept.

    Photo paths are written relative to --images, or else to the folder of the new
    file.

    Example:
    trmml data convert coco.json labels.csv --unlabeled negative
    """
    from trmml.data.writing import write_dataset

    require_no_table((output,), table)
    require_free(output, replace)
    dataset = options.read(table, labels)
    write_dataset(dataset, output, images=options.images)
    summary = dataset.summary()
    typer.echo(summary.interpretation, err=True)
    typer.echo(
        f"{output}: {len(dataset)} photos, {len(dataset.labels)} labels, "
        f"{100 * summary.known_share:.1f} % of the cells known"
    )
