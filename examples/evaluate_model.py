"""Measure a model
===============

On labelled photos; blank cells never count.

python examples/evaluate_model.py labels.csv photos/ [runs/mine]
"""

import sys

import trmml
from trmml.evaluation.measuring import evaluate


def main(table: str, photos: str, source: str = "coco18-tiny") -> None:
    """Print average precision per label and the label that is hardest."""
    model = trmml.load_model(source)
    dataset = trmml.read_dataset(table, images=photos)
    result = evaluate(model, dataset)
    print(result)
    names = result.labels
    scored = {n: ap for n, ap in zip(names, result.average_precision, strict=True) if ap == ap}
    print(f"Hardest: {min(scored, key=scored.__getitem__)}")


if __name__ == "__main__":
    sys.exit(__doc__) if len(sys.argv) < 3 else main(*sys.argv[1:4])
