"""Is it ever worse than something simple? Small tables of other kinds, against what a sceptic would try.

    python examples/benchmarks/other_tables.py --data coco18 --output runs/other_tables
    python examples/benchmarks/other_tables.py --data coco18 --output runs/other_tables --report
    python examples/benchmarks/other_tables.py --data coco18 --output runs/other_tables \
        --methods zero-shot probe "probe with patches" trmml

Labels are the 18 of COCO-18, or words of the captions: colours, clothes, doings, places; the same with
made-up names, of which text can say nothing; and things with 3 to 11 captions each. Training photos are
drawn from the training photos; a tenth of them is held out, on which every method chooses. All are
measured on the 2,500 validation photos, as the test photos have no captions. trmml runs with its
defaults. What is done stays in `--output`; `--report` prints the table and writes `other_tables.json`.
With `--methods` the others keep what an `other_tables.json` in `--output` says of them.
"""

import argparse
import csv
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from baselines import MLP, Fit, LearnedQueries, Photos, head, probe
from bench import AS_PUBLISHED
from gains import gain_over_seeds
from other_tables_report import table_of
from provenance import provenance

import trmml
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.data.dataset import MultiLabelDataset
from trmml.data.splits import split_dataset
from trmml.evaluation.intervals import resampled_maps
from trmml.evaluation.metrics import mean_average_precision
from trmml.files import write_atomically, write_json
from trmml.labels import NEGATIVE, POSITIVE
from trmml.training.batches import CachedFeatures
from trmml.training.distributed import own_device
from trmml.training.features import compute_features
from trmml.zoo.loading import zero_shot_model

WORDS = [
    word
    for line in (
        "red white black green blue yellow brown wooden hat shirt tie sitting standing riding",
        "holding walking playing eating flying laying looking parked wearing swinging driving snow",
        "beach street grass kitchen outside water room field road city park building court ocean",
        "sidewalk",
    )
    for word in line.split()
]
RARE = (3, 11)
"""Positives of the labels of the long tail, among the training photos drawn."""
MOST_DRAWS = 1000
SIMPLE = ("zero-shot", "probe", "probe with patches", "MLP", "learned queries")
METHODS = (*SIMPLE, "text–region alone", "trmml")
SEEDS = (0, 1, 2)


class Kind(NamedTuple):
    """A kind of table: whose labels, how many photos, how many of its cells are known."""

    labels: str
    photos: int
    known: float


TABLES = {
    "COCO-18, 100 photos": Kind("objects", 100, 1.0),
    "COCO-18, 300 photos": Kind("objects", 300, 1.0),
    "COCO-18, 1,000 photos": Kind("objects", 1000, 1.0),
    "words, 40 % known": Kind("words", 1600, 0.4),
    "words, 10 % known": Kind("words", 1600, 0.1),
    "made-up names, 40 % known": Kind("made-up", 1600, 0.4),
    "long tail": Kind("rare", 1600, 1.0),
}


class Tables:
    """Photos with the labels of every kind, and features computed once."""

    def __init__(self, data: Path, backbone: str, precision: str) -> None:
        """Read both tables and compute features; the precision is that of all trainings."""
        self.precision = precision
        objects = {
            split: trmml.read_dataset(
                data / "labels.csv", images=data, unlabeled="negative", split=split
            )
            for split in ("train", "val")
        }
        objects["val"] = objects["val"].aligned_to(objects["train"].labels)
        with (data / "captions.csv").open(newline="", encoding="utf-8") as file:
            said = {
                data / row["image"]: set(re.findall(r"[a-z]+", row["caption"].lower()))
                for row in csv.DictReader(file)
            }
        self.data = {"objects": objects}
        counts: dict[str, int] = {}
        for photo in objects["train"].photos:
            for word in said[photo]:
                counts[word] = counts.get(word, 0) + 1
        share = 1600 / len(objects["train"])
        # A little more than the least and less than the most, as the numbers of a draw vary.
        rare = sorted(w for w, n in counts.items() if 5 <= n * share <= 8 and len(w) > 3)
        for kind, words in (("words", WORDS), ("rare", rare)):
            self.data[kind] = {
                split: _with_words(part, words, words, said) for split, part in objects.items()
            }
        names = [f"label {i}" for i in range(len(WORDS))]
        self.data["made-up"] = {
            split: _with_words(part, WORDS, names, said) for split, part in objects.items()
        }
        self.clip = FrozenCLIP.load(backbone)
        self.features = {
            split: compute_features(part.photos, self.clip, progress=True)
            for split, part in objects.items()
        }
        self.rows = {
            photo: row for part in objects.values() for row, photo in enumerate(part.photos)
        }

    def drawn(self, kind: Kind, seed: int) -> tuple[MultiLabelDataset, MultiLabelDataset]:
        """Return photos to learn from, and those held out; every label has a known positive."""
        everything = self.data[kind.labels]["train"]
        generator = np.random.default_rng(seed)
        for _ in range(MOST_DRAWS):
            rows = np.sort(generator.choice(len(everything), kind.photos, replace=False))
            few = everything.subset(rows)
            if kind.labels == "rare":
                few = _only_rare(few)
            few = few.hide_labels(kind.known, seed)
            train, chooser = split_dataset(few, 0.1, seed)
            if (train.states == POSITIVE).any(axis=0).all():
                return train, chooser
        raise SystemExit(f"{MOST_DRAWS} draws of {kind} left a label without a known positive.")

    def seen(self, data: MultiLabelDataset, split: str) -> Photos:
        """Return the features of photos of a split."""
        rows = np.array([self.rows[photo] for photo in data.photos])
        batches = list(CachedFeatures(self.features[split], rows).in_order(256))
        image = torch.cat([batch.image_features for batch in batches])
        patches = torch.cat([batch.patch_features.half() for batch in batches])
        return Photos(image, patches, torch.from_numpy(data.states))


def _with_words(
    data: MultiLabelDataset, words: list[str], names: list[str], said: dict[Path, set[str]]
) -> MultiLabelDataset:
    states = np.array([[word in said[photo] for word in words] for photo in data.photos])
    states = np.where(states, POSITIVE, NEGATIVE).astype(np.int8)
    return MultiLabelDataset(data.photos, states, tuple(names))


def _only_rare(data: MultiLabelDataset) -> MultiLabelDataset:
    counts = (data.states == POSITIVE).sum(axis=0)
    chosen = [
        name for name, count in zip(data.labels, counts, strict=True) if RARE[0] <= count <= RARE[1]
    ]
    return data.with_labels(chosen)


def scores_of(
    method: str,
    tables: Tables,
    train: MultiLabelDataset,
    chooser: MultiLabelDataset,
    measured: MultiLabelDataset,
    seed: int,
) -> np.ndarray:
    """Run a method and return what it says of the photos that it is measured on."""
    if method in ("zero-shot", "text–region alone", "trmml"):
        model = zero_shot_model(tables.clip, train.labels)
        if method != "zero-shot":
            settings = {
                "training.seed": seed,
                "training.features": "cached",
                "training.precision": tables.precision,
            }
            changes = {} if method == "trmml" else AS_PUBLISHED
            model = trmml.finetune(
                train,
                val=chooser,
                backbone=tables.clip,
                config=settings | changes,
                progress=False,
            )
        photos, text = tables.seen(measured, "val").on(model.device), model.stored_text()
        rows = torch.arange(len(measured)).split(256)
        with torch.inference_mode():
            parts = [
                model.match(
                    ImageFeatures(photos.patches[some].float(), photos.image[some]), text
                ).logits
                for some in rows
            ]
        return torch.cat(parts).cpu().numpy()
    device = own_device()
    seen = [tables.seen(data, "train").on(device) for data in (train, chooser)]
    half = tables.precision == "bfloat16"
    fits: dict[str, Callable[[], Fit]] = {
        "probe": lambda: probe(*seen, Photos.pooled),
        "probe with patches": lambda: probe(*seen, Photos.summaries),
        "MLP": lambda: head(MLP, *seen, seed, half=half),
        "learned queries": lambda: head(LearnedQueries, *seen, seed, half=half),
    }
    return fits[method]().logits(tables.seen(measured, "val").on(device)).cpu().numpy()


def run(args: argparse.Namespace) -> None:
    """Do what is missing, one file of scores for each."""
    tables = Tables(args.data, args.backbone, args.precision)
    for name in args.tables:
        for seed in args.seeds:
            left = [m for m in args.methods if not _place(args.output, name, m, seed).is_file()]
            if not left:
                continue
            train, chooser = tables.drawn(TABLES[name], seed)
            kind = tables.data[TABLES[name].labels]
            measured = kind["val"].with_labels(list(train.labels))
            for method in left:
                started = time.process_time()
                scores = scores_of(method, tables, train, chooser, measured, seed)
                value = mean_average_precision(scores, measured.states)
                print(f"{name}, seed {seed}, {method}: {100 * value:.2f}", flush=True)
                facts = provenance() | {"cpu_seconds": round(time.process_time() - started, 1)}
                facts |= {"sha256": tables.clip.config.sha256, "precision": tables.precision}
                _save(_place(args.output, name, method, seed), scores, measured.states, facts)


def _place(output: Path, table: str, method: str, seed: int) -> Path:
    return output / f"{table}, {method}, {seed}.npz"


def _save(path: Path, scores: np.ndarray, states: np.ndarray, facts: dict[str, Any]) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, scores=scores, states=states, facts=json.dumps(facts))

    write_atomically(path, write)


def summary(output: Path, methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Return mean and spread of every method, and trmml against the best of the simple ones.

    The interval of 95 % is of the same draws of photos for both, and of draws of seeds.

    Args:
        output: Folder of the scores.
        methods: Of which there are scores; the others keep what the JSON there says of them.
    """
    place, found = output / "other_tables.json", {}
    before = json.loads(place.read_text("utf-8")) if place.is_file() else {}
    for table in TABLES:
        seeds = [s for s in SEEDS if all(_place(output, table, m, s).is_file() for m in methods)]
        if not seeds:
            continue
        files = {m: [np.load(_place(output, table, m, s)) for s in seeds] for m in methods}
        facts = {m: json.loads(str(of_seeds[-1]["facts"])) for m, of_seeds in files.items()}
        values = {
            m: [mean_average_precision(file["scores"], file["states"]) for file in of_seeds]
            for m, of_seeds in files.items()
        }
        commits = {method: facts[method]["commit"] for method in methods}
        for method in set(METHODS) - set(methods):
            values[method] = _kept(before.get(table, {}), method, seeds, facts["trmml"])
            commits[method] = before[table].get("commits", {}).get(method, before[table]["commit"])
        best = max(SIMPLE, key=lambda method: np.mean(values[method]))
        if best not in methods:
            raise SystemExit(f"{table}: the best simple method is {best}; add it to --methods.")
        pairs = zip(files["trmml"], files[best], strict=True)
        drawn = [
            resampled_maps([ours["scores"], other["scores"]], ours["states"], seed=0)
            for ours, other in pairs
        ]
        found[table] = {
            "mAP": {method: [round(float(v), 5) for v in values[method]] for method in METHODS},
            "best_simple": best,
            **gain_over_seeds(*zip(*drawn, strict=True)),
            "seeds": seeds,
            **facts["trmml"],
            "commits": {method: commits[method] for method in METHODS},
        }
    return found


def _kept(
    before: dict[str, Any], method: str, seeds: list[int], facts: dict[str, Any]
) -> list[float]:
    """Return what was measured of a method before, on the same CLIP with the same seeds."""
    same = ("sha256", "precision")
    if before.get("seeds") != seeds or any(before.get(key) != facts[key] for key in same):
        raise SystemExit(f"There is nothing measured of {method} to keep; add it to --methods.")
    return before["mAP"][method]


def main() -> None:
    """Run what is missing, or report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with both tables")
    parser.add_argument("--backbone", default="small-clip")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=TABLES)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS, choices=SEEDS)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if not args.report:
        run(args)
    found = summary(args.output, args.methods)
    write_json(args.output / "other_tables.json", found)
    print(table_of(found))


if __name__ == "__main__":
    main()
