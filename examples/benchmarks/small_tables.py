"""What the benchmarks on small tables share: the methods, their runs, and how they are compared.

Of each draw a tenth of the photos is held out, on which the simple methods choose. trmml runs with its
defaults. The scores of a run stay in `--output`, and what is there is not run again; `--report` prints
the table and writes a JSON. With `--methods` the others keep what that JSON says of them.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from baselines import MLP, Fit, LearnedQueries, Photos, head, probe
from bench import AS_PUBLISHED
from gains import gain_over_seeds
from provenance import provenance
from small_tables_report import table_of

import trmml
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.intervals import resampled_maps
from trmml.evaluation.metrics import mean_average_precision
from trmml.files import write_atomically, write_json
from trmml.training.batches import CachedFeatures
from trmml.training.distributed import own_device
from trmml.training.features import compute_features
from trmml.zoo.loading import zero_shot_model

SIMPLE = ("zero-shot", "probe", "probe with patches", "MLP", "learned queries")
METHODS = (*SIMPLE, "text–region alone", "trmml")
SEEDS = (0, 1, 2)


class Drawn(NamedTuple):
    """A table: photos to learn from, those held out that choose, and those that are measured."""

    train: MultiLabelDataset
    chooser: MultiLabelDataset
    measured: MultiLabelDataset


class Features:
    """Frozen features of photos, computed once."""

    def __init__(self, backbone: str, photos: Iterable[Sequence[Path]]) -> None:
        """Load the CLIP and compute features, of each group of photos by itself."""
        self.clip = FrozenCLIP.load(backbone)
        groups = list(photos)
        self.groups = [compute_features(group, self.clip, progress=True) for group in groups]
        self.places = {
            photo: (i, row) for i, group in enumerate(groups) for row, photo in enumerate(group)
        }

    def of(self, data: MultiLabelDataset) -> Photos:
        """Return the features of photos, which are all of one group."""
        places = np.array([self.places[photo] for photo in data.photos])
        batches = list(CachedFeatures(self.groups[places[0, 0]], places[:, 1]).in_order(256))
        image = torch.cat([batch.image_features for batch in batches])
        patches = torch.cat([batch.patch_features.half() for batch in batches])
        return Photos(image, patches, torch.from_numpy(data.states))


def arguments(doc: str | None, tables: Iterable[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--backbone", default="small-clip")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tables", nargs="*", default=list(tables), choices=tables)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS, choices=SEEDS)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if "trmml" not in args.methods:
        parser.error("--methods needs trmml, which is compared with the others.")
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def measure(
    args: argparse.Namespace,
    features: Features,
    name: str,
    seed: int,
    draw: Callable[[], Drawn],
) -> None:
    """Do what is missing of a table, one file of scores for each method."""
    left = [m for m in args.methods if not _place(args.output, name, m, seed).is_file()]
    if not left:
        return
    drawn = draw()
    for method in left:
        started = time.process_time()
        scores = _scores_of(method, features, drawn, seed, args.precision)
        value = mean_average_precision(scores, drawn.measured.states)
        print(f"{name}, seed {seed}, {method}: {100 * value:.2f}", flush=True)
        facts = provenance() | {"cpu_seconds": round(time.process_time() - started, 1)}
        facts |= {"sha256": features.clip.config.sha256, "precision": args.precision}
        _save(_place(args.output, name, method, seed), scores, drawn.measured.states, facts)


def _scores_of(
    method: str, features: Features, drawn: Drawn, seed: int, precision: str
) -> np.ndarray:
    """Run a method and return what it says of the photos that it is measured on."""
    if method in ("zero-shot", "text–region alone", "trmml"):
        model = zero_shot_model(features.clip, drawn.train.labels)
        if method != "zero-shot":
            settings = {
                "training.seed": seed,
                "training.features": "cached",
                "training.precision": precision,
            }
            changes = {} if method == "trmml" else AS_PUBLISHED
            model = trmml.finetune(
                drawn.train,
                val=drawn.chooser,
                backbone=features.clip,
                config=settings | changes,
                progress=False,
            )
        photos, text = features.of(drawn.measured).on(model.device), model.stored_text()
        rows = torch.arange(len(drawn.measured)).split(256)
        with torch.inference_mode():
            parts = [
                model.match(
                    ImageFeatures(photos.patches[some].float(), photos.image[some]), text
                ).logits
                for some in rows
            ]
        return torch.cat(parts).cpu().numpy()
    device = own_device()
    seen = [features.of(data).on(device) for data in (drawn.train, drawn.chooser)]
    half = precision == "bfloat16"
    fits: dict[str, Callable[[], Fit]] = {
        "probe": lambda: probe(*seen, Photos.pooled),
        "probe with patches": lambda: probe(*seen, Photos.summaries),
        "MLP": lambda: head(MLP, *seen, seed, half=half),
        "learned queries": lambda: head(LearnedQueries, *seen, seed, half=half),
    }
    return fits[method]().logits(features.of(drawn.measured).on(device)).cpu().numpy()


def report(place: Path, tables: Iterable[str], methods: Sequence[str]) -> None:
    """Write the comparison as far as measured, and print it as a table."""
    found = summary(place, tables, methods)
    write_json(place, found)
    print(table_of(found))


def summary(place: Path, tables: Iterable[str], methods: Sequence[str]) -> dict[str, Any]:
    """Return mean and spread of every method, and trmml against the best of the simple ones.

    The interval of 95 % is of the same draws of photos for both, and of draws of seeds.

    Args:
        place: A JSON beside the scores.
        tables: Their names.
        methods: Of which there are scores; the others keep what the JSON says of them.
    """
    output, found = place.parent, {}
    before = json.loads(place.read_text("utf-8")) if place.is_file() else {}
    for table in tables:
        seeds = [s for s in SEEDS if all(_place(output, table, m, s).is_file() for m in methods)]
        if not seeds:
            if table in before:
                found[table] = before[table]
            continue
        files = {m: [np.load(_place(output, table, m, s)) for s in seeds] for m in methods}
        facts = _facts_of(table, files)
        values = {
            m: [mean_average_precision(file["scores"], file["states"]) for file in of_seeds]
            for m, of_seeds in files.items()
        }
        commits = {method: facts[method]["commit"] for method in methods}
        kept = _kept(before.get(table, {}), methods, seeds, facts["trmml"])
        for method, (maps, commit) in kept.items():
            values[method], commits[method] = maps, commit
        best = max((m for m in SIMPLE if m in values), key=lambda method: np.mean(values[method]))
        if best not in methods:
            raise SystemExit(f"{table}: the best simple method is {best}; add it to --methods.")
        drawn = [
            resampled_maps([ours["scores"], other["scores"]], ours["states"], seed=0)
            for ours, other in zip(files["trmml"], files[best], strict=True)
        ]
        measured = [method for method in METHODS if method in values]
        found[table] = {
            "mAP": {method: [round(float(v), 5) for v in values[method]] for method in measured},
            "best_simple": best,
            **gain_over_seeds(*zip(*drawn, strict=True)),
            "seeds": seeds,
            **facts["trmml"],
            "commits": {method: commits[method] for method in measured},
        }
    return found


def _facts_of(table: str, files: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Return how each method was measured: with one CLIP and precision, and all seeds by one commit."""
    facts = {m: [json.loads(str(file["facts"])) for file in runs] for m, runs in files.items()}
    runs = [run for of_seeds in facts.values() for run in of_seeds]
    for key in ("sha256", "precision"):
        if len({run[key] for run in runs}) > 1:
            raise SystemExit(f"{table}: runs of another {key} lie there; choose another --output.")
    for method, of_seeds in facts.items():
        commits = sorted({run["commit"] for run in of_seeds})
        if len(commits) > 1:
            raise SystemExit(
                f"{table}, {method}: some seeds are of commit {' and others of '.join(commits)}; "
                "remove those of one."
            )
    return {method: of_seeds[-1] for method, of_seeds in facts.items()}


def _kept(
    before: dict[str, Any], methods: Sequence[str], seeds: list[int], facts: dict[str, Any]
) -> dict[str, tuple[list[float], str]]:
    """Return mAP and commit of methods that were measured before, and are not now."""
    others = {name: maps for name, maps in before.get("mAP", {}).items() if name not in methods}
    same = ("sha256", "precision")
    if others and (before["seeds"] != seeds or any(before[key] != facts[key] for key in same)):
        raise SystemExit(
            f"{', '.join(others)} cannot be kept: they were measured with another CLIP, another "
            "precision or other seeds. Add them to --methods."
        )
    commits = before.get("commits", {})
    return {name: (maps, commits.get(name, before["commit"])) for name, maps in others.items()}


def _place(output: Path, table: str, method: str, seed: int) -> Path:
    return output / f"{table}, {method}, {seed}.npz"


def _save(path: Path, scores: np.ndarray, states: np.ndarray, facts: dict[str, Any]) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, scores=scores, states=states, facts=json.dumps(facts))

    write_atomically(path, write)
