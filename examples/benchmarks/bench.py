"""The bench that every method stands on: the same photos, frozen features and split."""

import resource
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from baselines import MLP, LearnedQueries, Photos, head, probe

import trmml
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.config.groups import FinetuneConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.measuring import measure
from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import POSITIVE
from trmml.training.batches import CachedFeatures
from trmml.training.distributed import own_device
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
AS_PUBLISHED = {"matching.linear_probe": False, "loss.trust_teacher": False}
"""Settings without our probe, and with a CLIP that is always trusted; distillation and pseudo labels
are as the paper has them."""
PROBES = {"linear-probe": Photos.pooled, "patch-probe": Photos.summaries}
HEADS = {"mlp": MLP, "learned-queries": LearnedQueries}


class Run(NamedTuple):
    """One training and its measurement."""

    method: str
    setting: str
    """A known share such as `10 %`, or `single positive`."""
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
        self._photos: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def partial(self, setting: str, seed: int) -> MultiLabelDataset:
        """Hide training labels as a setting says."""
        if setting == "single positive":
            return self.train.keep_single_positive(seed)
        return self.train.hide_labels(float(setting.rstrip(" %")) / 100, seed)

    def run(self, run: Run) -> dict[str, Any]:
        """Do one run; return its figures, and its scores or logits of the test photos."""
        started, cpu = time.perf_counter(), time.process_time()
        details: dict[str, Any] = {}
        if run.method == "zero-shot":
            model = zero_shot_model(self.clip, self.train.labels)
            val, test = self.scores(model, "val"), self.scores(model, "test")
        elif run.method in PROBES or run.method in HEADS:
            val, test, details = self._baseline(run)
        else:
            val, test, details = self._matching(run)
        others = [i for i, label in enumerate(self.test.labels) if label != "person"]
        several = (self.test.states == POSITIVE).sum(axis=1) >= 2
        measured = measure(test, self.test.states, self.test.labels, [0.5] * test.shape[1])
        return {
            **run._asdict(),
            "test_scores": test.astype(np.float32),
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

    def _seen(self, part: str, data: MultiLabelDataset) -> Photos:
        """Return the features of one of the three sets, which are read once, beside its states."""
        if part not in self._photos:
            batches = list(self.features[part].in_order(256))
            self._photos[part] = (
                torch.cat([batch.image_features for batch in batches]).to(own_device()),
                torch.cat([batch.patch_features.half() for batch in batches]).to(own_device()),
            )
        return Photos(*self._photos[part], torch.from_numpy(data.states).to(own_device()))

    def _baseline(self, run: Run) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Fit a probe or a head; the validation photos choose the penalty, or the best epoch."""
        train = self._seen("train", self.partial(run.setting, run.seed))
        val, test = self._seen("val", self.val), self._seen("test", self.test)
        if run.method in PROBES:
            fit = probe(train, val, PROBES[run.method])
        else:
            config = FinetuneConfig().changed(self.settings).training
            fit = head(
                HEADS[run.method],
                train,
                val,
                run.seed,
                [(run.changes["rate"], run.changes["decay"])],
                config.epochs,
                half=config.precision == "bfloat16",
            )
        details = {} if fit.penalty is None else {"penalty": fit.penalty}
        scores = (fit.logits(photos).sigmoid().cpu().numpy() for photos in (val, test))
        return *scores, details

    def _matching(self, run: Run) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        way = run.method.removesuffix("-alone")
        config = {"matching.way": way, "training.seed": run.seed}
        if way != "text-region":
            config |= MATCHING_ALONE
        elif run.method != way:
            config |= AS_PUBLISHED
        config |= {"training.features": "cached"} | self.settings | run.changes
        train = self.partial(run.setting, run.seed)
        if config.pop(PROMPTS_FIRST, False):
            # Without a probe, which would be so good that nothing more is learned.
            alone = {"matching.way": "text-image", "matching.linear_probe": False}
            first, _ = self._finetune(train, config | alone)
            start = self._on_prompts_of(first, FinetuneConfig().changed(config))
            model, history = self._finetune(
                train,
                config | {"training.train_prompts": False, "loss.self_distillation": False},
                start,
            )
        else:
            model, history = self._finetune(train, config)
        epochs = [{"val_mAP": e["val_mAP"], "pseudo_labels": e["pseudo_labels"]} for e in history]
        details: dict[str, Any] = {"epochs": epochs}
        val, test = self.scores(model, "val"), self.scores(model, "test")
        if model.probe is not None:
            model.probe.share.fill_(1)  # what is learned by steps has no say any more
            details["probe_alone"] = {
                "val_mAP": mean_average_precision(self.scores(model, "val"), self.val.states),
                "mAP": mean_average_precision(self.scores(model, "test"), self.test.states),
            }
        return val, test, details

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
