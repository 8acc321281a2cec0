"""How often thresholds keep a precision on photos that did not choose them: with a promise, and without.

`python examples/benchmarks/guarantees.py --data coco18 --output guarantees.json`

Validation photos alone: for each seed they are parted in halves several times; one half chooses the
thresholds, by some of its labels, the other counts. A precision q is kept "plainly" if the tags there
reach q, and "within chance" if no fewer are right than in one case of twenty at a true precision of q.
Plainly is too strict (at a true precision of q every other label misses it), within chance is too mild
where a label has few tags; the truth is between.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

import trmml
from trmml.evaluation.calibration import Goal, calibrate
from trmml.evaluation.guarantees import binomial_tail, guarantee
from trmml.evaluation.measuring import evaluate
from trmml.labels import POSITIVE, hide_labels
from trmml.matcher.thresholds import NEVER, Calibration

SEEDS = (0, 1, 2)
HALVES = 20
PRECISIONS = (0.8, 0.9, 0.95)
SHARES = (1.0, 0.3, 0.1)
"""Of the labels of the half that chooses."""


def kept(hits: np.ndarray, found: np.ndarray, precision: float) -> tuple[list[bool], list[bool]]:
    """Return for each row whether a precision is kept plainly, and within chance."""
    rows = [(int(h), int(f)) for h, f in zip(hits, found, strict=True) if f]
    plainly = [h / f >= precision for h, f in rows]
    within = [binomial_tail(f - h, f, 1 - precision) > 0.05 for h, f in rows]
    return plainly, within


def counted(
    made: Calibration, scores: np.ndarray, states: np.ndarray, precision: float
) -> dict[str, list[Any]]:
    """Return what thresholds did on the other half."""
    limits = np.array(made.thresholds)
    tags = (scores.astype(np.float64) >= limits) & (limits < NEVER)
    right = tags & (states == POSITIVE)
    kinds = np.array([values.get("promise", "none") for values in made.evidence.values()])
    alone = kinds != "together"
    label_plainly, label_within = kept(right.sum(axis=0)[alone], tags.sum(axis=0)[alone], precision)
    group = [np.array([part[:, ~alone].sum()]) for part in (right, tags)]
    group_plainly, group_within = kept(*group, precision)
    return {
        "labels_plainly": label_plainly,
        "labels_within_chance": label_within,
        "group_plainly": group_plainly,
        "group_within_chance": group_within,
        "promises_plainly": label_plainly + group_plainly,
        "promises_within_chance": label_within + group_within,
        "labels_with_tags": [int(tags.any(axis=0).sum())],
        "right": [right.sum() / tags.sum()] if tags.any() else [],
        "recall": [right.sum() / (states == POSITIVE).sum()],
    }


def measured(
    scores: np.ndarray,
    states: np.ndarray,
    labels: tuple[str, ...],
    seed: int,
    share: float,
    precision: float,
) -> dict[str, dict[str, float | None]]:
    """Return the means over several halves of one seed, for both ways of choosing."""
    generator = np.random.default_rng(seed)
    found: dict[str, dict[str, list[Any]]] = {"calibrate": {}, "guarantee": {}}
    for half in range(HALVES):
        order = generator.permutation(len(scores))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        known = hide_labels(states[first], share, HALVES * seed + half)
        goal = Goal(kind="precision", target=precision)
        ways = {
            "calibrate": calibrate(scores[first], known, labels, goal),
            "guarantee": guarantee(scores[first], known, labels, precision),
        }
        for way, made in ways.items():
            for name, values in counted(made, scores[second], states[second], precision).items():
                found[way].setdefault(name, []).extend(values)
    return {
        way: {name: float(np.mean(values)) if values else None for name, values in parts.items()}
        for way, parts in found.items()
    }


def table(content: dict[str, Any]) -> str:
    """Return promises kept plainly and recall, in per cent, mean and deviation over the seeds."""
    lines = [
        "| wanted precision, labels known | kept plainly, `--goal precision` | `--guarantee` "
        "| recall, `--goal precision` | `--guarantee` |\n|:--|--:|--:|--:|--:|\n"
    ]
    for precision in PRECISIONS:
        for share in SHARES:
            cells = []
            for name in ("promises_plainly", "recall"):
                for way in ("calibrate", "guarantee"):
                    values = [
                        100 * row[name]
                        for row in content["rows"]
                        if (row["precision"], row["known"], row["way"]) == (precision, share, way)
                    ]
                    cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")
            known = "all" if share == 1 else f"{100 * share:.0f} %"
            lines.append(f"| {100 * precision:.0f} %, {known} | {' | '.join(cells)} |\n")
    return "".join(lines)


def main() -> None:
    """Score the validation photos once, and measure all settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the COCO-18 subset")
    parser.add_argument("--model", default="coco18-tiny")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = trmml.read_dataset(
        arguments.data / "labels.csv",
        images=arguments.data / "images",
        split="val",
        unlabeled="negative",
    )
    evaluation = evaluate(trmml.load_model(arguments.model), dataset, progress=True)
    states = dataset.states[list(evaluation.readable)]
    rows = []
    for precision in PRECISIONS:
        for share in SHARES:
            for seed in SEEDS:
                ways = measured(
                    evaluation.scores, states, evaluation.labels, seed, share, precision
                )
                rows += [
                    {"precision": precision, "known": share, "seed": seed, "way": way, **values}
                    for way, values in ways.items()
                ]
    facts = {
        "model": arguments.model,
        "photos": len(states),
        "halves": HALVES,
        "seeds": list(SEEDS),
    }
    text = json.dumps(facts | provenance() | {"rows": rows}, indent=1)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(table(json.loads(text)))


if __name__ == "__main__":
    main()
