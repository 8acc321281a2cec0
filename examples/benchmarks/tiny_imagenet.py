"""Is it ever worse than something simple on photos of another kind than those of the other tables?

    python examples/benchmarks/tiny_imagenet.py --data tiny-imagenet --output runs/tiny_imagenet \
        --methods zero-shot probe "probe with patches" MLP trmml

Classes of Tiny-ImageNet-200, 64 × 64 photos of one thing each; every seed draws other classes and other
photos. The tower of `small-clip` has learned from ImageNet, so that its
features tell these classes well, while its text has seen captions of COCO alone. The folder has a
`labels.csv` (`image,wnid,name`). `small_tables.py` says what is done with each table.
"""

import csv
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from small_tables import Drawn, Features, arguments, measure, report

from trmml.data.dataset import MultiLabelDataset
from trmml.data.splits import split_dataset
from trmml.labels import NEGATIVE, POSITIVE

NUM_CLASSES, NUM_TRAIN, NUM_MEASURED = 50, 1600, 2500
MOST_DRAWS = 1000


class Kind(NamedTuple):
    """A kind of table: whether names tell what the classes are, how many of its cells are known."""

    named: bool
    known: float


TABLES = {
    "classes, 40 % known": Kind(True, 0.4),
    "classes, 20 % known": Kind(True, 0.2),
    "classes with made-up names, 40 % known": Kind(False, 0.4),
}


def draw_photos(data: Path, seed: int) -> MultiLabelDataset:
    """Draw classes and photos of them, with all of their labels."""
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ids: dict[str, set[str]] = {}
    for row in rows:
        ids.setdefault(row["name"], set()).add(row["wnid"])
    generator = np.random.default_rng(seed)
    clear = sorted(name for name, of_name in ids.items() if len(of_name) == 1)
    names = generator.permutation(clear)[:NUM_CLASSES].tolist()
    kept = [row for row in rows if row["name"] in names]
    chosen = [kept[i] for i in generator.permutation(len(kept))[: NUM_TRAIN + NUM_MEASURED]]
    states = np.array([[row["name"] == name for name in names] for row in chosen])
    return MultiLabelDataset(
        tuple(data / row["image"] for row in chosen),
        np.where(states, POSITIVE, NEGATIVE).astype(np.int8),
        tuple(names),
    )


def drawn(photos: MultiLabelDataset, kind: Kind, seed: int) -> Drawn:
    """Hide labels of the photos to learn from; every label has a known positive there."""
    if not kind.named:
        names = tuple(f"label {i}" for i in range(len(photos.labels)))
        photos = MultiLabelDataset(photos.photos, photos.states, names)
    rows = np.arange(len(photos))
    for draw in range(MOST_DRAWS):
        few = photos.subset(rows[:NUM_TRAIN]).hide_labels(kind.known, MOST_DRAWS * seed + draw)
        train, chooser = split_dataset(few, 0.1, seed)
        if (train.states == POSITIVE).any(axis=0).all():
            return Drawn(train, chooser, photos.subset(rows[NUM_TRAIN:]))
    raise SystemExit(f"{MOST_DRAWS} draws of {kind} left a label without a known positive.")


def main() -> None:
    """Run what is missing, or report."""
    args = arguments(__doc__, TABLES)
    for seed in () if args.report else args.seeds:
        photos = draw_photos(args.data, seed)
        features = Features(args.backbone, [photos.photos])
        for name in args.tables:
            measure(args, features, name, seed, partial(drawn, photos, TABLES[name], seed))
    report(args.output / "tiny_imagenet.json", TABLES, args.methods)


if __name__ == "__main__":
    main()
