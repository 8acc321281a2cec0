"""Measure a small CLIP: class prior, zero-shot, and a logistic regression on its image features.

    python examples/small_clip/measure.py trmml/weights/small-clip --data coco18 --split val

Writes JSON with seed and commit. The regression learns from the training labels, all of them; its
strength of regularization is chosen on val, whatever the split that is measured.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.metrics import average_precisions
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.zoo.loading import zero_shot_model

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The inverse of the penalty; wide enough that neither end is best."""


def summary(scores: np.ndarray, data: MultiLabelDataset) -> dict[str, float]:
    """Return mAP of all labels, and of all but person."""
    each = average_precisions(scores.astype(np.float32), data.states)
    others = [ap for ap, name in zip(each, data.labels, strict=True) if name != "person"]
    return {"mAP": float(np.mean(each)), "mAP_without_person": float(np.mean(others))}


def image_features(clip: FrozenCLIP, data: MultiLabelDataset) -> np.ndarray:
    """Return the pooled image features, from the cache where they are there."""
    store = compute_features(data.photos, clip, progress=True)
    batches = CachedFeatures(store, np.arange(len(data))).in_order(256)
    return np.concatenate([batch.image_features.numpy() for batch in batches])


def probe(train: Any, train_labels: np.ndarray, others: list[np.ndarray], c: float) -> list[Any]:
    """Fit one regression per label and score other photos."""
    # In float32 the solver meets ill-conditioned matrices where the penalty is small.
    scaler = StandardScaler().fit(train.astype(np.float64))
    scaled = [scaler.transform(features.astype(np.float64)) for features in (train, *others)]
    models = [
        LogisticRegression(C=c, solver="newton-cholesky").fit(scaled[0], labels)
        for labels in train_labels.T
    ]
    return [np.stack([m.decision_function(x) for m in models], axis=1) for x in scaled[1:]]


def commit() -> str:
    """Return the commit of the code, marked if it has changes."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip", type=Path, help="folder in open_clip's form")
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--split", default="val")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    def read(split: str) -> MultiLabelDataset:
        table = args.data / "labels.csv"
        return trmml.read_dataset(table, images=args.data, unlabeled="negative", split=split)

    train = read("train")
    val, data = (read(s).aligned_to(train.labels) for s in ("val", args.split))
    clip = FrozenCLIP.load(f"local-dir:{args.clip}", image_size=args.image_size)
    prior = np.tile((train.states == 1).mean(axis=0), (len(data), 1))
    facts = {
        "clip": args.clip.name,
        "sha256": clip.config.sha256,
        "image_size": clip.photo.image_size,
        "split": args.split,
        "images": len(data),
        "seed": 0,
        "commit": commit(),
        "class_prior": summary(prior, data),
    }
    zero_shot = zero_shot_model(clip, train.labels)
    predictions = zero_shot.predict_many(data.photos)
    facts["zero_shot"] = summary(np.stack([p.scores for p in predictions]), data)
    features = [image_features(clip, part) for part in (train, val, data)]
    tried = {c: probe(features[0], train.states, features[1:], c) for c in STRENGTHS}
    best = max(STRENGTHS, key=lambda c: summary(tried[c][0], val)["mAP"])
    facts["linear_probe"] = {"C": best, "val": summary(tried[best][0], val)}
    facts["linear_probe"] |= summary(tried[best][1], data)
    text = json.dumps(facts, indent=2)
    print(text)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
