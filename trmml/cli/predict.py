"""`trmml predict`."""

import csv
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli.exits import DATA, SOME_FAILED
from trmml.cli.options import (
    Backbone,
    BatchSize,
    Format,
    ImageSize,
    InPrecision,
    Labels,
    Model,
    Precision,
    Quiet,
    Templates,
    Threshold,
    TopK,
    as_json,
    names_of,
    writing,
)
from trmml.errors import ConfigError
from trmml.files import is_folder

if TYPE_CHECKING:
    from trmml.matcher.model import TextRegionMatcher
    from trmml.matcher.prediction import Prediction


def predict(
    photos: Annotated[list[str], typer.Argument(help="Photos or folders of photos.")],
    model: Model = None,
    labels: Labels = None,
    backbone: Backbone = None,
    templates: Templates = None,
    image_size: ImageSize = None,
    threshold: Threshold = None,
    top_k: TopK = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For pictures of what speaks for each label, and a sheet of them, per photo.",
        ),
    ] = None,
    rules: Annotated[
        bool,
        typer.Option("--rules", metavar="", help="Keep the model's rules; see calibrate --rule."),
    ] = False,
    batch_size: BatchSize = 16,
    precision: InPrecision = Precision.float32,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    quiet: Quiet = False,
) -> None:
    """Tag photos.

    Example:
    trmml predict holiday/ --model runs/shop --format csv > tags.csv
    """
    from trmml.reports.progress import followed
    from trmml.zoo.catalog import ZERO_SHOT
    from trmml.zoo.loading import DEFAULT_MODEL, load_model

    paths = photos_at(photos)
    name = model or (ZERO_SHOT if backbone else DEFAULT_MODEL)
    matcher = load_model(
        name,
        labels=names_of(labels),
        backbone=backbone,
        templates=templates,
        image_size=image_size,
        precision=precision.value,
    )
    if heatmaps is not None:
        _require_heatmaps(matcher, heatmaps, paths)
    predictions = matcher.predict_many(
        paths,
        threshold=threshold,
        top_k=top_k,
        batch_size=batch_size,
        heatmaps=heatmaps is not None,
        rules=rules,
    )
    if heatmaps is not None:
        predictions = _saving_heatmaps(predictions, heatmaps)
    counted = followed(predictions, "predict", len(paths), show=not quiet)
    failed = _print_predictions(counted, matcher.labels, format, len(paths))
    if failed:
        typer.echo(f"{failed} of {len(paths)} photos could not be read.", err=True)
        raise typer.Exit(SOME_FAILED if failed < len(paths) else DATA)


def photos_at(places: list[str]) -> list[str | Path]:
    """Return the photos that are named, that match a pattern, and that lie in folders."""
    from trmml.matcher.decoding import photos_of

    photos: list[str | Path] = []
    for place in (match for text in places for match in matching(text)):
        if "://" in place:
            # A Path would make one slash of the two of a URL, which then could not be called one.
            photos.append(place)
        elif is_folder(place):
            photos += photos_of(place)
        else:
            photos.append(Path(place))
    return photos


def matching(place: str) -> list[str]:
    """Return what a pattern stands for, where no shell has said so; a name stands for itself."""
    if os.path.lexists(place) or not glob.has_magic(place):
        return [place]
    return sorted(glob.glob(place)) or [place]  # noqa: PTH207 (Path.glob wants it split in two)


def _require_heatmaps(model: "TextRegionMatcher", folder: Path, photos: list[str | Path]) -> None:
    """Check that a model has heatmaps, and that they would not lie among the photos.

    Raises:
        ConfigError: If it has none, or if a second run over the folder would tag the heatmaps.
    """
    if not model.matching.has_evidence:
        raise ConfigError(
            "This model matches text with the whole photo; heatmaps need a model that matches text "
            "with regions."
        )
    if folder.resolve() in {Path(photo).parent.resolve() for photo in photos}:
        raise ConfigError(f"Photos lie in {folder}; choose another folder for their heatmaps.")


def _saving_heatmaps(predictions: "Iterator[Prediction]", folder: Path) -> "Iterator[Prediction]":
    """Write the pictures of each prediction; a name that comes again gets a number."""
    taken: set[str] = set()
    for prediction in predictions:
        if prediction.error is None:
            with writing(folder, is_last=False):
                prediction.save_heatmaps(folder, taken=taken)
        yield prediction
    if taken:
        typer.echo(f"wrote {len(taken)} pictures to {folder}", err=True)


def _print_predictions(
    predictions: "Iterable[Prediction]",
    labels: tuple[str, ...],
    format: Format,
    num_photos: int,
) -> int:
    """Print predictions as they come; errors go to stderr. Returns how many failed."""
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
            typer.echo(as_json(prediction.to_dict(), indent=None))
        elif format is Format.csv:
            tags = "|".join(tag.label for tag in prediction.positive)
            writer.writerow([prediction.source, tags, *(f"{s:.6f}" for s in prediction.scores)])
        else:  # JSON is one value; the other formats are printed as they come, in constant memory
            collected.append(prediction.to_dict())
    if format is Format.json:
        # One photo gives one object, as `trmml.predict` returns one prediction.
        only = num_photos == 1 and len(collected) == 1
        typer.echo(as_json(collected[0] if only else collected))
    return failed
