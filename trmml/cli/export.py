"""`trmml export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.options import (
    Labels,
    Moved,
    Replace,
    WhichModel,
    names_of,
    require_free,
)


class ExportFormat(StrEnum):
    """Runtimes that a model can be written for."""

    onnx = "onnx"
    torch_export = "torch-export"


def export(
    model: WhichModel,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="What to write, as shop.onnx."),
    ],
    format: Annotated[ExportFormat, typer.Option(help="For which runtime.")] = ExportFormat.onnx,
    backbone: Moved = None,
    labels: Labels = None,
    replace: Replace = False,
) -> None:
    """Write a model as one file for other runtimes, and compare it with the model.

    The file takes bytes (photos × 3 × side × side) and gives scores and the
    evidence of patches.

    Example:
    trmml export runs/shop -o shop.onnx
    """
    from trmml.tasks.exporting import export as write
    from trmml.zoo.loading import load_model

    require_free(output, replace)
    matcher = load_model(model, labels=names_of(labels), backbone=backbone, device="cpu")
    path = write(matcher, output, format.value)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, same scores as {model}")
