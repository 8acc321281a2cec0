"""Draw the curves of a training run: losses, and zero-shot mAP of the labels on val.

python examples/small_clip/plot.py runs/clip/log.jsonl curves.png
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LOSSES = {
    "contrast": "contrast with captions",
    "words": "words of captions",
    "names": "the classifier's answers",
    "rows": "ideal photos of classes",
}


def main(log: str, picture: str) -> None:
    """Read a log and write one PNG."""
    lines = [json.loads(line) for line in Path(log).read_text(encoding="utf-8").splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for key, name in LOSSES.items():
        points = [(line["steps"], line[key]) for line in lines if key in line]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    left.set(xlabel="step", ylabel="loss", title="Losses")
    left.legend()
    steps = [line["steps"] for line in lines]
    scores = [100 * line["val_zero_shot_map"] for line in lines]
    right.plot(steps, scores, marker="o", markersize=3, color="tab:green")
    right.set(xlabel="step", ylabel="mAP", title="Zero-shot on val", ylim=(0, None))
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:3])
