"""A run on disk: where it works, where its result goes, and what is written about it.

A run works in `<output>.run`, beside the output: `checkpoint.pt` after every epoch, `log.jsonl` and
`curves.png` for people. When it ends, that folder becomes `<output>` in one step. So an output is
always a whole model, and a killed run goes on from its last epoch with the same result.
"""

import contextlib
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from trmml.config.groups import FinetuneConfig
from trmml.errors import ConfigError
from trmml.evaluation.measuring import measure
from trmml.files import writing_to
from trmml.matcher.model import TextRegionMatcher
from trmml.training import distributed
from trmml.training.fingerprint import changed_settings
from trmml.training.trainer import CHECKPOINT, Trainer
from trmml.version import __version__
from trmml.zoo.folder import (
    load_folder,
    move_into_place,
    read_facts,
    require_new,
    write_model_files,
)

logger = logging.getLogger(__name__)


class RunFolder:
    """The folders of a run: where it works, and where its result goes."""

    def __init__(self, output: Path, resume: bool) -> None:
        try:
            if not output.name:  # "." and "/"
                output = output.resolve()
            self.output, self.resume = output, resume
            self.working = output.parent / f"{output.name}.run"
            self.is_finished = resume and (output / "finetune.json").is_file()
            is_here, is_begun = output.resolve() == Path.cwd(), self.working.exists()
        except (OSError, RuntimeError) as error:  # a name that is too long, or links in a circle
            raise ConfigError(f"The output {output} cannot be: {error}.") from error
        if self.is_finished:
            return
        if is_here:
            raise ConfigError(
                f"The output {output} is the folder that you are in; name a new one in it."
            )
        require_new(output)
        if is_begun and not resume:
            raise self._unfinished()

    def _unfinished(self) -> ConfigError:
        return ConfigError(
            f"{self.working} holds an unfinished run; resume it (resume=True, --resume), or "
            "remove it or choose another output."
        )

    def begin(self, fingerprint: str, settings: FinetuneConfig) -> TextRegionMatcher | None:
        """Make the working folder, or return the model if the run is finished already."""
        if self.is_finished:
            facts = read_facts(self.output, "finetune")
            if facts.get("fingerprint") != fingerprint:
                raise ConfigError(
                    f"{self.output} holds a model of other data or settings"
                    f"{changed_settings(facts.get('settings'), settings)}; choose another output."
                )
            if distributed.is_first():  # of a process that was killed just before
                (self.output / CHECKPOINT).unlink(missing_ok=True)
            return load_folder(self.output)
        if distributed.is_first():
            if self.resume and not self.working.exists():
                logger.warning("There is no unfinished run of %s; a new one starts.", self.output)
            with writing_to(self.working):
                try:
                    self.working.mkdir(exist_ok=self.resume)
                except FileExistsError as error:  # of a run that began after this one had looked
                    raise self._unfinished() from error
        return None

    def leave(self) -> None:
        """Remove the working folder of a run that failed before there was anything to go on from."""
        if distributed.is_first():
            with contextlib.suppress(OSError):  # it is not empty
                self.working.rmdir()

    def finish(self, model: TextRegionMatcher, facts: Mapping[str, Any]) -> None:
        """Turn the working folder into the output."""
        if distributed.is_first():
            with writing_to(self.working, "Make room and go on with resume (--resume)."):
                write_model_files(model, self.working, facts, card_name=str(self.output))
                for part in self.working.glob(".*.part"):  # of a process that was killed
                    part.unlink()
                # The checkpoint goes last: a process killed before this point can still be resumed.
                move_into_place(self.working, self.output)
                (self.output / CHECKPOINT).unlink(missing_ok=True)
        distributed.wait()


def check_together(fingerprint: str, num_epochs: int) -> None:
    """Check that all processes train the same run from the same epoch."""
    if len(set(distributed.gather_lists([f"{fingerprint} {num_epochs}"]))) > 1:
        raise ConfigError(
            "The processes see different data or checkpoints; the table, the photos and the output "
            "must be on a disk that all of them see."
        )


def facts_of(
    trainer: Trainer,
    scores: Float32[np.ndarray, "image label"],
    thresholds: Sequence[float],
) -> dict[str, dict[str, Any]]:
    """Say how a model was made and what its validation photos say of it."""
    val = trainer.validation.data
    measured = measure(scores, val.states, val.labels, thresholds)
    return {
        "metrics": {"validation": measured.to_dict()},
        "finetune": {
            "fingerprint": trainer.fingerprint,
            "settings": trainer.config.to_dict(),
            "data": trainer.train_data.summary().to_dict(),
            "validation": val.summary().to_dict(),
            "effective_batch_size": trainer.batch_size,
            "best_epoch": trainer.best_epoch,
            "has_new_probe": trainer.has_new_probe,
            "start_validation_mAP": trainer.start_map,
            "compared_with": trainer.compared(scores),
            "history": trainer.history,
            "peak_memory_gb": _peak_memory_gb(),
            "versions": _versions(),
            "device": str(trainer.model.device),
            "processes": distributed.count(),
        },
    }


def _peak_memory_gb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "torchvision", "open_clip_torch", "numpy", "pillow")
    return {
        "trmml": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
