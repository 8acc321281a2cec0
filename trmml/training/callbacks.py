"""What an epoch leaves for people: a line on stderr, a picture of the curves, other programs' logs."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image

from trmml.errors import ConfigError, DependencyError, nearest
from trmml.reports.curves import Curve, draw_curves
from trmml.reports.progress import duration, say

LogTo = Literal["tensorboard", "trackio"]

Record = Mapping[str, Any]
"""Of an epoch, as in `log.jsonl`."""


class EpochEnd(NamedTuple):
    """A training after an epoch.

    Attributes:
        history: One record per finished epoch.
        num_epochs: How many there will be.
        best_epoch: The epoch that is kept, from 0; None for the model that training started from.
        start_map: Validation mAP of that model, in [0, 1], if it was trained before.
        chooses: Whether validation mAP chooses the epoch; otherwise the last one is kept.
    """

    history: Sequence[Record]
    num_epochs: int
    best_epoch: int | None
    start_map: float | None
    chooses: bool = True


Callback = Callable[[EpochEnd], object]
"""Called after every epoch, by the first process."""


def ignore(so_far: EpochEnd) -> None:
    """Follow nothing."""
    del so_far


def loss_of(record: Record) -> float:
    """Return the loss of an epoch, the sum of its parts."""
    return sum(record["loss"].values())


def say_epoch(so_far: EpochEnd) -> None:
    """Say how the last epoch went, and how much time those that are left will take."""
    history, num_epochs = so_far.history, so_far.num_epochs
    record = history[-1]
    val_map, done = record["val_mAP"], len(history)
    measured = "not measurable" if val_map is None else f"{100 * val_map:.2f}"
    kept = " (best so far)" if so_far.chooses and so_far.best_epoch == done - 1 else ""
    seconds = sum(r["seconds"] for r in history) / done * (num_epochs - done)
    left = f", {duration(seconds)} left" if done < num_epochs else ""
    say(
        f"epoch {done}/{num_epochs}: loss {loss_of(record):.4g}, validation mAP {measured}{kept}{left}"
    )


def say_kept(best_epoch: int | None, without_probe: float | None, val_map: float | None) -> None:
    """Say which model is kept, and what the probe made of its validation mAP.

    Args:
        best_epoch: Counted from 0; None for the model that training started from.
        without_probe: Validation mAP as the epochs had it.
        val_map: Of the model that is kept.
    """
    kept = "the model to start from" if best_epoch is None else f"epoch {best_epoch + 1}"
    if val_map is None:
        say(f"Kept: {kept}; the validation mAP is not measurable.")
    elif without_probe in (None, val_map):
        say(f"Kept: {kept}, validation mAP {100 * val_map:.2f}.")
    else:
        say(
            f"Kept: {kept}, validation mAP {100 * without_probe:.2f}; with zero-shot and a probe mixed "
            f"in {100 * val_map:.2f}."
        )


def curves_of(so_far: EpochEnd) -> Image.Image:
    """Draw loss and validation mAP, in per cent, of the epochs so far; the kept one is marked."""
    history, start = so_far.history, so_far.start_map
    maps = [None if r["val_mAP"] is None else 100 * r["val_mAP"] for r in history]
    return draw_curves(
        [
            Curve("loss", [loss_of(record) for record in history]),
            Curve("validation mAP in %", maps, None if start is None else 100 * start),
        ],
        so_far.num_epochs,
        None if so_far.best_epoch is None else so_far.best_epoch + 1,
    )


class TensorBoard:
    """Event files in the folder `tensorboard` of the run, for `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        """Prepare to write; nothing is made before the first epoch has ended.

        Raises:
            DependencyError: If the package is not installed.
        """
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._open = SummaryWriter
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def __call__(self, so_far: EpochEnd) -> None:
        """Keep the values of the last epoch."""
        step = len(so_far.history)
        if self._writer is None:  # what a killed process wrote of this epoch does not count
            self._writer = self._open(str(self._folder), purge_step=step)
        for name, value in _values(so_far.history[-1]).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Make sure that all is kept."""
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """A run of the project `trmml` in trackio, named as the output; `trackio show` shows it."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        """Prepare to write; nothing is made before the first epoch has ended.

        Raises:
            DependencyError: If the package is not installed.
        """
        try:
            import trackio  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise _missing("trackio") from error
        self._trackio, self._name, self._settings = trackio, name, settings
        self._is_open = False

    def __call__(self, so_far: EpochEnd) -> None:
        """Keep the values of the last epoch."""
        if not self._is_open:
            with contextlib.redirect_stdout(sys.stderr):  # results go to stdout
                self._trackio.init("trmml", name=self._name, config=self._settings, resume="allow")
            self._is_open = True
        self._trackio.log(_values(so_far.history[-1]), step=len(so_far.history))

    def close(self) -> None:
        """Make sure that all is kept."""
        if self._is_open:
            with contextlib.redirect_stdout(sys.stderr):
                self._trackio.finish()


def require_writer(name: str, *, has_output: bool) -> None:
    """Check what a run is to be written to, before it begins.

    Raises:
        ConfigError: If there is no such program, or no folder for the run.
    """
    if name not in get_args(LogTo):  # a caller without a type checker
        raise ConfigError(f"log_to cannot be {name!r}. {nearest(name, get_args(LogTo))}")
    if not has_output:
        raise ConfigError("log_to needs a folder for the run: name one with `output`.")


def writer_to(
    name: str, working: Path, output_name: str, settings: Mapping[str, Any]
) -> TensorBoard | Trackio:
    """Return what keeps the values of epochs for another program.

    Args:
        name: `tensorboard` or `trackio`.
        working: Folder of the run.
        output_name: What the run is called.
        settings: Of the run.

    Raises:
        DependencyError: If its package is not installed.
    """
    return TensorBoard(working) if name == "tensorboard" else Trackio(output_name, settings)


def _values(record: Record) -> dict[str, float]:
    values = {"loss": loss_of(record), "seconds": record["seconds"]}
    values |= {f"loss/{part}": value for part, value in record["loss"].items()}
    if record["val_mAP"] is not None:
        values["validation/mAP"] = record["val_mAP"]
    return values


def _missing(package: str) -> DependencyError:
    return DependencyError(f"log_to={package} needs its package: pip install {package}.")
