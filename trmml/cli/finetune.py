"""`trmml finetune`."""

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trmml.cli.options import (
    A_CLIP,
    Quiet,
    assignments_of,
    of_model,
)
from trmml.cli.tables import (
    Table,
    TableLabels,
    TableOptions,
    ValSplit,
    of_validation,
    with_table_options,
)
from trmml.config.groups import FinetuneConfig
from trmml.errors import DataError
from trmml.reports.numbers import counted, signed_per_cent

if TYPE_CHECKING:
    from trmml.data.dataset import MultiLabelDataset


of_training = partial(typer.Option, rich_help_panel="Training")


class Programs(StrEnum):
    """What shows the epochs of a run; each is a package of its own."""

    tensorboard = "tensorboard"
    trackio = "trackio"


@with_table_options
def finetune(
    table: Table,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="For the model; new."),
    ],
    options: TableOptions,
    backbone: Annotated[
        str | None,
        of_model(metavar="CLIP", help=A_CLIP, show_default="small-clip, of the package"),
    ] = None,
    model: Annotated[
        str | None,
        of_model(
            metavar="MODEL",
            help="Or a trained model to start from: a folder, a name or org/name on the Hub.",
        ),
    ] = None,
    labels: TableLabels = None,
    val: Annotated[
        Path | None,
        of_validation(
            metavar="TABLE", help="A table of them.", show_default="a tenth of the photos, held out"
        ),
    ] = None,
    val_split: ValSplit = None,
    recipe: Annotated[
        Path | None,
        of_training("--config", "-c", metavar="TOML", help="A recipe: settings in TOML."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        of_training(
            "--set", metavar="NAME=VALUE", help="A setting, repeatable: training.epochs=5."
        ),
    ] = None,
    resume: Annotated[
        bool,
        of_training("--resume", metavar="", help="Go on with an unfinished run of this output."),
    ] = False,
    log_to: Annotated[
        Programs | None, of_training(help="Show the epochs in this program as well.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Learn the labels of a table in which most cells may be blank.

    Example:
    trmml finetune labels.csv --images photos/ --val val.csv -o runs/shop

    A larger CLIP sees more: --backbone ViT-B-16/datacomp_xl_s13b_b90k

    On several GPUs: torchrun --nproc-per-node 4 -m trmml finetune …
    """
    settings = FinetuneConfig.from_toml(recipe) if recipe else FinetuneConfig()
    settings = settings.changed(assignments_of(set_ or []))
    dataset = options.read(table, labels)
    held_out = options.read_others(table, val, val_split, labels)
    if held_out is not None:
        _refuse_shared_photos(dataset, held_out)
    # Not before: torch takes seconds to load, and a wrong table is to be named at once.
    from trmml.training import distributed, finetuning

    with distributed.joined():
        is_first = distributed.is_first()
        if is_first:
            typer.echo(dataset.summary(), err=True)
        with _hint_to_resume(output, is_first):
            trained = finetuning.finetune(
                dataset,
                model=model,
                backbone=backbone,
                val=held_out,
                config=settings,
                output=output,
                resume=resume,
                progress=not quiet,
                log_to=None if log_to is None else log_to.value,
            )
    if is_first:
        assert trained.report is not None  # every model that finetune returns has one
        scores = _validation_scores(trained.report)
        typer.echo(f"{trained.source}: {counted(len(trained.labels), 'label')}, {scores}")


def _refuse_shared_photos(train: "MultiLabelDataset", val: "MultiLabelDataset") -> None:
    """Check that no photo is trained on and validated with.

    Raises:
        DataError: If one is; with the way to name the parts of one table.
    """
    from trmml.data.splits import photos_in_both

    shared = photos_in_both(train, val)
    if shared:
        raise DataError(
            f"{shared} photos are for training and for validation, where a model would be rated by "
            "what it learned by heart. Of a table with a column 'split' name both parts: "
            "--split train --val-split val."
        )


@contextlib.contextmanager
def _hint_to_resume(output: Path, is_first: bool) -> Iterator[None]:
    """Say, when somebody stops the training, that it can go on; once for all processes."""
    try:
        yield
    except KeyboardInterrupt:
        working = output.with_name(f"{output.name}.run")
        if is_first and working.exists():
            typer.echo(f"Stopped; {working} holds what was learned, --resume goes on.", err=True)
        raise


def _validation_scores(report: dict[str, dict[str, Any]]) -> str:
    """Return mAP on the validation photos, in per cent, and what simpler things have there."""
    best, facts = report["metrics"]["validation"]["mAP"], report["finetune"]
    shown = "not measurable" if best is None else f"{100 * best:.2f}"
    scored, left = (
        report["metrics"]["validation"][f"labels_{kind}"] for kind in ("scored", "left_out")
    )
    if left and best is not None:
        shown += f" on {scored} of {scored + left} labels"
    compared = []
    if facts["start_validation_mAP"] is not None:
        compared.append(f"before training {100 * facts['start_validation_mAP']:.2f}")
    for name, other in facts.get("compared_with", {}).items():
        gain = " to ".join(signed_per_cent(other[end]) for end in ("low", "high"))
        compared.append(f"{name} {100 * other['mAP']:.2f}, 95 % interval of the gain {gain}")
    return f"validation mAP {shown}" + (f" ({'; '.join(compared)})" if compared else "")
