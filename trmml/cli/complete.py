"""`trmml complete`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli.options import (
    Labels,
    Moved,
    Quiet,
    Replace,
    Table,
    TableOptions,
    require_free,
    require_no_table,
    with_table_options,
    writing,
)
from trmml.files import write_text
from trmml.reports.columns import first_column

if TYPE_CHECKING:
    from trmml.data.dataset import MultiLabelDataset, Summary
    from trmml.tasks.completion import Completion

SHOWN_MISTAKES = 5
CALIBRATED_ON_ITSELF = (
    "Calibrated on the table's own known labels; if the model was trained on them, name other photos "
    "with --calibrate-on or --calibrate-split."
)


@with_table_options
def complete(
    table: Table,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Completed table: .csv (wide) or .jsonl.")
    ],
    model: Annotated[str, typer.Option(help="Model folder or name, or 'zero-shot'.")],
    options: TableOptions,
    backbone: Moved = None,
    labels: Labels = None,
    precision: Annotated[
        float, typer.Option(help="Wanted share of right ones among filled blanks, 0.5 to below 1.")
    ] = 0.9,
    calibrate_on: Annotated[
        Path | None, typer.Option(help="Table of photos that the model was not trained on.")
    ] = None,
    calibrate_split: Annotated[
        str | None, typer.Option(help="The same, by column 'split'.")
    ] = None,
    any_rates: Annotated[
        bool,
        typer.Option(
            "--any-rates",
            help="Go on where labels are positive at other rates in the table to calibrate on.",
        ),
    ] = False,
    estimates: Annotated[
        Path | None, typer.Option(help="CSV of what is thought of blanks.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page to review, with heatmaps.")] = None,
    replace: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Fill the blanks of a table where they are clear; list likely mistakes and what to ask next.

    Known cells never change. Blanks that are not clear stay blank.

    Example: trmml complete labels.csv --model runs/shop -o completed.csv --html review.html
    """
    require_no_table((output, estimates, html), table, calibrate_on)
    require_free(output, replace)
    dataset = options.read(table, labels)
    reference = options.read_others(table, calibrate_on, calibrate_split, labels)
    from trmml.data.writing import write_dataset
    from trmml.tasks import completion
    from trmml.tasks.review import estimates_csv, review_page
    from trmml.zoo.catalog import ZERO_SHOT
    from trmml.zoo.loading import load_model

    names = dataset.labels if model == ZERO_SHOT else None
    matcher = load_model(model, labels=names, backbone=backbone)
    if reference is None:
        typer.echo(CALIBRATED_ON_ITSELF, err=True)
    found = completion.complete(
        matcher,
        dataset,
        precision=precision,
        calibrate_on=reference,
        any_rates=any_rates,
        progress=not quiet,
    )
    for warning in found.warnings:
        typer.echo(warning, err=True)
    write_dataset(found.dataset, output, images=options.images)
    if estimates is not None:
        with writing(estimates):
            write_text(estimates, estimates_csv(found, dataset, options.photo_folder(table)))
    if html is not None:
        with writing(html):
            write_text(html, review_page(found, dataset, matcher, table.name))
    _print_completion(found, dataset, output)


def _print_completion(found: "Completion", dataset: "MultiLabelDataset", output: Path) -> None:
    _print_counts(dataset.summary(), found.dataset.summary())
    _print_mistakes(found, dataset)
    typer.echo(
        f"\n{found.doubts}\n{output}: {int(found.decided.sum())} blanks filled, "
        f"{len(found.mistakes)} likely mistakes, {len(found.questions)} questions"
    )


def _print_counts(before: "Summary", after: "Summary") -> None:
    """Print a line per label: its blanks, how many became positive and negative, how many are left."""
    head, *names = first_column("label", before.labels)
    typer.echo(f"{head}  blanks  positive  negative  left")
    for i, name in enumerate(names):
        positives = after.positives[i] - before.positives[i]
        negatives = after.negatives[i] - before.negatives[i]
        typer.echo(
            f"{name}  {before.unknown[i]:>6}  {positives:>8}  {negatives:>8}  {after.unknown[i]:>4}"
        )


def _print_mistakes(found: "Completion", dataset: "MultiLabelDataset") -> None:
    """Print the known cells that the estimates contradict most; the page has them all."""
    from trmml.labels import POSITIVE

    for cell in found.mistakes[:SHOWN_MISTAKES]:
        stated = "yes" if dataset.states[cell.row, cell.column] == POSITIVE else "no"
        typer.echo(
            f"check {dataset.photos[cell.row].name}: {dataset.labels[cell.column]}? The table "
            f"says {stated}, the estimate {100 * cell.probability:.0f} %."
        )
