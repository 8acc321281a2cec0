"""`trmml finetune` and `trmml evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.exits import SOME_FAILED
from trmml.cli.options import (
    Backbone,
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
    assignments_of,
    no_bars,
    read_table,
)
from trmml.errors import ConfigError


def finetune(
    table: Table,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model; new.")],
    images: Images = None,
    backbone: Backbone = None,
    model: Annotated[str | None, typer.Option(help="Or a trained model to start from.")] = None,
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
    known_fraction: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Experiment: keep this share of the training labels."),
    ] = None,
    hide_seed: Annotated[int, typer.Option(help="Seed of --known-fraction.")] = 0,
    single_positive: Annotated[
        bool, typer.Option(help="Experiment: keep one positive label per photo.")
    ] = False,
    recipe: Annotated[Path | None, typer.Option("--config", "-c", help="Recipe in TOML.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as training.epochs=5.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished run.")] = False,
    quiet: Quiet = False,
) -> None:
    """Learn the labels of a table in which most cells may be blank.

    Example: trmml finetune labels.csv --images photos/ --backbone ViT-B-16-quickgelu/openai -o runs/shop
    """
    from trmml.config import FinetuneConfig

    settings = FinetuneConfig.from_toml(recipe) if recipe else FinetuneConfig()
    settings = settings.changed(assignments_of(set_ or []))
    dataset = read_table(
        table, images, labels, label_encoding, unlabeled, split, table_format, separator
    )
    if known_fraction is not None:
        dataset = dataset.hide_labels(known_fraction, hide_seed)
    if single_positive:
        dataset = dataset.keep_single_positive(hide_seed)
    held_out = None
    if val is not None or val_split is not None:
        held_out = read_table(
            *(val or table, images, None, label_encoding, unlabeled, val_split),
            *(table_format, separator),
        )
    summary = dataset.summary()
    typer.echo(summary, err=True)
    from trmml.training import finetune as run

    trained = run(
        dataset,
        model=model,
        backbone=backbone,
        val=held_out,
        config=settings,
        output=output,
        resume=resume,
        progress=not no_bars(quiet),
    )
    best = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["validation"]["mAP"]
    shown = "not measurable" if best is None else f"{100 * best:.2f}"
    typer.echo(f"{trained.source}: {len(trained.labels)} labels, validation mAP {shown}")


def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or name, or 'zero-shot'.")],
    table: Table,
    images: Images = None,
    backbone: Backbone = None,
    image_size: Annotated[int | None, typer.Option(help="For zero-shot: size of photos.")] = None,
    labels: Labels = None,
    label_encoding: Encoding = None,
    unlabeled: UnlabeledOption = None,
    split: Split = None,
    table_format: TableFormatOption = None,
    separator: Separator = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    dump_scores: Annotated[Path | None, typer.Option(help="CSV of all scores and labels.")] = None,
    save_as: Annotated[
        str | None,
        typer.Option(help="Keep the result in the model folder and its card, e.g. as 'test'."),
    ] = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
    quiet: Quiet = False,
) -> None:
    """Measure a model on labelled photos; unknown labels never count.

    Example: trmml evaluate runs/shop test.csv --images photos/ --format json
    """
    dataset = read_table(
        table, images, labels, label_encoding, unlabeled, split, table_format, separator
    )
    from trmml.catalog import ZERO_SHOT
    from trmml.evaluation import dump_scores as write_scores
    from trmml.evaluation import evaluate as measure
    from trmml.model_folder import add_metrics
    from trmml.zoo import load_model

    matcher = load_model(
        model,
        labels=dataset.category_names if model == ZERO_SHOT else None,
        backbone=backbone,
        image_size=image_size,
    )
    folder = None if matcher.source is None else Path(matcher.source)
    if save_as is not None and (folder is None or not folder.is_dir()):
        raise ConfigError("--save-as needs a model folder.")
    evaluation = measure(matcher, dataset, batch_size=batch_size, progress=not no_bars(quiet))
    if dump_scores is not None:
        write_scores(evaluation, dataset, dump_scores)
    if save_as is not None and folder is not None:
        add_metrics(folder, save_as, evaluation.to_dict())
    typer.echo(as_json(evaluation.to_dict()) if format is Report.json else str(evaluation))
    for reason in evaluation.skipped:
        typer.echo(f"skipped: {reason}", err=True)
    if evaluation.skipped:
        raise typer.Exit(SOME_FAILED)
