"""`trmml tag`."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli.exits import DATA, SOME_FAILED
from trmml.cli.options import (
    Backbone,
    BatchSize,
    InPrecision,
    Labels,
    Model,
    Precision,
    Quiet,
    Threshold,
    TopK,
    names_of,
)
from trmml.cli.predict import matching, photos_at
from trmml.errors import ConfigError, ImageError
from trmml.files import is_folder

if TYPE_CHECKING:
    from trmml.data.libraries.changes import Change
    from trmml.tasks.tagging import Tagged


class Target(StrEnum):
    """What tags are written into."""

    xmp = "xmp"


def tag(
    photos: Annotated[list[str], typer.Argument(help="Photos or folders of photos.")],
    write: Annotated[
        Target | None,
        typer.Option(metavar="xmp", help="Into what: xmp, the sidecars beside the photos."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", metavar="", help="Show what would be written; write nothing."),
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo", metavar="", help="Take out what earlier calls wrote, and nothing else."
        ),
    ] = False,
    model: Model = None,
    labels: Labels = None,
    backbone: Backbone = None,
    threshold: Threshold = None,
    top_k: TopK = None,
    batch_size: BatchSize = 16,
    precision: InPrecision = Precision.float32,
    quiet: Quiet = False,
) -> None:
    """Write tags as keywords into XMP sidecars; the photos themselves are never touched.

    Example:
    trmml tag photos/ --model runs/shop --write xmp --dry-run
    """
    places = [Path(match) for text in photos for match in matching(text)]
    roots = [place if is_folder(place) else place.parent for place in places]
    if undo:
        if model is not None or write is not None:
            raise ConfigError("--undo takes tags of any model out; leave --model and --write away.")
        missing = [place for place in places if not place.exists()]
        if missing:
            raise ImageError(f"There is no {missing[0]}.")
        from trmml.tasks.tagging import remove_tags

        _print_removed(remove_tags(places, roots, dry_run=dry_run), dry_run)
        return
    if write is None and not dry_run:
        raise ConfigError(
            "Say --write xmp to write sidecars beside the photos, or --dry-run to see what they would "
            "hold."
        )
    from trmml.reports.progress import followed
    from trmml.tasks.tagging import write_tags
    from trmml.zoo.catalog import ZERO_SHOT
    from trmml.zoo.loading import DEFAULT_MODEL, load_model

    paths = photos_at(photos)
    name = model or (ZERO_SHOT if backbone else DEFAULT_MODEL)
    matcher = load_model(
        name, labels=names_of(labels), backbone=backbone, precision=precision.value
    )
    predictions = matcher.predict_many(
        paths, threshold=threshold, top_k=top_k, batch_size=batch_size
    )
    shown = followed(predictions, "photos", len(paths), show=not quiet)
    # The folders above a model are the user's own affair, and sidecars travel.
    known_as = Path(name).name if is_folder(name) else name
    _print_written(write_tags(shown, known_as, roots, dry_run=dry_run), dry_run, photos)


def _print_written(found: "Iterable[Tagged]", dry_run: bool, photos: list[str]) -> None:
    """Print a line per photo that tags are written for, and the counts."""
    failed: list[str] = []
    num_tags = num_sidecars = num_new = num_fine = 0
    for path, change in _changes(found, failed):
        num_fine += 1
        if change.tags:
            num_tags += len(change.tags)
            num_sidecars += 1
            num_new += change.before is None
            kind = "new" if change.before is None else "merged"
            tags = ", ".join(change.tags)
            typer.echo(f"{_shown(path)}: {tags} ({kind}: {_shown(change.sidecar.name)})")
        elif not change.does_nothing:
            typer.echo(f"{_shown(path)}: no tag any more ({_shown(change.sidecar.name)})")
    verb = "would write" if dry_run else "wrote"
    typer.echo(
        f"{verb} {num_tags} tags into {num_sidecars} sidecars, {num_new} of them new; "
        f"{num_fine - num_sidecars} photos need none",
        err=True,
    )
    if num_tags and not dry_run:
        places = " ".join(map(_shown, photos))
        typer.echo(f"`trmml tag {places} --undo` takes them out again", err=True)
    _exit_if_any(failed, num_fine)


def _print_removed(found: "Iterable[Tagged]", dry_run: bool) -> None:
    """Print a line per sidecar that tags are taken out of, and the counts."""
    failed: list[str] = []
    num_fine = num_gone = 0
    for path, change in _changes(found, failed):
        num_fine += 1
        num_gone += change.after is None
        what = "removed" if change.after is None else f"without {', '.join(change.tags) or 'marks'}"
        typer.echo(f"{_shown(path)}: {what}")
    verb = "would take" if dry_run else "took"
    typer.echo(f"{verb} tags out of {num_fine} sidecars; {num_gone} of them go", err=True)
    _exit_if_any(failed, num_fine)


def _changes(found: "Iterable[Tagged]", failed: list[str]) -> "Iterator[tuple[Path, Change]]":
    """Yield the changes that can be made; name the others, and keep why not in `failed`."""
    for item in found:
        if item.change is not None:
            yield item.path, item.change
        else:
            failed.append(str(item.error))
            typer.echo(f"skipped: {item.error}", err=True)


def _exit_if_any(failed: list[str], num_fine: int) -> None:
    if failed:
        typer.echo(f"{len(failed)} could not be tagged or read.", err=True)
        raise typer.Exit(SOME_FAILED if num_fine else DATA)


def _shown(name: object) -> str:
    """Return a name on one line, whatever is in it."""
    text = str(name)
    return text if text.isprintable() else repr(text)
