"""The `trmml` command: parses, calls one function, prints.

Results go to stdout, everything else to stderr. Exit codes: 0 fine, 1 some inputs failed, 2 wrong
usage or setting, 3 model or backbone, 4 data. Nothing here imports torch before a command needs it.
"""

import json
import sys
import tomllib
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import trmml
from trmml.errors import ConfigError, DataError, ImageError, TrmmlError

if TYPE_CHECKING:
    from trmml.data.dataset import MultiLabelDataset
    from trmml.predictions import Prediction

SOME_FAILED, USAGE, MODEL, DATA = 1, 2, 3, 4

app = typer.Typer(
    name="trmml",
    help="Multi-label image recognition when most labels are missing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at label tables.", no_args_is_help=True)
app.add_typer(data_app, name="data")


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


class Report(StrEnum):
    """How a report is printed."""

    table = "table"
    json = "json"


class Unlisted(StrEnum):
    """What a label that a table does not list means."""

    unknown = "unknown"
    negative = "negative"


Table = Annotated[Path, typer.Argument(help="Label table: wide CSV, list CSV or JSONL.")]
Images = Annotated[Path | None, typer.Option(help="Folder that photo paths are relative to.")]
Labels = Annotated[str | None, typer.Option(help="Labels to use, separated by commas.")]
Encoding = Annotated[
    str | None,
    typer.Option("--label-encoding", help="Cells of a wide CSV, e.g. 1/-1/0 or chexpert."),
]
UnlabeledOption = Annotated[
    Unlisted | None, typer.Option(help="What a label means that a list of positives leaves out.")
]
Split = Annotated[str | None, typer.Option(help="Use only rows with this text in column 'split'.")]
Backbone = Annotated[
    str | None, typer.Option(help="CLIP, e.g. ViT-B-16-quickgelu/openai or local-dir:FOLDER.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"trmml {trmml.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    del version


@app.command()
def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photos or folders of photos.")],
    model: Annotated[str | None, typer.Option(help="Model folder or name.")] = None,
    labels: Labels = None,
    backbone: Backbone = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="One for all labels.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="At most so many labels.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    quiet: Quiet = False,
) -> None:
    """Tag photos.

    Example: trmml predict holiday/ --model runs/shop --format csv > tags.csv
    """
    from tqdm import tqdm

    from trmml.inference import photos_of
    from trmml.zoo import DEFAULT_MODEL, ZERO_SHOT, load_model

    paths = [path for place in photos for path in (photos_of(place) if place.is_dir() else [place])]
    name = model or (ZERO_SHOT if backbone else DEFAULT_MODEL)
    matcher = load_model(name, labels=_names(labels), backbone=backbone)
    predictions = matcher.predict_many(
        paths, threshold=threshold, top_k=top_k, batch_size=batch_size
    )
    bar = tqdm(predictions, total=len(paths), unit="photo", disable=_no_bars(quiet))
    failed = _print_predictions(bar, matcher.labels, format, len(paths))
    if failed:
        typer.echo(f"{failed} of {len(paths)} photos could not be read.", err=True)
        raise typer.Exit(SOME_FAILED if failed < len(paths) else DATA)


@app.command()
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
    settings = settings.changed(_assignments(set_ or []))
    dataset = _read(table, images, labels, label_encoding, unlabeled, split)
    if known_fraction is not None:
        dataset = dataset.hide_labels(known_fraction, hide_seed)
    if single_positive:
        dataset = dataset.keep_single_positive(hide_seed)
    held_out = None
    if val is not None or val_split is not None:
        held_out = _read(val or table, images, None, label_encoding, unlabeled, val_split)
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
        progress=not _no_bars(quiet),
    )
    best = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["validation"]["mAP"]
    shown = "not measurable" if best is None else f"{100 * best:.2f}"
    typer.echo(f"{trained.source}: {len(trained.labels)} labels, validation mAP {shown}")


@app.command()
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
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    dump_scores: Annotated[Path | None, typer.Option(help="CSV of all scores and labels.")] = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
    quiet: Quiet = False,
) -> None:
    """Measure a model on labelled photos; unknown labels never count.

    Example: trmml evaluate runs/shop test.csv --images photos/ --format json
    """
    dataset = _read(table, images, labels, label_encoding, unlabeled, split)
    from trmml.evaluation import dump_scores as write_scores
    from trmml.evaluation import evaluate as measure
    from trmml.zoo import ZERO_SHOT, load_model

    matcher = load_model(
        model,
        labels=dataset.category_names if model == ZERO_SHOT else None,
        backbone=backbone,
        image_size=image_size,
    )
    evaluation = measure(matcher, dataset, batch_size=batch_size, progress=not _no_bars(quiet))
    if dump_scores is not None:
        write_scores(evaluation, dataset, dump_scores)
    typer.echo(_json(evaluation.to_dict()) if format is Report.json else str(evaluation))
    for reason in evaluation.skipped:
        typer.echo(f"skipped: {reason}", err=True)
    if evaluation.skipped:
        raise typer.Exit(SOME_FAILED)


@data_app.command("check")
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

    dataset = _read(table, images, labels, label_encoding, unlabeled, split)
    summary = dataset.summary()
    unreadable = unreadable_photos(dataset.photos, progress=not _no_bars(quiet))
    if format is Report.json:
        typer.echo(_json(summary.to_dict() | {"unreadable": unreadable}))
    else:
        typer.echo(summary)
        for reason in unreadable:
            typer.echo(f"problem: {reason}")
    if unreadable or 0 in summary.positives:
        raise typer.Exit(DATA)


@app.command()
def env(
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
) -> None:
    """Print versions, devices and cache folders, for bug reports.

    Example: trmml env
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from huggingface_hub import constants

    from trmml.features import cache_folder
    from trmml.zoo import list_models

    facts: dict[str, Any] = {"trmml": trmml.__version__, "python": platform.python_version()}
    facts["platform"] = platform.platform()
    for package in ("torch", "torchvision", "open_clip_torch", "huggingface_hub", "safetensors"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts["threads"] = torch.get_num_threads()
    cache = cache_folder()
    size = sum(path.stat().st_size for path in cache.rglob("*.npy")) if cache.is_dir() else 0
    facts["feature cache"] = f"{cache} ({size / 1e9:.2f} GB)"
    facts["hub cache"] = constants.HF_HUB_CACHE
    facts["hub offline"] = constants.HF_HUB_OFFLINE
    facts["bundled models"] = ", ".join(info.name for info in list_models()) or "none"
    if format is Report.json:
        typer.echo(_json(facts))
    else:
        typer.echo("\n".join(f"{name:<16} {value}" for name, value in facts.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; expected errors become one line on stderr and an exit code."""
    # Pillow's remarks on damaged EXIF blocks: the photos themselves are fine.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    try:
        app(args=None if arguments is None else list(arguments))
    except TrmmlError as error:
        typer.echo(f"trmml: {' '.join(str(error).split())}", err=True)
        if isinstance(error, ConfigError):
            sys.exit(USAGE)
        sys.exit(DATA if isinstance(error, DataError | ImageError) else MODEL)


def _read(
    table: Path,
    images: Path | None,
    labels: str | None,
    label_encoding: str | None,
    unlabeled: Unlisted | None,
    split: str | None,
) -> "MultiLabelDataset":
    from trmml.data.tables import read_dataset

    meaning: Literal["unknown", "negative"] | None = None
    if unlabeled is not None:
        meaning = "unknown" if unlabeled is Unlisted.unknown else "negative"
    return read_dataset(
        table,
        images=images,
        labels=_names(labels),
        label_encoding=label_encoding,
        unlabeled=meaning,
        split=split,
    )


def _print_predictions(
    predictions: "Sequence[Prediction] | Any",
    labels: tuple[str, ...],
    format: Format,
    num_photos: int,
) -> int:
    """Print predictions as they come; errors go to stderr. Returns how many failed."""
    import csv

    failed = 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if format is Format.csv:
        writer.writerow(["image", "positive", *labels])
    collected = []
    for prediction in predictions:
        if prediction.error is not None:
            failed += 1
            typer.echo(f"skipped: {prediction.error}", err=True)
        elif format is Format.table:
            typer.echo(str(prediction))
        elif format is Format.jsonl:
            typer.echo(json.dumps(prediction.to_dict(), ensure_ascii=False))
        elif format is Format.csv:
            tags = "|".join(tag.label for tag in prediction.positive)
            writer.writerow([prediction.source, tags, *(f"{s:.6f}" for s in prediction.scores)])
        else:
            collected.append(prediction.to_dict())
    if format is Format.json:
        only = num_photos == 1 and len(collected) == 1
        typer.echo(_json(collected[0] if only else collected))
    return failed


def _names(labels: str | None) -> list[str] | None:
    return None if labels is None else [name.strip() for name in labels.split(",") if name.strip()]


def _assignments(texts: list[str]) -> dict[str, Any]:
    """Read `name=value`; a value is TOML, or else plain text."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, as training.epochs=5; got {text!r}.")
        try:
            values[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name.strip()] = value.strip()
    return values


def _no_bars(quiet: bool) -> bool:
    return quiet or not sys.stderr.isatty()


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False)
