"""`trmml complete`."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli.options import (
    ANY_MODEL,
    Moved,
    Quiet,
    Replace,
    of_model,
    require_free,
    require_no_table,
    writing,
)
from trmml.cli.tables import Table, TableLabels, TableOptions, with_table_options
from trmml.files import write_text
from trmml.reports.columns import first_column
from trmml.reports.numbers import first_of

if TYPE_CHECKING:
    from trmml.data.dataset import MultiLabelDataset, Summary
    from trmml.tasks.completion import Completion

of_calibration = partial(typer.Option, rich_help_panel="What to calibrate on")

SHOWN_MISTAKES = 5
CALIBRATED_ON_ITSELF = (
    "Calibrated on the table's own known labels; if the model was trained on them, name other photos "
    "with --calibrate-on or --calibrate-split."
)


@with_table_options
def complete(
    table: Table,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The new table: .csv (wide) or .jsonl."
        ),
    ],
    model: Annotated[
        str,
        of_model(metavar="MODEL", help=ANY_MODEL),
    ],
    options: TableOptions,
    backbone: Moved = None,
    labels: TableLabels = None,
    precision: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Wanted of right ones among filled blanks, 0.5 to below 1."
        ),
    ] = 0.9,
    calibrate_on: Annotated[
        Path | None,
        of_calibration(
            metavar="TABLE",
            help="A table of photos that the model was not trained on.",
            show_default="the table itself",
        ),
    ] = None,
    calibrate_split: Annotated[
        str | None,
        of_calibration(metavar="NAME", help="Or rows of this table, by column 'split'."),
    ] = None,
    any_rates: Annotated[
        bool,
        of_calibration(
            "--any-rates",
            metavar="",
            help="Go on where labels are positive at other rates in the table to calibrate on.",
        ),
    ] = False,
    estimates: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write what is thought of the blanks.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a page to review, with heatmaps.")
    ] = None,
    replace: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Fill the blanks of a table where they are clear; list likely mistakes and what to ask next.

    Known cells never change. Blanks that are not clear stay blank, as do those of
    labels that the model does not know. Photos that it has not learned from
    (--calibrate-on) say how sure it may be; without them it is too sure.

    Example:
    trmml complete labels.csv --images photos/ --model runs/shop -o filled.csv
    """
    require_no_table((output, estimates, html), table, calibrate_on)
    require_free(output, replace)
    everything = options.read(table, labels)
    reference = options.read_others(table, calibrate_on, calibrate_split, labels)
    from trmml.data.writing import write_dataset
    from trmml.tasks import completion
    from trmml.tasks.review import estimates_csv, review_page
    from trmml.zoo.catalog import ZERO_SHOT
    from trmml.zoo.loading import load_model

    names = everything.labels if model == ZERO_SHOT else None
    matcher = load_model(model, labels=names, backbone=backbone)
    dataset = _known_to(matcher.labels, everything, labels)
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
    if labels is not None:
        typer.echo(f"{output} has the labels of --labels alone, and no other columns.", err=True)
    write_dataset(_merged(found.dataset, everything), output, images=options.images)
    if estimates is not None:
        with writing(estimates):
            write_text(estimates, estimates_csv(found, dataset, options.photo_folder(table)))
    if html is not None:
        with writing(html):
            write_text(html, review_page(found, dataset, matcher, table.name))
    _print_completion(found, dataset, output)


def _known_to(
    names: tuple[str, ...], everything: "MultiLabelDataset", chosen: str | None
) -> "MultiLabelDataset":
    """Return what a model can complete, and say which labels it cannot.

    Args:
        names: The model's labels.
        everything: The table.
        chosen: The labels of the option --labels, which must all be the model's.

    Raises:
        DataError: If the model knows no label, or lacks one that was chosen.
    """
    from trmml.evaluation.requirements import require_known

    known = [name for name in everything.labels if name in names]
    if chosen is not None or not known:
        require_known(everything, names)
    left = [repr(name) for name in everything.labels if name not in names]
    if not left:
        return everything
    typer.echo(
        f"The model does not know {first_of(left)}: their blanks stay blank.",
        err=True,
    )
    return everything.with_labels(known)


def _merged(filled: "MultiLabelDataset", everything: "MultiLabelDataset") -> "MultiLabelDataset":
    """Return the whole table with the cells that were filled in some of its labels."""
    states = everything.states.copy()
    states[:, [everything.labels.index(name) for name in filled.labels]] = filled.states
    return dataclasses.replace(everything, states=states)


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
