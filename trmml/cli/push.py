"""`trmml push`."""

from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.options import Moved


def push(
    folder: Annotated[Path, typer.Argument(help="Model folder.")],
    name: Annotated[str, typer.Argument(help="org/name on the Hugging Face Hub.")],
    private: Annotated[
        bool, typer.Option("--private", metavar="", help="Make a new repository private.")
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", metavar="", help="Open a pull request.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Where to.", show_default="main")
    ] = None,
    message: Annotated[
        str, typer.Option(metavar="TEXT", help="Of the commit.")
    ] = "Upload a trmml model",
    backbone: Moved = None,
) -> None:
    """Share a model on the Hugging Face Hub, with its card, in one commit.

    Example:
    trmml push runs/shop acme/shop-tags --private
    """
    from trmml.zoo.publishing import has_local_backbone, push_to_hub

    done = push_to_hub(
        folder,
        name,
        private=private,
        create_pr=create_pr,
        revision=revision,
        message=message,
        backbone=backbone,
    )
    if has_local_backbone(folder):
        typer.echo(
            "Its CLIP is a local one: who loads the model must have it and pass backbone=.",
            err=True,
        )
    typer.echo(f'{done.url}\nload it with: trmml.load_model("{name}@{done.commit}")')
