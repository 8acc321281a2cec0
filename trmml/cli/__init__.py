"""The `trmml` command: parses, calls one function, prints.

Results go to stdout, everything else to stderr. Exit codes: 0 fine, 1 some inputs failed, 2 wrong
usage or setting, or a result that cannot be written, 3 model or backbone, 4 data. Nothing here
imports torch before a command needs it.
"""

import io
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trmml.cli import (
    calibrate,
    complete,
    data,
    env,
    evaluate,
    export,
    finetune,
    label,
    models,
    predict,
    push,
    tag,
)
from trmml.cli.exits import DATA, MODEL, USAGE
from trmml.errors import ConfigError, DataError, ImageError, OutputError, TrmmlError
from trmml.files import with_home
from trmml.version import __version__

MOST_SHOWN = 2000
"""Characters of an error: more would come from a hostile file."""


class _Commands(TyperGroup):
    """The commands; `~/` is expanded where no shell does, as in `--output=~/shop`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Before anything reads them: some commands look at a path that the library never sees.
        found = [re.fullmatch(r"(--[\w-]+=)?(~/.*)", argument, re.DOTALL) for argument in args]
        expanded = [
            argument if home is None else f"{home[1] or ''}{with_home(home[2])}"
            for argument, home in zip(args, found, strict=True)
        ]
        return super().parse_args(ctx, expanded)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # Errors of usage are lines that a log can hold; only help is set in panels.
        self.rich_markup_mode = None
        return super().main(*args, **kwargs)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = "rich"
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="trmml",
    cls=_Commands,
    help="Multi-label image recognition when most labels are missing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for panel, commands in {
    "Use a model": (predict.predict, tag.tag, label.demo, export.export),
    "Learn and measure": (finetune.finetune, evaluate.evaluate, calibrate.calibrate),
    "Tables": (complete.complete, label.label),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(data.app, name="data", rich_help_panel="Tables")
app.add_typer(models.app, name="models", rich_help_panel="Models and this machine")
app.command(rich_help_panel="Models and this machine")(push.push)
app.command(rich_help_panel="Models and this machine")(env.env)


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"trmml {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = None,
) -> None:
    del version


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; expected errors become one line on stderr and an exit code."""
    # Pillow's remarks on damaged EXIF blocks: the photos themselves are fine.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    for stream in (sys.stdout, sys.stderr):
        # A name or label that a terminal cannot show must not end a batch.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if arguments is None else list(arguments))
    except TrmmlError as error:
        line = " ".join(str(error).split())
        cut = f"{line[:MOST_SHOWN]} … ({len(line)} characters)" if len(line) > MOST_SHOWN else line
        typer.echo(f"trmml: {cut}", err=True)
        if isinstance(error, ConfigError | OutputError):
            sys.exit(USAGE)
        sys.exit(DATA if isinstance(error, DataError | ImageError) else MODEL)
