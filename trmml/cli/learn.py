"""`trmml finetune`, `trmml evaluate` and `trmml calibrate`."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.exits import SOME_FAILED
from trmml.cli.options import (
    Backbone,
    GoalKind,
    Labels,
    Moved,
    Quiet,
    Report,
    Table,
    TableOptions,
    Templates,
    as_json,
    assignments_of,
    no_bars,
    require_no_table,
    with_table_options,
    writing,
)
from trmml.errors import ConfigError, DataError
from trmml.reports.columns import first_column


@with_table_options
def finetune(
    table: Table,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model; new.")],
    options: TableOptions,
    backbone: Backbone = None,
    model: Annotated[str | None, typer.Option(help="Or a trained model to start from.")] = None,
    labels: Labels = None,
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

    On several GPUs: torchrun --nproc-per-node 4 -m trmml finetune …
    """
    from trmml.config.groups import FinetuneConfig

    settings = FinetuneConfig.from_toml(recipe) if recipe else FinetuneConfig()
    settings = settings.changed(assignments_of(set_ or []))
    dataset = options.read(table, labels)
    if known_fraction is not None:
        dataset = dataset.hide_labels(known_fraction, hide_seed)
    if single_positive:
        dataset = dataset.keep_single_positive(hide_seed)
    held_out = options.read_others(table, val, val_split, labels)
    from trmml.data.splits import photos_in_both
    from trmml.training import distributed
    from trmml.training.finetuning import finetune as run

    shared = 0 if held_out is None else photos_in_both(dataset, held_out)
    if shared:
        raise DataError(
            f"{shared} photos are for training and for validation, where a model would be rated by "
            "what it learned by heart. Of a table with a column 'split' name both parts: "
            "--split train --val-split val."
        )

    with distributed.joined():
        is_first = distributed.is_first()
        if is_first:
            typer.echo(dataset.summary(), err=True)
        try:
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
        except KeyboardInterrupt:
            working = output.with_name(f"{output.name}.run")
            if is_first and working.exists():
                typer.echo(
                    f"Stopped; {working} holds what was learned, --resume goes on.", err=True
                )
            raise
    if not is_first:
        return
    facts = {
        part: json.loads((output / f"{part}.json").read_text(encoding="utf-8"))
        for part in ("metrics", "finetune")
    }
    best = facts["metrics"]["validation"]["mAP"]
    shown = "not measurable" if best is None else f"{100 * best:.2f}"
    compared = [
        f"{what} {100 * value:.2f}"
        for what, value in (
            ("before training", facts["finetune"]["start_validation_mAP"]),
            ("its CLIP alone, zero-shot", facts["finetune"]["zero_shot_validation_mAP"]),
        )
        if value is not None
    ]
    others = f" ({'; '.join(compared)})" if compared else ""
    typer.echo(f"{trained.source}: {len(trained.labels)} labels, validation mAP {shown}{others}")


@with_table_options
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or name, or 'zero-shot'.")],
    table: Table,
    options: TableOptions,
    backbone: Backbone = None,
    image_size: Annotated[int | None, typer.Option(help="For zero-shot: size of photos.")] = None,
    templates: Templates = None,
    labels: Labels = None,
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
    require_no_table((dump_scores,), table)
    dataset = options.read(table, labels)
    from trmml.evaluation.measuring import dump_scores as write_scores
    from trmml.evaluation.measuring import evaluate as measure
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
    folder = None if matcher.source is None else Path(matcher.source)
    if save_as is not None and (folder is None or not folder.is_dir()):
        raise ConfigError("--save-as needs a model folder.")
    if save_as is not None and not re.fullmatch(r"\w[\w .-]*", save_as):
        raise ConfigError(f"--save-as takes a plain name, as test or test-2026; got {save_as!r}.")
    evaluation = measure(matcher, dataset, batch_size=batch_size, progress=not no_bars(quiet))
    typer.echo(as_json(evaluation.to_dict()) if format is Report.json else str(evaluation))
    if dump_scores is not None:
        with writing(dump_scores):
            write_scores(evaluation, dataset, dump_scores, options.photo_folder(table))
    if save_as is not None and folder is not None:
        add_metrics(folder, save_as, evaluation.to_dict())
    for reason in evaluation.skipped:
        typer.echo(f"skipped: {reason}", err=True)
    if evaluation.skipped:
        raise typer.Exit(SOME_FAILED)


@with_table_options
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model folder; its thresholds are replaced.")],
    table: Table,
    options: TableOptions,
    backbone: Moved = None,
    labels: Labels = None,
    goal: Annotated[GoalKind, typer.Option(help="What a threshold is to reach.")] = GoalKind.f1,
    target: Annotated[
        float,
        typer.Option(help="For precision and recall: what is wanted, above 0 and below 1."),
    ] = 0.9,
    false_positive_cost: Annotated[float, typer.Option(min=0, help="For cost.")] = 1.0,
    false_negative_cost: Annotated[float, typer.Option(min=0, help="For cost.")] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="Reliability diagram, as PNG.")] = None,
    quiet: Quiet = False,
) -> None:
    """Choose a model's thresholds anew, on known labels of photos that it was not trained on.

    Example: trmml calibrate runs/shop val.csv --goal precision --target 0.95 --plot reliability.png
    """
    from trmml.evaluation.calibration import Goal
    from trmml.evaluation.calibration import calibrate as choose
    from trmml.evaluation.measuring import evaluate as measure
    from trmml.evaluation.reliability import reliability, reliability_diagram
    from trmml.files import write_atomically
    from trmml.matcher.thresholds import NEVER
    from trmml.zoo.folder import replace_calibration
    from trmml.zoo.loading import load_model

    wanted = Goal(
        kind=goal.value,
        target=target,
        false_positive_cost=false_positive_cost,
        false_negative_cost=false_negative_cost,
    )
    if not model.is_dir():
        load_model(str(model), backbone=backbone)  # says what is wrong with a name that is none
        raise ConfigError(
            f"{model} is no folder, and only a folder's thresholds can be replaced: first "
            f"`trmml models download {model} --to FOLDER`."
        )
    require_no_table((plot,), table)
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"The diagram is a PNG; name it so, as {plot.with_suffix('.png')}.")
    matcher = load_model(model, backbone=backbone)
    dataset = options.read(table, labels)
    evaluation = measure(matcher, dataset, progress=not no_bars(quiet))
    known = dataset.states[list(evaluation.readable)]
    names_here = dataset.labels
    made = choose(evaluation.scores, known, names_here, wanted)
    limits = zip(names_here, made.thresholds, strict=True)
    never = [name for name, limit in limits if limit >= NEVER]
    if len(never) == len(names_here):
        raise DataError(
            f"No label reaches a {wanted} on these {evaluation.num_images} photos, so nothing was "
            "changed. Lower --target, or give more known positives: a handful proves little."
        )
    replace_calibration(model, matcher.calibration.updated(matcher.labels, names_here, made))
    found = reliability(evaluation.scores, known)
    if plot is not None:
        picture = reliability_diagram(found, f"{model.name}: scores against {table.name}")
        with writing(plot):
            write_atomically(plot, lambda path: picture.save(path, "PNG"))
    head, *names = first_column("label", names_here)
    typer.echo(f"{head}  threshold  precision (95 %)      recall (95 %)         known positives")
    for label, name, threshold, count in zip(
        names_here, names, made.thresholds, made.known_positives, strict=True
    ):
        shares = [_interval(made.evidence[label][part]) for part in ("precision", "recall")]
        limit = "never" if threshold >= NEVER else f"{threshold:.3f}"
        typer.echo(f"{name}  {limit:>9}  {shares[0]:<20}  {shares[1]:<20}  {count:>15}")
    typer.echo(f"\n{made.method}; expected calibration error {100 * found.expected_error:.1f} %")
    if never:
        typer.echo(f"No score reaches that for {', '.join(never)}: never predicted from now on.")
    kept = len(matcher.labels) - len(names_here)
    if kept:
        typer.echo(
            f"The table does not state {kept} of the model's labels; they keep what they had."
        )
    for reason in evaluation.skipped:
        typer.echo(f"skipped: {reason}", err=True)
    if evaluation.skipped:
        raise typer.Exit(SOME_FAILED)


def _interval(values: list[float] | None) -> str:
    if values is None:
        return "nothing to count"
    value, low, high = (100 * part for part in values)
    return f"{value:5.1f} ({low:.1f} – {high:.1f})"
