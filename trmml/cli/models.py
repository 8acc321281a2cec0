"""`trmml models`: what can be loaded by name, and what is in a model."""

from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.exits import MODEL
from trmml.cli.options import (
    A_MODEL,
    Report,
    as_json,
)
from trmml.reports.columns import first_column

app = typer.Typer(help="List models, look into them, fetch and verify them.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help=A_MODEL)]
Revision = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Branch, tag or commit on the Hub.", show_default="main"),
]


@app.command("list")
def list_(
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
) -> None:
    """List the models that can be loaded by name.

    Example:
    trmml models list
    """
    from trmml.zoo.catalog import list_models

    models = list_models()
    if format is Report.json:
        typer.echo(as_json([info.to_dict() for info in models]))
        return
    head, *names = first_column("name", [info.name for info in models])
    typer.echo(f"{head}  labels  test mAP     size  about")
    for name, info in zip(names, models, strict=True):
        typer.echo(
            f"{name}  {len(info.labels):>6}  {_per_cent(info.test_map):>8}  "
            f"{info.megabytes:>4.1f} MB  {info.summary}"
        )


@app.command("info")
def info(
    model: Model,
    revision: Revision = None,
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
) -> None:
    """Say what a model knows, what it was trained on and how good it is.

    Example:
    trmml models info coco18-tiny
    """
    from trmml.zoo.catalog import model_info

    found = model_info(model, revision=revision)
    if format is Report.json:
        typer.echo(as_json(found.to_dict()))
        return
    rows = {
        "name": found.name,
        "about": found.summary or "–",
        "labels": ", ".join(found.labels),
        "backbone": f"{found.backbone}, photos of {found.image_size} px",
        "matching": found.matching,
        "validation mAP": _per_cent(found.validation_map),
        "test mAP": _per_cent(found.test_map),
        "license": found.license or "not stated",
        "size": f"{found.megabytes:.1f} MB",
        "folder": str(found.folder),
    }
    for name, value in rows.items():
        typer.echo(f"{name:<16}{value}")


@app.command("backbones")
def backbones(
    name: Annotated[str, typer.Argument(help="Only those whose name has this in it.")] = "",
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
) -> None:
    """List the CLIPs that --backbone takes by name, with size and cost of a photo.

    Nothing is fetched. `needs` is what has to be there before: an extra, or
    weights that are published as pickles only and converted by you.

    Example:
    trmml models backbones siglip2
    """
    from trmml.backbone.listing import find_backbones

    found = find_backbones(name)
    if format is Report.json:
        typer.echo(as_json([backbone._asdict() for backbone in found]))
        return
    head, *names = first_column("name", [backbone.name for backbone in found])
    typer.echo(f"{head}  photo  parameters  GFLOPs  {'license':<14}  needs")
    for column, backbone in zip(names, found, strict=True):
        size = "–" if backbone.parameters is None else f"{backbone.parameters:.0f} M"
        cost = "–" if backbone.gflops is None else f"{backbone.gflops:.1f}"
        typer.echo(
            f"{column}  {backbone.image_size:>5}  {size:>10}  {cost:>6}  {backbone.license:<14}  "
            f"{backbone.needs}".rstrip()
        )


@app.command("download")
def download(
    model: Model,
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="For the model; new.")],
    revision: Revision = None,
) -> None:
    """Fetch a model and the weights of its CLIP, for use without a network.

    The model goes to a folder of its own, the CLIP to the Hugging Face cache.

    Example:
    trmml models download acme/shop-tags --to models/shop
    """
    from trmml.zoo.catalog import model_folder_of
    from trmml.zoo.folder import copy_folder
    from trmml.zoo.loading import load_model

    folder, name = model_folder_of(model, revision)
    # Which fetches the CLIP, too, and shows that the model works before it is copied.
    loaded = load_model(model, revision=revision, device="cpu")
    copy_folder(folder, to)
    typer.echo(f"{to}: {name}, backbone {loaded.config.backbone.source}")


@app.command("verify")
def verify(
    model: Annotated[str, typer.Argument(help="Bundled name or org/name@revision on the Hub.")],
) -> None:
    """Compute the checksums of a model's files anew and compare them with the published ones.

    Example:
    trmml models verify coco18-tiny
    """
    from trmml.zoo.catalog import verify_model

    checks = verify_model(model)
    for check in checks:
        typer.echo(f"{'intact' if check.is_intact else 'DAMAGED'}  {check.name}")
    if not all(check.is_intact for check in checks):
        raise typer.Exit(MODEL)


def _per_cent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
