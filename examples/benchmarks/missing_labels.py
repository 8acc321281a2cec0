"""Does text–region matching win when labels are missing? Every method on the same photos and budget.

    python examples/benchmarks/missing_labels.py --data coco18 --output runs/missing_labels
    python examples/benchmarks/missing_labels.py --data coco18 --output runs/missing_labels \
        --part ablations

Frozen features are computed once and shared. A method takes its learning rates and loss from a small
grid, and text–pixel its sharpness too, chosen on validation photos at 10 and 50 % known labels (`--part
choose`); a probe takes its penalty in every run. Text–region has its defaults; text–region alone is
TRM-ML as published, without our parts beside the text. Every run is written to
`results.json` as it ends, and what is there is not run again; with `--jobs 2`, two runs at a time share
the processor. Ablations change one thing of the text–region runs of the grid, and are compared with
those. `missing_labels_report.py` makes tables and plot.
"""

import argparse
import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from baselines import DECAYS, RATES
from bench import HEADS, PROBES, PROMPTS_FIRST, Bench, Run, run_in_worker, start_worker
from gains import gain_over_seeds
from provenance import provenance

from trmml.evaluation.intervals import resampled_maps
from trmml.files import write_atomically, write_json

SIMPLE = ("zero-shot", *PROBES, *HEADS)
"""What a sceptic would try first; the ways of matching that others have published are compared, too."""
MATCHINGS = ("text-image", "text-pixel", "text-region-alone")
METHODS = (*SIMPLE, *MATCHINGS, "text-region")
PARTS = ("choose", "grid", "ablations")
SEEDS = (0, 1, 2)
SETTINGS = ("10 %", "30 %", "50 %", "70 %", "90 %", "100 %", "single positive")
CROSS_ENTROPY = {"loss.gamma_positive": 0.0, "loss.gamma_negative": 0.0, "loss.clip": 0.0}
ASYMMETRIC = {"loss.gamma_positive": 1.0, "loss.gamma_negative": 2.0, "loss.clip": 0.05}
HEAD_GRID: dict[str, dict[str, Any]] = {
    f"rate {rate:g}, decay {decay:g}": {"rate": rate, "decay": decay}
    for rate in RATES
    for decay in DECAYS
}
SHARPNESS: dict[str, dict[str, Any]] = {
    f"sharpness {scale:g}": {"matching.spatial_scale": scale} for scale in (1.0, 5.0, 20.0)
}
NO_REGIONS = "text–pixel, all else the same"
"""The ablation that needs the settings chosen for text–pixel."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "without the probe (zero-shot, linear map, MLP)": {"matching.linear_probe": False},
    "without the MLP of the probe": {"matching.mlp_probe": False},
    "CLIP always trusted as the teacher": {"loss.trust_teacher": False},
    "without the MLP of the regions": {"matching.region_mlp": False},
    "one prompt": {"matching.negative_prompt": False},
    "own contexts": {"matching.label_specific_context": True},
    "hand-written prompts": {
        "matching.context_init": "a photo of a",
        "training.train_prompts": False,
        "matching.negative_prompt": False,
    },
    "prompts first": {PROMPTS_FIRST: True},
    "without distillation": {"loss.distillation": 0.0},
    "CLIP teaches the same with few labels": {"loss.few_labels": 0},
    "distillation by the photo alone": {"loss.teacher": "photo"},
    "distillation by patches alone": {"loss.teacher": "patches"},
    "with contrast": {"loss.contrastive": 0.03},
}
PSEUDO_LABELS: dict[str, dict[str, Any]] = {
    "without pseudo labels": {"pseudo_labels.enabled": False},
    "visual prototypes only": {"pseudo_labels.modalities": "visual"},
    "text prototypes only": {"pseudo_labels.modalities": "text"},
    "intra-category only": {"pseudo_labels.relations": "intra"},
    "inter-category only": {"pseudo_labels.relations": "inter"},
    "thresholds 0.9 and 0.1": {
        "pseudo_labels.positive_threshold": 0.9,
        "pseudo_labels.negative_threshold": 0.1,
    },
}
"""Ablations of what only works where some negatives are known, so not with single positives."""


class Results:
    """What was measured so far, in a file, and the benches that measure the rest."""

    def __init__(
        self, path: Path, facts: dict[str, Any], bench: tuple[Any, ...], jobs: int
    ) -> None:
        """Continue a file.

        Args:
            path: A JSON.
            facts: What all of its runs share.
            bench: Arguments of `Bench`.
            jobs: Runs at a time; one of several has a process of its own.
        """
        self.path, self.scores, self.jobs = path, path.parent / "scores", jobs
        self.arguments = bench
        self.bench = Bench(*bench)
        clip, parts = self.bench.clip, (self.bench.train, self.bench.val, self.bench.test)
        shared = {"sha256": clip.config.sha256, "image_size": clip.photo.image_size, **facts}
        counts = dict(zip(("train", "val", "test"), map(len, parts), strict=True))
        self.content: dict[str, Any] = {
            "facts": {**shared, "images": counts, **provenance()},
            "chosen": {},
            "runs": {},
        }
        if path.is_file():
            self.content = json.loads(path.read_text("utf-8"))
            before = {key: self.content["facts"].get(key) for key in shared}
            if before != shared:
                raise SystemExit(f"{path} was measured with {before}; choose another output.")

    def add(self, runs: Iterable[Run]) -> None:
        """Do the runs that are missing, and keep each as it ends."""
        left = [run for run in runs if run.key not in self.content["runs"]]
        if self.jobs == 1 or len(left) < 2:
            for run in left:
                self._keep(run.key, self.bench.run(run))
            return
        threads = max((os.cpu_count() or 1) // self.jobs, 1)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        with ProcessPoolExecutor(
            self.jobs, get_context("spawn"), start_worker, (threads, *self.arguments)
        ) as pool:
            waiting = {pool.submit(run_in_worker, run): run.key for run in left}
            for done in as_completed(waiting):
                self._keep(waiting[done], done.result())

    def _keep(self, key: str, run: dict[str, Any]) -> None:
        scores = run.pop("test_scores")
        if run["note"] == "grid":
            self.scores.mkdir(exist_ok=True)
            write_atomically(self._scores_of(key), lambda path: _save(path, scores))
        made = provenance()
        self.content["runs"][key] = run | {name: made[name] for name in ("commit", "machine")}
        write_json(self.path, self.content)
        print(f"{key}: val {100 * run['val_mAP']:.2f}, {run['seconds']} s", flush=True)

    def _scores_of(self, key: str) -> Path:
        return self.scores / f"{key.replace(' | ', ', ')}.npy"

    def compare(self) -> None:
        """Write how far text–region is above the best simple method, of the settings that are done."""
        gains: dict[str, Any] = {}
        for setting in SETTINGS:
            seeds = [seed for seed in SEEDS if self._done((*SIMPLE, "text-region"), setting, seed)]
            if not seeds:
                continue
            maps = {
                method: [self.content["runs"][_grid_key(method, setting, s)]["mAP"] for s in seeds]
                for method in SIMPLE
            }
            best = max(SIMPLE, key=lambda method: np.mean(maps[method]))
            pair = ("text-region", best)
            drawn = [
                resampled_maps(
                    [np.load(self._scores_of(_grid_key(m, setting, seed))) for m in pair],
                    self.bench.test.states,
                    seed=0,
                )
                for seed in seeds
            ]
            found = gain_over_seeds(*zip(*drawn, strict=True))
            gains[setting] = {"best_simple": best, **found}
        self.content["gains"] = gains
        write_json(self.path, self.content)

    def _done(self, methods: Iterable[str], setting: str, seed: int) -> bool:
        return all(_grid_key(m, setting, seed) in self.content["runs"] for m in methods)

    def choose(self, methods: Iterable[str]) -> None:
        """Choose the settings of each matching method on val, at 10 and 50 % known labels."""
        for method in methods:
            for stage in range(len(grids(method))):
                self._choose(method, stage)

    def _choose(self, method: str, stage: int) -> None:
        """Choose from one grid, with what was chosen from those before it."""
        before, options = self.chosen(method, stage), grids(method)[stage]
        self.add(
            Run(method, setting, 0, before | changes, name)
            for name, changes in options.items()
            for setting in ("10 %", "50 %")
        )
        runs = self.content["runs"].values()

        def mean(name: str) -> float:
            here = [r for r in runs if (r["method"], r["note"]) == (method, name)]
            return float(np.mean([run["val_mAP"] for run in here]))

        names = self.content["chosen"].get(method, [])[:stage]
        self.content["chosen"][method] = [*names, max(options, key=mean)]
        write_json(self.path, self.content)

    def chosen(self, method: str, num_stages: int | None = None) -> dict[str, Any]:
        """Return the settings chosen for a method; none for one without a grid."""
        names = self.content["chosen"].get(method, [])[:num_stages]
        changes: dict[str, Any] = {}
        for name, options in zip(names, grids(method), strict=False):
            changes |= options[name]
        return changes


def grids(method: str) -> tuple[dict[str, dict[str, Any]], ...]:
    """Return what the settings of a method are chosen from, one grid after the other."""
    if method in HEADS:
        return (HEAD_GRID,)
    if method not in MATCHINGS:
        return ()
    # What knows less of text likes higher rates; a grid ends where they are worse.
    return {
        "text-region-alone": (matching_grid(9e-5, 3e-4, 9e-4),),
        "text-image": (matching_grid(9e-4, 3e-3, 9e-3, 3e-2, 0.1),),
        "text-pixel": (matching_grid(3e-3, 9e-3, 3e-2, 0.1), SHARPNESS),
    }[method]


def matching_grid(*rates: float) -> dict[str, dict[str, Any]]:
    """Return learning rates, ten times as high for the prompts, with either loss."""
    return {
        f"rate {rate:g}, {name}": {
            "training.learning_rate": rate,
            "training.prompt_learning_rate": 10 * rate,
            **loss,
        }
        for rate in rates
        for name, loss in (("cross-entropy", CROSS_ENTROPY), ("asymmetric", ASYMMETRIC))
    }


def main() -> None:
    """Run what is missing of one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--backbone", default="small-clip")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, default="grid")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--settings", nargs="*", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--set", nargs="*", default=(), metavar="KEY=JSON", help="for every training"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    settings = {key: json.loads(value) for key, _, value in (s.partition("=") for s in args.set)}
    results = Results(
        args.output / "results.json",
        {"backbone": args.backbone, "settings": settings},
        (args.data, args.backbone, args.image_size, settings),
        args.jobs,
    )
    methods = ("text-pixel",) if args.part == "ablations" else args.methods
    results.choose(methods)
    if args.part == "ablations":
        no_regions = results.chosen("text-pixel") | {"matching.way": "text-pixel"}
        everywhere = {NO_REGIONS: no_regions, **ABLATIONS}
        of_setting = {"10 %": everywhere | PSEUDO_LABELS, "single positive": everywhere}
        results.add(
            Run(
                "text-region", s, seed, results.chosen("text-region") | changes, f"ablation: {name}"
            )
            for seed in args.seeds
            for s, ablations in of_setting.items()
            for name, changes in ablations.items()
        )
    elif args.part == "grid":
        results.add(
            Run(method, setting, seed, results.chosen(method), "grid")
            for seed in args.seeds
            for setting in args.settings
            for method in methods
        )
    results.compare()


def _grid_key(method: str, setting: str, seed: int) -> str:
    return Run(method, setting, seed, {}, "grid").key


def _save(path: Path, scores: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, scores)


if __name__ == "__main__":
    main()
