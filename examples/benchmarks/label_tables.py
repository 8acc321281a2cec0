"""What the tools for label tables are worth, measured where the hidden labels are known.

    python examples/benchmarks/label_tables.py --data coco18 --output runs/label_tables.json

Parts: `complete` (how right the filled blanks are, and a second training on the filled table),
`thresholds` (calibrated on partial labels against full ones), `mistakes` (labels flipped on purpose:
how many of the first listed ones are such). A run that is in the JSON is not run again.
"""

import argparse
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench import Bench
from provenance import provenance

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.calibration import Goal, calibrate, proportion
from trmml.evaluation.measuring import measure
from trmml.files import write_json
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

Found = dict[str, Any]
KNOWN, WANTED = 0.1, 0.9
FLIPPED = 0.03
FIRST = (100, 200, 500)


class Tables:
    """Models learned from tables with 10 % of the cells, and their scores."""

    def __init__(self, bench: Bench, settings: dict[str, Any]) -> None:
        """Share photos and features with the other benchmark."""
        self.bench, self.settings = bench, settings
        self._learned: dict[int, trmml.TextRegionMatcher] = {}

    def learn(self, train: MultiLabelDataset, seed: int) -> trmml.TextRegionMatcher:
        """Fine-tune with a validation table in which as much is blank."""
        config = self.settings | {"training.seed": seed}
        return trmml.finetune(train, backbone=self.bench.clip, val=self.val(seed), config=config)

    def learned(self, seed: int) -> trmml.TextRegionMatcher:
        """Return the model of the partial table, which two parts look at."""
        if seed not in self._learned:
            self._learned = {seed: self.learn(self.bench.train.hide_labels(KNOWN, seed), seed)}
        return self._learned[seed]

    def val(self, seed: int) -> MultiLabelDataset:
        """Return the validation table as its owner would have it."""
        return self.bench.val.hide_labels(KNOWN, seed)

    def test_map(self, model: trmml.TextRegionMatcher) -> float:
        """Return the mAP on the test photos, in per cent."""
        scores, test = self.bench.scores(model, "test"), self.bench.test
        measured = measure(scores, test.states, test.labels, [0.5] * scores.shape[1])
        return round(100 * measured.mean_average_precision, 2)

    def complete(self, seed: int) -> Found:
        """Fill the blanks at a wanted precision, compare with the truth, and train again."""
        partial, model = self.bench.train.hide_labels(KNOWN, seed), self.learned(seed)
        done = trmml.complete(model, partial, precision=WANTED, calibrate_on=self.val(seed))
        truth, filled = self.bench.train.states, done.dataset.states
        blank = partial.states == UNKNOWN

        def of(state: int, column: int | slice) -> dict[str, Any]:
            chosen = (blank & (filled == state))[:, column]
            right = int((truth[:, column][chosen] == state).sum())
            there = int((blank[:, column] & (truth[:, column] == state)).sum())
            count = int(chosen.sum())
            return {
                "filled": count,
                "precision": _rounded(proportion(right, count)),
                "there": there,
            }

        names = partial.labels
        states = (("positive", POSITIVE), ("negative", NEGATIVE))
        again = self.learn(done.dataset, seed)
        return {
            "blank": int(blank.sum()),
            "all": {name: of(state, slice(None)) for name, state in states},
            "labels": {n: {s: of(v, c) for s, v in states} for c, n in enumerate(names)},
            "mAP": {"partial": self.test_map(model), "completed": self.test_map(again)},
        }

    def mistakes(self, seed: int) -> Found:
        """Flip known labels, learn from them, and look for them again."""
        partial = self.bench.train.hide_labels(KNOWN, seed)
        known = np.argwhere(partial.states != UNKNOWN)
        generator = np.random.default_rng(seed)
        wrong = known[generator.random(len(known)) < FLIPPED]
        states, flipped = partial.states.copy(), np.zeros(partial.states.shape, dtype=bool)
        flipped[tuple(wrong.T)] = True
        states[flipped] = np.where(states[flipped] == POSITIVE, NEGATIVE, POSITIVE)
        spoiled = replace(partial, states=states)
        model = self.learn(spoiled, seed)
        # What is flipped changes how often rare labels are positive.
        done = trmml.complete(model, spoiled, calibrate_on=self.val(seed), any_rates=True)
        ours = flipped[[c.row for c in done.mistakes], [c.column for c in done.mistakes]]
        theirs = _cleanlab(done.estimates.probability, states, flipped)
        return {
            "known": len(known),
            "flipped": len(wrong),
            "chance": round(len(wrong) / len(known), 4),
            "listed": len(ours),
            "trmml": {str(k): round(float(ours[:k].sum() / k), 4) for k in FIRST},
            "cleanlab": {
                name: {str(k): round(float(hits[:k].sum() / k), 4) for k in FIRST}
                for name, hits in theirs.items()
            },
        }

    def thresholds(self, seed: int) -> Found:
        """Choose thresholds on a tenth of the validation labels, and on all of them."""
        model = self.learned(seed)
        val, test = self.bench.scores(model, "val"), self.bench.scores(model, "test")
        truth, names = self.bench.test.states == POSITIVE, self.bench.test.labels
        found: Found = {}
        for name, labels in (("partial", self.val(seed).states), ("full", self.bench.val.states)):
            limits = calibrate(val, labels).thresholds
            rated = measure(test, self.bench.test.states, names, limits).at_thresholds
            found[name] = {"CF1": round(100 * rated.label_f1, 2), "precision": {}}
            for wanted in (0.8, 0.9, 0.95):
                limits = calibrate(
                    val, labels, goal=Goal(kind="precision", target=wanted)
                ).thresholds
                chosen = test >= np.array(limits)
                hits = chosen & truth
                found[name]["precision"][str(wanted)] = {
                    "all": _rounded(proportion(int(hits.sum()), int(chosen.sum()))),
                    "found": int(chosen.sum()),
                    "labels": {
                        n: [*_rounded(proportion(int(h), int(k))), int(k)]
                        for n, h, k in zip(names, hits.sum(0), chosen.sum(0), strict=True)
                        if k
                    },
                }  # fmt: skip
        return found


def _cleanlab(
    probability: np.ndarray, labels: np.ndarray, flipped: np.ndarray
) -> dict[str, np.ndarray]:
    """Rank the same cells by the same scores with cleanlab; whether each is flipped, worst first."""
    from cleanlab.rank import get_label_quality_scores

    methods = {
        "self-confidence": {"method": "self_confidence"},
        "adjusted": {"method": "self_confidence", "adjust_pred_probs": True},
    }
    found = {}
    for name, options in methods.items():
        quality, hits = [], []
        for column in range(labels.shape[1]):
            known = labels[:, column] != UNKNOWN
            p = probability[known, column].astype(np.float64)
            stated = (labels[known, column] == POSITIVE).astype(int)
            quality.append(get_label_quality_scores(stated, np.stack([1 - p, p], 1), **options))
            hits.append(flipped[known, column])
        found[name] = np.concatenate(hits)[np.argsort(np.concatenate(quality), kind="stable")]
    return found


def _rounded(value: tuple[float, float, float]) -> list[float | None]:
    """A share and its interval; nothing if it is a share of nothing."""
    return [None if math.isnan(part) else round(part, 4) for part in value]


PARTS = {"complete": Tables.complete, "thresholds": Tables.thresholds, "mistakes": Tables.mistakes}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="*", default=tuple(PARTS), choices=PARTS)
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--backbone", default="small-clip")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--set", nargs="*", default=(), metavar="KEY=JSON")
    args = parser.parse_args()
    settings = {key: json.loads(value) for key, _, value in (s.partition("=") for s in args.set)}
    bench = Bench(args.data, args.backbone, args.image_size)
    tables = Tables(bench, settings)
    results = json.loads(args.output.read_text("utf-8")) if args.output.is_file() else {}
    for seed, part in itertools.product(args.seeds, args.parts):
        key = f"{part} | seed {seed}"
        if key in results:
            continue
        facts = {"settings": settings, "backbone": bench.clip.config.sha256, **provenance()}
        results[key] = PARTS[part](tables, seed) | {"facts": facts}
        write_json(args.output, results)
        print(f"{key}: done", flush=True)


if __name__ == "__main__":
    main()
