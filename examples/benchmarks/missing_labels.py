"""Does text–region matching win when labels are missing? Every method on the same photos and budget.

    python examples/benchmarks/missing_labels.py --data coco18 --output runs/missing_labels
    python examples/benchmarks/missing_labels.py --data coco18 --output runs/missing_labels \
        --part ablations

Frozen features are computed once and shared. The matching methods differ in `model.matching` alone;
each takes its learning rates and loss from the same small grid, chosen on validation photos at 10 and
50 % known labels (`--part choose`). Every run is written to `results.json` as it ends, and what is there
is not run again. `report.py` makes the table and the plot from it.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import trmml
from trmml.backbone import FrozenCLIP, ImageFeatures
from trmml.batches import CachedFeatures
from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation import measure
from trmml.features import compute_features
from trmml.files import write_json
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.metrics import mean_average_precision
from trmml.zoo import zero_shot_model

MATCHINGS = ("text-image", "text-pixel", "text-region")
METHODS = ("zero-shot", "linear-probe", *MATCHINGS)
SETTINGS = ("10 %", "30 %", "50 %", "70 %", "90 %", "100 %", "single positive")
CROSS_ENTROPY = {"loss.gamma_positive": 0.0, "loss.gamma_negative": 0.0, "loss.clip": 0.0}
ASYMMETRIC = {"loss.gamma_positive": 1.0, "loss.gamma_negative": 2.0, "loss.clip": 0.05}
GRID: dict[str, dict[str, Any]] = {
    f"rates × {factor:g}, {name}": {
        "training.learning_rate": 3e-4 * factor,
        "training.prompt_learning_rate": 3e-3 * factor,
        **loss,
    }
    for factor in (0.3, 1.0, 3.0)
    for name, loss in (("cross-entropy", CROSS_ENTROPY), ("asymmetric", ASYMMETRIC))
}
PSEUDO = {"pseudo_labels.enabled": True}
ABLATIONS: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "without the MLP": {"model.region_mlp": False},
    "one prompt": {"model.negative_prompt": False},
    "shared context": {"model.category_specific_context": False},
    "hand-written prompts": {
        "model.context_init": "a photo of a",
        "training.train_prompts": False,
        "model.negative_prompt": False,
    },
    "with distillation": {"loss.distillation": 0.1},
    "with contrast": {"loss.contrastive": 0.01},
    "with pseudo labels": PSEUDO,
    "… visual prototypes only": PSEUDO | {"pseudo_labels.text": False},
    "… text prototypes only": PSEUDO | {"pseudo_labels.visual": False},
    "… intra-category only": PSEUDO | {"pseudo_labels.inter_category": False},
    "… inter-category only": PSEUDO | {"pseudo_labels.intra_category": False},
    "… thresholds 0.95 / 0.02": PSEUDO
    | {"pseudo_labels.positive_threshold": 0.95, "pseudo_labels.negative_threshold": 0.02},
    "… weight 0.1": PSEUDO | {"pseudo_labels.weight": 0.1},
}
STRENGTHS = (0.001, 0.003, 0.01, 0.03)


class Bench:
    """The photos, their features, and the results so far."""

    def __init__(
        self,
        data: Path,
        backbone: str,
        image_size: int | None,
        output: Path,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Read, compute features and earlier results; the settings are those of all trainings."""
        table = data / "labels.csv"

        def read(split: str) -> MultiLabelDataset:
            return trmml.read_dataset(table, images=data, unlabeled="negative", split=split)

        self.train = read("train")
        names = self.train.category_names
        self.val, self.test = (read(split).aligned_to(names) for split in ("val", "test"))
        self.clip = FrozenCLIP.load(backbone, image_size=image_size)
        self.features = {
            name: CachedFeatures(
                compute_features(part.photos, self.clip, progress=True), np.arange(len(part))
            )
            for name, part in (("train", self.train), ("val", self.val), ("test", self.test))
        }
        self.path = output / "results.json"
        self.settings = settings or {}
        self.results: dict[str, Any] = {"facts": self._facts(backbone), "chosen": {}, "runs": {}}
        if self.path.is_file():
            self.results = json.loads(self.path.read_text("utf-8"))
            before = {
                key: self.results["facts"].get(key) for key in ("sha256", "image_size", "settings")
            }
            if before != {key: self._facts(backbone)[key] for key in before}:
                raise SystemExit(f"{self.path} was measured with {before}; choose another output.")

    def _facts(self, backbone: str) -> dict[str, Any]:
        return {
            "backbone": backbone,
            "sha256": self.clip.config.sha256,
            "image_size": self.clip.photo.image_size,
            "settings": self.settings,
            "images": {"train": len(self.train), "val": len(self.val), "test": len(self.test)},
            **provenance(),
        }

    def partial(self, setting: str, seed: int) -> MultiLabelDataset:
        """Hide training labels as a setting says."""
        if setting == "single positive":
            return self.train.keep_single_positive(seed)
        return self.train.hide_labels(float(setting.rstrip(" %")) / 100, seed)

    def run(self, method: str, setting: str, seed: int, changes: dict[str, Any], note: str) -> None:
        """Do one run and keep it, unless it is there."""
        key = " | ".join((method, setting, f"seed {seed}", note))
        if key in self.results["runs"]:
            return
        started = time.perf_counter()
        details: dict[str, Any] = {}
        if method == "zero-shot":
            model = zero_shot_model(self.clip, self.train.category_names)
            val, test = self.scores(model, "val"), self.scores(model, "test")
        elif method == "linear-probe":
            val, test, details = self._probe(self.partial(setting, seed))
        else:
            val, test, details = self._matching(method, self.partial(setting, seed), seed, changes)
        several = (self.test.labels == POSITIVE).sum(axis=1) >= 2
        measured = measure(test, self.test.labels, self.test.category_names, [0.5] * test.shape[1])
        run = {
            "method": method,
            "setting": setting,
            "seed": seed,
            "note": note,
            "changes": changes,
            "val_mAP": mean_average_precision(val, self.val.labels),
            "mAP": measured.mean_average_precision,
            "mAP_without_person": measured.mean_average_precision_without("person"),
            "mAP_two_or_more": mean_average_precision(test[several], self.test.labels[several]),
            "CF1": measured.at_half.category_f1,
            "OF1": measured.at_half.overall_f1,
            "seconds": round(time.perf_counter() - started, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            **details,
        }
        self.results["runs"][key] = run
        write_json(self.path, self.results)
        print(f"{key}: val {100 * run['val_mAP']:.2f}, {run['seconds']} s", flush=True)

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
        """Fit a logistic regression per label on its known cells; without negatives, on all cells."""
        scaler = StandardScaler().fit(self._pooled("train"))
        features, val, test = (scaler.transform(self._pooled(p)) for p in self.features)
        found: dict[float, list[np.ndarray]] = {}
        for strength in STRENGTHS:
            columns = []
            for labels in train.labels.T:
                if not (labels == NEGATIVE).any():
                    labels = np.where(labels == UNKNOWN, NEGATIVE, labels)
                known = labels != UNKNOWN
                fit = LogisticRegression(C=strength, max_iter=300)
                fit.fit(features[known], labels[known])
                columns.append([fit.predict_proba(x)[:, 1] for x in (val, test)])
            found[strength] = [
                np.stack(part, axis=1).astype(np.float32) for part in zip(*columns, strict=True)
            ]
        best = max(STRENGTHS, key=lambda c: mean_average_precision(found[c][0], self.val.labels))
        return found[best][0], found[best][1], {"C": best}

    def _matching(
        self, method: str, train: MultiLabelDataset, seed: int, changes: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        config = {"model.matching": method, "training.seed": seed, "training.features": "cached"}
        config |= self.settings | changes
        with tempfile.TemporaryDirectory(dir=self.path.parent) as place:
            folder = Path(place) / "model"
            model = trmml.finetune(
                train,
                backbone=self.clip,
                val=self.val,
                config=config,
                output=folder,
                progress=False,
            )
            history = json.loads((folder / "finetune.json").read_text("utf-8"))["history"]
        epochs = [{"val_mAP": e["val_mAP"], "pseudo_labels": e["pseudo_labels"]} for e in history]
        return self.scores(model, "val"), self.scores(model, "test"), {"epochs": epochs}

    def choose(self, methods: list[str]) -> None:
        """Choose rates and loss of each matching method on val, at 10 and 50 % known labels."""
        for method in methods:
            if method not in MATCHINGS or method in self.results["chosen"]:
                continue
            for note, changes in GRID.items():
                for setting in ("10 %", "50 %"):
                    self.run(method, setting, 0, changes, note)
            runs = self.results["runs"].values()

            def mean(note: str, method: str = method, runs: Any = runs) -> float:
                here = [r for r in runs if (r["method"], r["note"]) == (method, note)]
                return float(np.mean([run["val_mAP"] for run in here]))

            best = max(GRID, key=mean)
            self.results["chosen"][method] = best
            write_json(self.path, self.results)
            print(f"{method}: {best}", flush=True)


def main() -> None:
    """Run what is missing of one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--backbone", default="small-clip")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", choices=("choose", "grid", "ablations"), default="grid")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--settings", nargs="*", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument(
        "--set", nargs="*", default=(), metavar="KEY=JSON", help="for every training"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    settings = {key: json.loads(value) for key, _, value in (s.partition("=") for s in args.set)}
    bench = Bench(args.data, args.backbone, args.image_size, args.output, settings)
    if args.part == "ablations":
        bench.choose(["text-region"])
        chosen = GRID[bench.results["chosen"]["text-region"]]
        for seed in args.seeds:
            for setting in ("10 %", "single positive"):
                for note, changes in ABLATIONS.items():
                    bench.run("text-region", setting, seed, chosen | changes, f"ablation: {note}")
        return
    bench.choose(list(args.methods))
    if args.part == "choose":
        return
    for seed in args.seeds:
        for setting in args.settings:
            for method in args.methods:
                chosen = bench.results["chosen"].get(method)
                changes = {} if chosen is None else GRID[chosen]
                bench.run(method, setting, seed, changes, "grid")


if __name__ == "__main__":
    main()
