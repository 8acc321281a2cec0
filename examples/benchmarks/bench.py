"""The bench that every method stands on: the same photos, frozen features and split."""

import resource
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import trmml
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.config.groups import FinetuneConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.measuring import measure
from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.zoo.loading import make_config, zero_shot_model

PROMPTS_FIRST = "prompts first"
"""A change that is no setting: learn the prompts with pooled features, then all else on them."""
MATCHING_ALONE = {
    "matching.linear_probe": False,
    "loss.distillation": 0.0,
    "loss.contrastive": 0.0,
    "pseudo_labels.enabled": False,
}
"""Settings of the methods that TRM-ML is compared with: its further parts are not theirs."""
MOST_DRAWS = 1000
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the probe, the inverse of its penalty; wide enough that neither end is best, few photos or all."""


class Run(NamedTuple):
    """One training and its measurement."""

    method: str
    setting: str
    """A known share such as `10 %`, also of fewer photos as `300 photos, 10 %`, or `single positive`."""
    seed: int
    changes: dict[str, Any]
    note: str
    """What the run is for; with the first three it names the run."""

    @property
    def key(self) -> str:
        """Its name in the results."""
        return " | ".join((self.method, self.setting, f"seed {self.seed}", self.note))


class Bench:
    """Photos and their features, computed once and shared by all runs."""

    def __init__(
        self,
        data: Path,
        backbone: str,
        image_size: int | None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Read, and compute features; the settings are those of all trainings."""
        table = data / "labels.csv"

        def read(split: str) -> MultiLabelDataset:
            return trmml.read_dataset(table, images=data, unlabeled="negative", split=split)

        self.train = read("train")
        names = self.train.labels
        self.val, self.test = (read(split).aligned_to(names) for split in ("val", "test"))
        self.clip = FrozenCLIP.load(backbone, image_size=image_size)
        self.features = {
            name: CachedFeatures(
                compute_features(part.photos, self.clip, progress=True), np.arange(len(part))
            )
            for name, part in (("train", self.train), ("val", self.val), ("test", self.test))
        }
        self.settings = settings or {}

    def partial(self, setting: str, seed: int) -> MultiLabelDataset:
        """Hide training labels as a setting says, of all photos or of so many drawn at random.

        Photos are drawn until every label has a known positive.
        """
        if setting == "single positive":
            return self.train.keep_single_positive(seed)
        count, _, share = setting.rpartition(" photos, ")
        known = float(share.rstrip(" %")) / 100
        if not count:
            return self.train.hide_labels(known, seed)
        generator = np.random.default_rng(seed)
        for _ in range(MOST_DRAWS):
            chosen = generator.choice(len(self.train), int(count), replace=False)
            few = self.train.subset(np.sort(chosen)).hide_labels(known, seed)
            if (few.states == POSITIVE).any(axis=0).all():
                return few
        raise SystemExit(f"{setting}: {MOST_DRAWS} draws left a label without a known positive.")

    def run(self, run: Run) -> dict[str, Any]:
        """Do one run and return its figures."""
        started, cpu = time.perf_counter(), time.process_time()
        details: dict[str, Any] = {}
        if run.method == "zero-shot":
            model = zero_shot_model(self.clip, self.train.labels)
            val, test = self.scores(model, "val"), self.scores(model, "test")
        elif run.method == "linear-probe":
            val, test, details = self._probe(self.partial(run.setting, run.seed))
        else:
            val, test, details = self._matching(run)
        others = [i for i, label in enumerate(self.test.labels) if label != "person"]
        several = (self.test.states == POSITIVE).sum(axis=1) >= 2
        measured = measure(test, self.test.states, self.test.labels, [0.5] * test.shape[1])
        return {
            **run._asdict(),
            "val_mAP": mean_average_precision(val, self.val.states),
            "mAP": measured.mean_average_precision,
            # It is in most of these photos and would hide the other labels.
            "mAP_without_person": float(np.nanmean(measured.average_precision[others])),
            "mAP_two_or_more": mean_average_precision(test[several], self.test.states[several]),
            "CF1": measured.at_half.label_f1,
            "OF1": measured.at_half.overall_f1,
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            **details,
        }

    def scores(self, model: trmml.TextRegionMatcher, part: str) -> np.ndarray:
        """Return the scores of a model on one of the three sets of photos."""
        text = model.stored_text()
        with torch.inference_mode():
            rows = []
            for batch in self.features[part].in_order(256):
                features = ImageFeatures(*(values.to(model.device) for values in batch))
                rows.append(model.match(features, text).scores.cpu().numpy())
        return np.concatenate(rows)

    def _pooled(self, part: str) -> np.ndarray:
        batches = self.features[part].in_order(256)
        return np.concatenate([batch.image_features.numpy() for batch in batches])

    def _probe(self, train: MultiLabelDataset) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Fit a logistic regression per label on its known cells; without negatives, on all cells.

        Its strength is chosen on validation photos, the same one for all labels.
        """
        rows = {photo: row for row, photo in enumerate(self.train.photos)}
        # In float32 the solver meets ill-conditioned matrices where the penalty is small.
        pooled = self._pooled("train")[[rows[photo] for photo in train.photos]].astype(np.float64)
        scaler = StandardScaler().fit(pooled)
        features = scaler.transform(pooled)
        val, test = (scaler.transform(self._pooled(part)) for part in ("val", "test"))
        scores = {
            part: np.empty((len(STRENGTHS), len(x), train.states.shape[1]), np.float32)
            for part, x in (("val", val), ("test", test))
        }
        for column, labels in enumerate(train.states.T):
            if not (labels == NEGATIVE).any():
                labels = np.where(labels == UNKNOWN, NEGATIVE, labels)
            known = labels != UNKNOWN
            fit = LogisticRegression(solver="newton-cholesky", warm_start=True)
            for step, strength in enumerate(STRENGTHS):
                fit.set_params(C=strength).fit(features[known], labels[known])
                for part, x in (("val", val), ("test", test)):
                    scores[part][step, :, column] = fit.predict_proba(x)[:, 1]
        best = int(np.argmax([mean_average_precision(s, self.val.states) for s in scores["val"]]))
        return scores["val"][best], scores["test"][best], {"C": STRENGTHS[best]}

    def _matching(self, run: Run) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        config = {"matching.way": run.method, "training.seed": run.seed}
        if run.method != "text-region":
            config |= MATCHING_ALONE
        config |= {"training.features": "cached"} | self.settings | run.changes
        train = self.partial(run.setting, run.seed)
        if config.pop(PROMPTS_FIRST, False):
            first, _ = self._finetune(train, config | {"matching.way": "text-image"})
            start = self._on_prompts_of(first, FinetuneConfig().changed(config))
            model, history = self._finetune(
                train,
                config | {"training.train_prompts": False, "loss.self_distillation": False},
                start,
            )
        else:
            model, history = self._finetune(train, config)
        epochs = [{"val_mAP": e["val_mAP"], "pseudo_labels": e["pseudo_labels"]} for e in history]
        return self.scores(model, "val"), self.scores(model, "test"), {"epochs": epochs}

    def _finetune(
        self,
        train: MultiLabelDataset,
        config: dict[str, Any],
        start: trmml.TextRegionMatcher | None = None,
    ) -> tuple[trmml.TextRegionMatcher, list[dict[str, Any]]]:
        """Train a model, a new one if none is given, and return it with its history."""
        model = trmml.finetune(
            train,
            model=start,
            backbone=self.clip if start is None else None,
            val=self.val,
            config=config,
            progress=False,
        )
        assert model.report is not None
        return model, model.report["finetune"]["history"]

    def _on_prompts_of(
        self, first: trmml.TextRegionMatcher, settings: FinetuneConfig
    ) -> trmml.TextRegionMatcher:
        """Return a new model with all that a trained one has in common with it."""
        names = self.train.labels
        model = trmml.TextRegionMatcher(make_config(self.clip, names, settings.matching), self.clip)
        model.start_from_text(settings.training.seed)
        common = first.learned_state().keys() & model.learned_state().keys()
        with torch.no_grad():
            for name in common:
                model.learned_state()[name].copy_(first.learned_state()[name])
        return model


_bench: Bench


def start_worker(num_threads: int, *arguments: Any) -> None:
    """Make the bench of a process of its own."""
    global _bench
    torch.set_num_threads(num_threads)
    _bench = Bench(*arguments)


def run_in_worker(run: Run) -> dict[str, Any]:
    """Do a run on the bench of this process."""
    return _bench.run(run)
