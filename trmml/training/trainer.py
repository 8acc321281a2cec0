"""The training loop: epochs over frozen features, validation, checkpoints."""

import io
import json
import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int8
from torch import Tensor

from trmml.backbone.clip import ImageFeatures
from trmml.config.groups import FinetuneConfig
from trmml.errors import ArtifactError, ConfigError
from trmml.files import write_atomically, write_text, writing_to
from trmml.matcher.matching import MatcherOutput
from trmml.matcher.model import TextRegionMatcher
from trmml.reports.progress import followed
from trmml.training import distributed
from trmml.training.batches import use_bfloat16
from trmml.training.callbacks import Callback, EpochEnd, curves_of, ignore
from trmml.training.fingerprint import changed_settings
from trmml.training.mixing import LINEAR_PROBE, ZERO_SHOT, compared_with, mix_in_probe, restore
from trmml.training.objective import Objective, StepLoss
from trmml.training.optimization import (
    MAX_GRADIENT_NORM,
    AveragedWeights,
    effective_batch_size,
    make_optimizer,
    make_schedule,
)
from trmml.training.photos import TrainingPhotos, ValidationPhotos, can_choose_epoch
from trmml.training.pseudo_labels import PseudoLabelCounts, RegionSums
from trmml.training.survey import survey
from trmml.training.teacher import Teacher
from trmml.training.validation import Validation
from trmml.zoo.folder import LOG

CHECKPOINT, CURVES = "checkpoint.pt", "curves.png"


class Trainer:
    """Trains a matcher and remembers its best epoch.

    Randomness comes from the seed and the numbers of epoch and process alone, so an epoch after a
    resume is the same as in a run without a break.

    Attributes:
        history: One record per finished epoch, as in the log.
        validation: The photos that choose the best epoch.
        probe_scores: Of a linear probe alone on these, once it was solved for.
        has_new_probe: Whether the best epoch's model has a probe of these photos, once it is there.
        start_map: Validation mAP of the model that training starts from, if it was trained before.
        best_epoch: The epoch with the highest validation mAP (known labels only), or the last one where
            too few are known to choose; None where no epoch was better than that model.
    """

    def __init__(
        self,
        model: TextRegionMatcher,
        config: FinetuneConfig,
        train: TrainingPhotos,
        val: ValidationPhotos,
        *,
        fingerprint: str,
        learned: Collection[str] | None = None,
    ) -> None:
        """Prepare a training.

        Args:
            model: The matcher, on its device; its learned tensors change in place.
            config: Settings.
            train: What to learn from; its `hidden_states` only rate the pseudo labels.
            val: What chooses the best epoch.
            fingerprint: What makes this run this run; a checkpoint of another one is refused.
            learned: Labels of the trained model that training starts from, if it does: it teaches what
                it knows of them, and its tensors stay if no epoch is better.
        """
        self.model, self.config = model, config
        self.train_data, self.train_features = train
        self.validation = Validation(model, val, config.training.batch_size)
        self.can_choose = can_choose_epoch(val.dataset)
        self.fingerprint = fingerprint
        self.is_trained, self.learned = learned is not None, frozenset(learned or ())
        self.states = torch.from_numpy(self.train_data.states)
        self.objective = Objective(model, config, self.states, self.learned)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith("backbone."))
        training = config.training
        self.optimizer = make_optimizer(model, training)
        num_photos = len(self.train_data)
        self.batch_size = effective_batch_size(num_photos, training)
        self.steps_per_epoch = math.ceil(num_photos / self.batch_size)
        self.schedule = make_schedule(self.optimizer, self.steps_per_epoch * training.epochs)
        self.average = AveragedWeights(model, training.ema_decay)
        self._see_all_photos()
        self.history: list[dict[str, Any]] = []
        self.start_map: float | None = None
        self.best_map: float | None = None
        self.probe_scores: Float32[np.ndarray, "image label"] | None = None
        self.has_new_probe = False
        self.best_epoch: int | None = None
        self.best_state: dict[str, Tensor] = {}

    def _see_all_photos(self) -> None:
        """Keep what the probe learns from, and how far the text is to be trusted."""
        model, loss, teacher = self.model, self.config.loss, self.objective.teacher
        if model.probe is None and (teacher is None or not loss.trust_teacher):
            return  # nobody asks, and a pass over photos that are not cached is as long as an epoch
        teacher = teacher or Teacher(
            model, loss.teacher, self.learned if loss.self_distillation else ()
        )
        self.survey = survey(model, self.train_features, self.states, teacher)
        if loss.trust_teacher:
            self.objective.teacher_trust = self.survey.teacher_trust

    def train(self, folder: Path | None, progress: bool, on_epoch_end: Callback = ignore) -> None:
        """Train the epochs that are left; with a folder, keep a checkpoint, a log and curves there.

        Of several processes the first one writes.

        Args:
            folder: Of the run.
            progress: Whether to show a bar for each epoch, on a terminal.
            on_epoch_end: Called after each epoch, when all is written.
        """
        epochs = self.config.training.epochs
        if folder is not None and distributed.is_first() and self.history:
            self._save_reports(folder)  # which a killed process may have left behind its checkpoint
        if self.is_trained and not self.history:
            with self._averaged():
                self.start_map = self.validation.map_of(self.validation.scores())
                self._keep_if_best(None, self.start_map)
        for epoch in range(len(self.history), epochs):
            self.history.append(self._epoch(epoch, progress))
            if folder is not None and distributed.is_first():
                with writing_to(folder, "What is there goes on with resume (--resume)."):
                    write_atomically(folder / CHECKPOINT, self._write_checkpoint)
                self._save_reports(folder)
            if distributed.is_first():
                on_epoch_end(self._so_far())

    def _so_far(self) -> EpochEnd:
        epochs = self.config.training.epochs
        return EpochEnd(self.history, epochs, self.best_epoch, self.start_map, self.can_choose)

    def _save_reports(self, folder: Path) -> None:
        picture = curves_of(self._so_far())
        with writing_to(folder, "What is there goes on with resume (--resume)."):
            write_text(folder / LOG, "".join(json.dumps(r) + "\n" for r in self.history))
            write_atomically(folder / CURVES, lambda path: picture.save(path, "PNG"))

    def _write_checkpoint(self, path: Path) -> None:
        state = self.state()
        try:
            torch.save(state, path)
        except RuntimeError as error:  # so torch calls a full disk
            raise OSError("the checkpoint breaks off, as on a full disk") from error

    def use_best(self) -> Float32[np.ndarray, "image label"]:
        """Put the best epoch's tensors into the model and return its validation scores.

        The probe is mixed in; of labels that were learned before, only if that helps as far as is known.
        """
        restore(self.model, self.best_state)
        self.model.eval().requires_grad_(False)
        if self.model.probe is None:
            return self.validation.scores()
        mixed = mix_in_probe(
            self.model,
            self.states,
            self.survey,
            self.validation,
            assumed_negative=self.config.loss.assumed_negative,
            seed=self.config.training.seed,
            is_learned=torch.tensor([label in self.learned for label in self.model.labels]),
        )
        self.probe_scores, self.has_new_probe = mixed.linear_probe, mixed.has_new_probe
        return mixed.scores

    def compared(
        self, scores: Float32[np.ndarray, "image label"]
    ) -> dict[str, dict[str, float | None]]:
        """Return how far scores of the validation photos are above zero-shot and a linear probe."""
        others = {ZERO_SHOT: self.validation.zero_shot_scores(), LINEAR_PROBE: self.probe_scores}
        return compared_with(scores, others, self.validation)

    def _keep_if_best(self, epoch: int | None, val_map: float | None) -> None:
        # Where too little is known to choose, the last epoch is taken, or the last one above the start.
        least = self.best_map if self.can_choose or not self.best_state else self.start_map
        if least is None or (val_map is not None and val_map > least):
            self.best_epoch, self.best_map = epoch, val_map
            state = self.model.learned_state()
            self.best_state = {name: t.detach().cpu().clone() for name, t in state.items()}

    def _epoch(self, epoch: int, progress: bool) -> dict[str, Any]:
        started, training = time.monotonic(), self.config.training
        device = self.model.device
        # Dropout draws from the global generator, which is put back afterwards.
        cuda = [device] if device.type == "cuda" else []
        sums: dict[str, float] = {}
        counts = PseudoLabelCounts()
        regions = RegionSums(self.model)
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed((training.seed << 20) + epoch + (distributed.rank() << 40))
            self.model.train()
            self.objective.begin_epoch(epoch)
            batches = self.train_features.shuffled(self.batch_size, training.seed, epoch)
            name = f"epoch {epoch + 1}/{training.epochs}"
            for rows, features in followed(
                batches, name, self.steps_per_epoch, "step", show=progress
            ):
                states = self.states[rows].to(device)
                step, output = self._step(features, states)
                counts.add(states.cpu().numpy(), step.estimated.cpu().numpy(), self._hidden(rows))
                regions.add(output, self.objective.with_assumed_negatives(states))
                for part, value in step.parts.items():
                    sums[part] = sums.get(part, 0.0) + value / self.steps_per_epoch
            self.model.eval()
        if not self.objective.is_warm:
            # Until then prototypes are plain means over the training photos, which settle faster.
            regions.into_prototypes()
        with self._averaged():
            val_map = self.validation.map_of(self.validation.scores())
            self._keep_if_best(epoch, val_map)
        return {
            "epoch": epoch,
            "val_mAP": val_map,
            "loss": {part: round(value, 6) for part, value in sums.items()},
            "pseudo_labels": counts.to_dict(),
            "logit_scale": round(self.model.logit_scale.item(), 4),
            "seconds": round(time.monotonic() - started, 2),
        }

    def _step(
        self, features: ImageFeatures, states: Int8[Tensor, "batch label"]
    ) -> tuple[StepLoss, MatcherOutput]:
        """Learn from a batch: the features of this process's part, the labels of all of it."""
        device, num_photos = self.model.device, len(states)
        features = ImageFeatures(*(f.to(device, non_blocking=True) for f in features))
        half = use_bfloat16(self.config.training, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            # Prompts that do not learn say the same at every step.
            learns = self.config.training.train_prompts
            text = self.model.encode_text() if learns else self.model.stored_text()
            output = self.model.match(features, text)
        output = MatcherOutput(*(distributed.gather(part.float(), num_photos) for part in output))
        teacher, teacher_scores = self.objective.teacher, None
        if teacher is not None:
            teacher_scores = distributed.gather(teacher(features), num_photos)
        step = self.objective(output, text, states, teacher_scores)
        if not bool(torch.isfinite(step.total)):
            raise ConfigError(
                f"The loss is {step.total.item()} in epoch {self.objective.epoch}; lower "
                f"training.learning_rate ({self.config.training.learning_rate:g})."
            )
        self.optimizer.zero_grad(set_to_none=True)
        step.total.backward()
        parameters = list(self.average.parameters.values())
        distributed.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.average.update()
        self.objective.update_prototypes(output, text, states)
        return step, output

    def _hidden(self, rows: np.ndarray) -> np.ndarray | None:
        hidden = self.train_data.hidden_states
        return None if hidden is None else hidden[rows]

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the model its averaged weights, and the text features of these, for a while."""
        self.average.swap()
        self.model.store_text()
        yield
        self.average.swap()

    def state(self) -> dict[str, Any]:
        """Return everything a resumed run needs: tensors and plain values only."""
        return {
            "fingerprint": self.fingerprint,
            "settings": self.config.to_dict(),
            "history": self.history,
            "learned": self.model.learned_state(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state(),
            "start_map": self.start_map,
            "best_map": self.best_map,
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
        }

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            ConfigError: If the checkpoint is of a run with other data or settings.
            ArtifactError: If it cannot be read, or is of another version of trmml.
        """
        try:
            state = torch.load(io.BytesIO(path.read_bytes()), "cpu", weights_only=True)
        except Exception as error:  # torch names no class for damaged files
            raise ArtifactError(
                f"{path} cannot be read: {error}. Remove it to start anew."
            ) from error
        if not isinstance(state, dict) or "fingerprint" not in state:
            raise ArtifactError(f"{path} is no checkpoint. Remove it to start anew.")
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(
                f"{path} is of a run with other data or settings"
                f"{changed_settings(state.get('settings'), self.config)}; resume with the same ones, or "
                "choose another output."
            )
        if _form(state) != _form(self.state()):
            raise ArtifactError(
                f"{path} is of another version of trmml; resume with it, or remove {path.name} to "
                "start anew."
            )
        restore(self.model, state["learned"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.average.restore(state["average"])
        self.history = state["history"]
        self.start_map, self.best_map = state["start_map"], state["best_map"]
        self.best_epoch, self.best_state = state["best_epoch"], state["best_state"]


def _form(state: dict[str, Any]) -> tuple[set[str], dict[str, torch.Size]]:
    """Return what a checkpoint holds, and the shapes of the learned tensors in it."""
    learned = state.get("learned")
    tensors = learned if isinstance(learned, dict) else {}
    return set(state), {name: tensor.shape for name, tensor in tensors.items()}
