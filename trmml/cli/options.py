"""What commands share: options, and reading and printing values."""

import contextlib
import json
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from trmml.cli.exits import SOME_FAILED
from trmml.errors import ConfigError
from trmml.files import read_bytes, with_home, writing_to


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


class Precision(StrEnum):
    """What the image tower computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Report(StrEnum):
    """How a report is printed."""

    table = "table"
    json = "json"


class GoalKind(StrEnum):
    """What a threshold is to reach."""

    f1 = "f1"
    precision = "precision"
    recall = "recall"
    cost = "cost"


of_model = partial(typer.Option, rich_help_panel="Model")
"""An option in its panel of a command's help; what is in none is the command's own."""
DEFAULT_MODEL = "everyday-tiny"
"""As in `trmml.zoo.loading`, which takes seconds to import."""

A_MODEL = "A folder, a name (trmml models list) or org/name on the Hub."
ANY_MODEL = f"{A_MODEL.removesuffix('.')}, or zero-shot."
WhichModel = Annotated[str, typer.Argument(help=ANY_MODEL)]
Model = Annotated[
    str | None,
    of_model(
        metavar="MODEL",
        help=ANY_MODEL,
        show_default=f"{DEFAULT_MODEL}; zero-shot with --backbone",
    ),
]
Labels = Annotated[
    str | None,
    of_model(
        metavar="NAME,NAME",
        help="Labels to use, or a .txt file with one in a line; a model also scores ones that it "
        "never learned.",
        show_default="all",
    ),
]
A_CLIP = "As ViT-B-16/datacomp_xl_s13b_b90k (trmml models backbones), or local-dir:FOLDER."
Backbone = Annotated[
    str | None,
    of_model(metavar="CLIP", help=A_CLIP, show_default="the model's own; small-clip for zero-shot"),
]
Moved = Annotated[
    str | None,
    of_model(
        "--backbone",
        metavar="CLIP",
        help="Where the model's CLIP is now, if it moved: local-dir:FOLDER.",
        show_default="where it was",
    ),
]
Templates = Annotated[
    list[str] | None,
    of_model(
        "--template",
        metavar="TEXT",
        help="For zero-shot, repeatable: 'an aerial view of a {}'.",
        show_default="seven for any photo",
    ),
]
ImageSize = Annotated[
    int | None,
    of_model(
        metavar="PIXELS", help="For zero-shot: side of the photos.", show_default="that of the CLIP"
    ),
]
BatchSize = Annotated[
    int, typer.Option(metavar="N", min=1, help="Photos per pass through the model.")
]
InPrecision = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Of the image tower: bfloat16 is about twice as fast where the processor knows it.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="SCORE",
        min=0,
        max=1,
        help="One for all labels.",
        show_default="the model's, one for each label",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="At most so many tags a photo.", show_default="all"),
]
Replace = Annotated[bool, typer.Option("--replace", metavar="", help="Replace a file that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="No word of how far it is.")]


@contextlib.contextmanager
def writing(place: Path, *, is_last: bool = True) -> Iterator[None]:
    """Say what was written, or fail with an error that names the place.

    Args:
        place: A file, or a folder that several things are written to one after the other.
        is_last: Whether nothing more comes there, so that it can be said.

    Raises:
        OutputError: If it cannot be written.
    """
    with writing_to(place):
        yield
    if is_last:
        typer.echo(f"wrote {place}", err=True)


def require_free(output: Path, replace: bool) -> None:
    """Check that a result replaces nothing, unless it may.

    Raises:
        ConfigError: If there is such a file.
    """
    if output.exists() and not replace:
        raise ConfigError(f"{output} exists already; choose another output, or add --replace.")


def require_no_table(outputs: Iterable[Path | None], *tables: Path | None) -> None:
    """Check that nothing that a command writes replaces a table that it reads, not even with --replace.

    Raises:
        ConfigError: If something does.
    """
    there = [table for table in tables if table is not None and table.exists()]
    for output in outputs:
        if output is None or not output.exists():
            continue
        # By file and not by name: a link leads to it as well.
        if any(output.samefile(table) for table in there):
            raise ConfigError(
                f"{output} is a table that this command reads; choose another output."
            )


def names_of(labels: str | None) -> list[str] | None:
    """Return the names in a text that are separated by commas, without blanks around them.

    One that ends in `.txt` is a file with a name in each line, which may hold commas.

    Raises:
        ConfigError: If there is no such file, or it holds no text.
    """
    if labels is None:
        return None
    names = labels.split(",")
    if len(names) == 1 and names[0].strip().endswith(".txt"):
        path = with_home(names[0].strip())
        try:
            names = read_bytes(path).decode("utf-8-sig").splitlines()
        except OSError as error:
            raise ConfigError(f"Cannot read the labels in {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path} is not UTF-8; save it as UTF-8, a label in each line."
            ) from error
    return [name.strip() for name in names if name.strip()]


def assignments_of(texts: list[str]) -> dict[str, Any]:
    """Return settings by name from texts like `name=value`; a value is TOML, or else plain text.

    Raises:
        ConfigError: If a text has no equals sign.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, as training.epochs=5; got {text!r}.")
        values[name.strip()] = value.strip()
        with contextlib.suppress(ValueError, RecursionError):  # it is no TOML, or much of it
            # A line end in the text must not bring in a second setting.
            found = tomllib.loads(f"value = {value}")
            if found.keys() == {"value"}:
                values[name.strip()] = found["value"]
    return values


def exit_if_skipped(reasons: Sequence[str]) -> None:
    """Name the photos that could not be read, and end the command with exit code 1 if there are any."""
    for reason in reasons:
        typer.echo(f"skipped: {reason}", err=True)
    if reasons:
        raise typer.Exit(SOME_FAILED)


def as_json(values: Any, indent: int | None = 2) -> str:
    """Return JSON, with escapes where the output cannot hold every character."""
    has_all = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return json.dumps(values, indent=indent, ensure_ascii=not has_all)
