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
from trmml.errors import ConfigError

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
    val: Annotated[Path | None, typer.Option(help="Table of validation photos.")] = None,
    val_split: Annotated[
        str | None, typer.Option(help="Validation rows by column 'split'.")
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="'puppy implies dog' or 'day excludes night'.")
    ] = None,
    photos: Annotated[
        bool, typer.Option(help="Open every photo; --no-photos looks at the table alone.")
    ] = True,
    html: Annotated[Path | None, typer.Option(help="Write a page with bars and photos.")] = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
    quiet: Quiet = False,
) -> None:
    """Say how a table is understood, and whether `finetune` would take it; opens every photo.

    Example: trmml data check labels.csv --images photos/ --html check.html
    """
    from trmml.data.checks import check_dataset

    rest = (table_format, separator)
    dataset = read_table(table, images, labels, label_encoding, unlabeled, split, *rest)
    held_out = None
    if val is not None or val_split is not None:
        options = (images, None, label_encoding, unlabeled, val_split)
        held_out = read_table(val or table, *options, *rest)
    found = check_dataset(
        dataset, val=held_out, rules=rule or (), open_photos=photos, progress=not no_bars(quiet)
    )
    if html is not None:
        from trmml.data.check_page import check_page
        from trmml.files import write_text

        try:
            write_text(html, check_page(found, dataset))
        except OSError as error:
            raise ConfigError(f"Cannot write {html}: {error.strerror}.") from error
    typer.echo(as_json(found.to_dict()) if format is Report.json else found)
    if not found.is_accepted:
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
