"""`trmml models`: what can be loaded by name, and what is in a model."""

from typing import Annotated

import typer

from trmml.cli.options import Report, as_json

app = typer.Typer(help="List models and look into them.", no_args_is_help=True)


@app.command("list")
def list_(
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
) -> None:
    """List the models that can be loaded by name.

    Example: trmml models list
    """
    from trmml.zoo import list_models

    models = list_models()
    if format is Report.json:
        typer.echo(as_json([info.to_dict() for info in models]))
        return
    width = max([len(info.name) for info in models] + [4])
    typer.echo(f"{'name':<{width}}  labels  test mAP     size  about")
    for info in models:
        typer.echo(
            f"{info.name:<{width}}  {len(info.labels):>6}  {_per_cent(info.test_map):>8}  "
            f"{info.megabytes:>4.1f} MB  {info.summary}"
        )


@app.command("info")
def info(
    model: Annotated[str, typer.Argument(help="Model name or folder.")],
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
) -> None:
    """Say what a model knows, what it was trained on and how good it is.

    Example: trmml models info coco18-tiny
    """
    from trmml.zoo import model_info

    found = model_info(model)
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


def _per_cent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
