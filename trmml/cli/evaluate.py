"""`trmml evaluate`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.options import (
    Backbone,
    BatchSize,
    ImageSize,
    Quiet,
    Report,
    Templates,
    WhichModel,
    as_json,
    exit_if_skipped,
    require_no_table,
    writing,
)
from trmml.cli.tables import (
    Table,
    TableLabels,
    TableOptions,
    with_shared_labels,
    with_table_options,
)
from trmml.errors import ConfigError


@with_table_options
def evaluate(
    model: WhichModel,
    table: Table,
    options: TableOptions,
    backbone: Backbone = None,
    image_size: ImageSize = None,
    templates: Templates = None,
    labels: TableLabels = None,
    batch_size: BatchSize = 32,
    dump_scores: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write all scores and labels.")
    ] = None,
    save_as: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Keep the result in the model folder and its card, e.g. as test."
        ),
    ] = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
    quiet: Quiet = False,
) -> None:
    """Measure a model on labelled photos; unknown labels never count.

    Example:
    trmml evaluate runs/shop test.csv --images photos/ --format json
    """
    require_no_table((dump_scores,), table)
    dataset = options.read(table, labels)
    from trmml.evaluation import measuring
    from trmml.zoo.catalog import ZERO_SHOT
    from trmml.zoo.folder import add_metrics
    from trmml.zoo.loading import load_model

    matcher = load_model(
        model,
        labels=dataset.labels if model == ZERO_SHOT else None,
        backbone=backbone,
        image_size=image_size,
        templates=templates,
    )
    with_shared_labels(dataset, matcher.labels, table, labels)
    # Before the measurement, which may take hours.
    folder = None if save_as is None else _folder_for(save_as, matcher.source)
    found = measuring.evaluate(matcher, dataset, batch_size=batch_size, progress=not quiet)
    typer.echo(as_json(found.to_dict()) if format is Report.json else str(found))
    if dump_scores is not None:
        with writing(dump_scores):
            measuring.dump_scores(found, dataset, dump_scores, options.photo_folder(table))
    if save_as is not None and folder is not None:
        add_metrics(folder, save_as, found.to_dict())
    exit_if_skipped(found.skipped)


def _folder_for(save_as: str, source: str | None) -> Path:
    """Return the model folder in which a result can be kept under a name.

    Raises:
        ConfigError: If the model is in no folder, or the name could not stand in its card.
    """
    if source is None or not Path(source).is_dir():
        raise ConfigError("--save-as needs a model folder.")
    if not re.fullmatch(r"\w[\w .-]*", save_as):
        raise ConfigError(f"--save-as takes a plain name, as test or test-2026; got {save_as!r}.")
    return Path(source)
