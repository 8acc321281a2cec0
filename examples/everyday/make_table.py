"""Make the table that everyday-tiny learns from: what a caption names is there, all else is unknown.

    python examples/everyday/make_table.py coco18 coco18/everyday.jsonl
    python examples/everyday/train.py coco18/everyday.jsonl runs/everyday-tiny

Captions name few of the things in a photo, so a word that is not there says nothing: the setting of
missing labels as it is met outside of benchmarks, with positives alone. Which words make which label
stands in `labels.toml`. What `labels.csv` annotates of some photos is known in both directions; where
a caption names what the annotation denies, the label is unknown.
"""

import csv
import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

FEWEST_CAPTIONS = 60
"""A label with fewer cannot be learned."""
SPLITS = {"train": "train", "unlabeled": "train", "val": "val"}
"""The splits of the captions, and what they are here; photos without labels have captions, too."""


def read_labels(path: Path) -> dict[str, re.Pattern[str]]:
    """Return a pattern for each label that finds its words in a caption, whole words alone."""
    words: Mapping[str, Sequence[str]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        label: re.compile(rf"(?<![a-z])(?:{'|'.join(map(re.escape, forms))})(?![a-z])")
        for label, forms in words.items()
    }


def positives_of(caption: str, labels: Mapping[str, re.Pattern[str]]) -> list[str]:
    """Return the labels that a caption names; case, hyphens and other marks do not matter."""
    text = " ".join(re.findall("[a-z]+", caption.lower()))
    return [label for label, words in labels.items() if words.search(text)]


def read_annotations(path: Path) -> tuple[set[str], dict[str, set[str]]]:
    """Return the annotated labels, and those that are in each annotated photo."""
    with path.open(newline="", encoding="utf-8") as file:
        of_photo = {
            row["image"]: set(filter(None, row["labels"].split("|")))
            for row in csv.DictReader(file)
            if row["split"] in SPLITS and row["split"] != "unlabeled"
        }
    return set().union(*of_photo.values()), of_photo


def main(folder: str, output: str) -> None:
    """Write a line of JSON for every photo with a caption."""
    labels = read_labels(Path(__file__).with_name("labels.toml"))
    with (Path(folder) / "captions.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in SPLITS]
    rows.sort(
        key=lambda row: tuple(SPLITS).index(row["split"])
    )  # features are cached in this order
    annotated, of_photo = read_annotations(Path(folder) / "labels.csv")
    annotated &= labels.keys()
    counts = dict.fromkeys(labels, 0)
    lines = []
    for row in rows:
        split, named = SPLITS[row["split"]], set(positives_of(row["caption"], labels))
        there = of_photo.get(row["image"])
        absent = set() if there is None else annotated - there
        positive = [label for label in labels if label in (named | (there or set())) - absent]
        negative = [label for label in labels if label in absent - named]
        for label in positive if split == "train" else ():
            counts[label] += 1
        lines.append(
            json.dumps(
                {"image": row["image"], "split": split, "positive": positive, "negative": negative}
            )
        )
    few = [f"{label} {count}" for label, count in counts.items() if count < FEWEST_CAPTIONS]
    if few:
        raise SystemExit(f"Labels with fewer than {FEWEST_CAPTIONS} captions: {', '.join(few)}.")
    Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{output}: {len(lines)} photos, {len(labels)} labels, {sum(counts.values())} positives")


if __name__ == "__main__":
    main(*sys.argv[1:3])
