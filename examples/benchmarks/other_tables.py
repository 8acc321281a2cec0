"""Is it ever worse than something simple? Small tables of other kinds, against what a sceptic would try.

    python examples/benchmarks/other_tables.py --data coco18 --output runs/other_tables
    python examples/benchmarks/other_tables.py --data coco18 --output runs/other_tables --report

Labels are the 18 of COCO-18, or one or two of them; words of the captions: colours, clothes, doings,
places; the same with made-up names, of which text can say nothing; and things with 3 to 11 captions
each. Training photos are drawn from the training photos; all are measured on the 2,500 validation
photos, as the test photos have no captions. `small_tables.py` says what is done with each table.
"""

import csv
import re
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from small_tables import Drawn, Features, arguments, measure, report

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.data.splits import split_dataset
from trmml.labels import NEGATIVE, POSITIVE

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
ENOUGH = 10
"""Positives of the labels of a table with one or two."""
MOST_DRAWS = 1000


class Kind(NamedTuple):
    """A kind of table: whose labels, how many photos, how many of its cells are known.

    Attributes:
        num_labels: So many are drawn, of those with enough positives among the photos; None for all.
    """

    labels: str
    photos: int
    known: float
    num_labels: int | None = None


TABLES = {
    "COCO-18, 100 photos": Kind("objects", 100, 1.0),
    "COCO-18, 300 photos": Kind("objects", 300, 1.0),
    "COCO-18, 1,000 photos": Kind("objects", 1000, 1.0),
    "COCO-18, 1 label, 1,000 photos": Kind("objects", 1000, 1.0, num_labels=1),
    "COCO-18, 2 labels, 1,000 photos": Kind("objects", 1000, 1.0, num_labels=2),
    "words, 40 % known": Kind("words", 1600, 0.4),
    "words, 10 % known": Kind("words", 1600, 0.1),
    "made-up names, 40 % known": Kind("made-up", 1600, 0.4),
    "long tail": Kind("rare", 1600, 1.0),
}


class Tables:
    """Photos with the labels of every kind."""

    def __init__(self, data: Path) -> None:
        """Read both tables."""
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

    def drawn(self, kind: Kind, seed: int) -> Drawn:
        """Draw photos to learn from; every label has a known positive there."""
        everything = self.data[kind.labels]
        generator = np.random.default_rng(seed)
        for _ in range(MOST_DRAWS):
            rows = np.sort(generator.choice(len(everything["train"]), kind.photos, replace=False))
            few = everything["train"].subset(rows)
            if kind.labels == "rare":
                few = _only_rare(few)
            if kind.num_labels is not None:
                enough = (few.states == POSITIVE).sum(axis=0) >= ENOUGH
                names = np.array(few.labels)[enough]
                few = few.with_labels(
                    sorted(generator.choice(names, kind.num_labels, replace=False))
                )
            few = few.hide_labels(kind.known, seed)
            train, chooser = split_dataset(few, 0.1, seed)
            if (train.states == POSITIVE).any(axis=0).all():
                return Drawn(train, chooser, everything["val"].with_labels(list(train.labels)))
        raise SystemExit(f"{MOST_DRAWS} draws of {kind} left a label without a known positive.")


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


def main() -> None:
    """Run what is missing, or report."""
    args = arguments(__doc__, TABLES)
    if not args.report:
        tables = Tables(args.data)
        features = Features(
            args.backbone, [part.photos for part in tables.data["objects"].values()]
        )
        for name, seed in product(args.tables, args.seeds):
            measure(args, features, name, seed, partial(tables.drawn, TABLES[name], seed))
    report(args.output / "other_tables.json", TABLES, args.methods)


if __name__ == "__main__":
    main()
