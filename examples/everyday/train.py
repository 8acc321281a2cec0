"""Train everyday-tiny on the table of `make_table.py`, and choose its thresholds for precision.

    python examples/everyday/train.py coco18/everyday.jsonl runs/everyday-tiny

In training a label that the caption does not name is unknown. To choose the epoch and the thresholds,
it counts as absent from the validation photos: wrong for many of them, but equally so for every model
and every threshold. A precision counted in this way is far too low, so PRECISION alone would show tags
that captions like to name whether they are there or not; LEAST_SCORE was chosen by looking at
validation photos (see the README here).
"""

import sys
from dataclasses import replace
from pathlib import Path

import trmml
from trmml.evaluation.calibration import Goal, calibrate
from trmml.evaluation.measuring import evaluate
from trmml.matcher.thresholds import NEVER
from trmml.zoo.folder import replace_calibration

PRECISION = 0.3
"""Wanted share of a label's tags that the photo's one caption names as well."""
LEAST_SCORE = 0.8
"""Of any tag but those of PEOPLE; from here on 86 % of all tags are right."""
PEOPLE = ("man", "woman", "child", "baby")
LEAST_OF_PEOPLE = 0.97
"""Nobody wants to be taken for what they are not, and at LEAST_SCORE too many of these are wrong."""


def main(table: str, output: str) -> None:
    """Train, or go on with a run, and write the model with its thresholds."""
    images = Path(table).parent
    train = trmml.read_dataset(table, images=images, split="train", unlabeled="unknown")
    val = trmml.read_dataset(table, images=images, split="val", unlabeled="negative")
    model = trmml.finetune(
        train,
        val=val.aligned_to(train.labels),
        config=Path(__file__).parents[1] / "recipes" / "everyday-tiny.toml",
        output=output,
        resume=True,
    )
    scores = evaluate(model, val).scores
    made = calibrate(scores, val.states, model.labels, Goal(kind="precision", target=PRECISION))
    # A label that captions hardly ever name would never reach the precision.
    reached = [made.global_threshold if t == NEVER else t for t in made.thresholds]
    thresholds = tuple(
        max(threshold, LEAST_OF_PEOPLE if label in PEOPLE else LEAST_SCORE)
        for label, threshold in zip(model.labels, reached, strict=True)
    )
    method = (
        f"{made.method}, by captions; at least {LEAST_SCORE:g}, of {', '.join(PEOPLE)} "
        f"{LEAST_OF_PEOPLE:g}, chosen by looking at photos"
    )
    replace_calibration(Path(output), replace(made, thresholds=thresholds, method=method))


if __name__ == "__main__":
    main(*sys.argv[1:3])
