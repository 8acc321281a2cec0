"""Measure a small CLIP: class prior, zero-shot, linear probes, and finding what a caption names.

    python examples/small_clip/measure.py trmml/weights/small-clip --data coco18 --split val

Writes JSON with seed and commit. The probes are logistic regressions on the pooled image features,
learned from the training labels, all of them and a tenth of them; their strength of regularization
is chosen on val, whatever the split that is measured.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from data import imagenet_classes, nouns, read_captions, words_of
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.metrics import average_precisions
from trmml.labels import UNKNOWN
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.zoo.loading import zero_shot_model

SEED = 0
KNOWN = (1.0, 0.1)
"""Shares of the training labels that the probes learn from."""
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The inverse of the penalty; wide enough that neither end is best."""
NUM_NOUNS, NUM_NAMED, NUM_FIRST = 500, 200, 10


def summary(scores: Float[np.ndarray, "photo label"], data: MultiLabelDataset) -> dict[str, float]:
    """Return mAP of all labels, and of all but person."""
    each = average_precisions(scores.astype(np.float32), data.states)
    others = [ap for ap, name in zip(each, data.labels, strict=True) if name != "person"]
    return {"mAP": float(np.mean(each)), "mAP_without_person": float(np.mean(others))}


def image_features(clip: FrozenCLIP, data: MultiLabelDataset) -> Float[np.ndarray, "photo dim"]:
    """Return the pooled image features, from the cache where they are there."""
    store = compute_features(data.photos, clip, progress=True)
    batches = CachedFeatures(store, np.arange(len(data))).in_order(256)
    return np.concatenate([batch.image_features.numpy() for batch in batches])


def probe(
    train: Float[np.ndarray, "photo dim"],
    train_labels: np.ndarray,
    others: list[Float[np.ndarray, "other dim"]],
    c: float,
) -> list[np.ndarray]:
    """Fit one regression per label to the photos that it is known of, and score other photos.

    A label of which only one state is known scores all photos alike.
    """
    # In float32 the solver meets ill-conditioned matrices where the penalty is small.
    scaler = StandardScaler().fit(train.astype(np.float64))
    scaled = [scaler.transform(features.astype(np.float64)) for features in (train, *others)]
    scores = [np.zeros((len(features), train_labels.shape[1])) for features in others]
    for label, states in enumerate(train_labels.T):
        known = states != UNKNOWN
        if len(np.unique(states[known])) < 2:
            continue
        model = LogisticRegression(C=c, solver="newton-cholesky").fit(
            scaled[0][known], states[known]
        )
        for column, features in zip(scores, scaled[1:], strict=True):
            column[:, label] = model.decision_function(features)
    return scores


def probes(
    clip: FrozenCLIP, train: MultiLabelDataset, val: MultiLabelDataset, data: MultiLabelDataset
) -> dict[str, Any]:
    """Measure a probe for each share of known labels."""
    features = [image_features(clip, part) for part in (train, val, data)]
    facts = {}
    for share in KNOWN:
        known = train if share == 1 else train.hide_labels(share, SEED)
        tried = {c: probe(features[0], known.states, features[1:], c) for c in STRENGTHS}
        best = max(STRENGTHS, key=lambda c: summary(tried[c][0], val)["mAP"])
        values = {"C": best, "val": summary(tried[best][0], val)} | summary(tried[best][1], data)
        facts[f"linear_probe_{100 * share:g}_percent"] = values
    return facts


def naming(clip: FrozenCLIP, folder: Path) -> dict[str, Any]:
    """Say how often something that a photo's caption names is among the first zero-shot names.

    The names are the first one of each of ImageNet's classes and the commonest nouns of the training
    captions. A name counts where one of its words is a noun of the caption. The photos are the first
    of val of which a noun is among the names.
    """
    known = nouns(read_captions(folder, {"train"}).captions, NUM_NOUNS)
    names = list(dict.fromkeys([*known, *(one.lemmas[0] for one in imagenet_classes())]))
    val, candidates = read_captions(folder, {"val"}), set(known)
    wanted = [words_of(caption) & candidates for caption in val.captions]
    chosen = [i for i, words in enumerate(wanted) if words][:NUM_NAMED]
    model = zero_shot_model(clip, names)
    found = []
    for i, prediction in zip(
        chosen, model.predict_many([val.paths[i] for i in chosen]), strict=True
    ):
        first = [names[j] for j in np.argsort(-prediction.scores)[:NUM_FIRST]]
        hit = any(words_of(name) & wanted[i] for name in first)
        found.append({"caption": val.captions[i], "first": first, "found": hit})
    share = float(np.mean([one["found"] for one in found]))
    missed = [one for one in found if not one["found"]]
    return {"names": len(names), "photos": len(found), "share_found": share, "missed": missed[:20]}


def commit() -> str:
    """Return the commit of the code, marked if it has changes."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clip", type=Path, help="folder in open_clip's form")
    parser.add_argument("--data", type=Path, required=True, help="folder with both tables")
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
    facts: dict[str, Any] = {
        "clip": args.clip.name,
        "sha256": clip.config.sha256,
        "image_size": clip.photo.image_size,
        "split": args.split,
        "images": len(data),
        "seed": SEED,
        "commit": commit(),
        "class_prior": summary(prior, data),
    }
    zero_shot = zero_shot_model(clip, train.labels)
    predictions = zero_shot.predict_many(data.photos)
    facts["zero_shot"] = summary(np.stack([p.scores for p in predictions]), data)
    facts["naming_val"] = naming(clip, args.data)
    facts |= probes(clip, train, val, data)
    text = json.dumps(facts, indent=2)
    print(text)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
