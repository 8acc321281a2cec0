"""Which questions teach most? Answers are simulated, from a folder of photos without any label.

    python examples/benchmarks/questions.py --data coco18 --output runs/questions.json --learner probe
    python examples/benchmarks/questions.py --data coco18 --output runs/questions.json

As the page of `trmml label` does it: a thousand photos of which nothing is known, what zero-shot
matching thinks of them, ten questions at a time of which one is drawn at random from the fifth of the
photos that validates, probabilities calibrated anew after each ten, and *Learn* after each round. The
answers are the true labels of training photos; what counts is the mAP on the validation photos of the
data, which nobody is asked about. Test photos are not read.

With `--learner probe` a logistic regression beside the zero-shot logit stands in for the training, so
that many orders can be compared in minutes. Every run is written as it ends, and what is there is not
run again. `questions_report.py` makes table and plot.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance

import trmml
from trmml.app.estimating import calibrated_probability
from trmml.app.learning import learn, validation_photos
from trmml.app.ranking import most_urgent, urgency
from trmml.app.sampling import SHARE, sampling_order
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import relative_name
from trmml.errors import DataError
from trmml.evaluation.metrics import mean_average_precision
from trmml.files import write_json
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.probe import summary
from trmml.tasks.estimates import Sources, log_odds_of, probability_of, scores_of
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.zoo.loading import zero_shot_model

ROUNDS = (200, 400, 800, 1600, 3200)
"""Answers after which is learned and measured."""
AT_A_TIME = 10
PENALTY = 300.0
"""Of the probe's squared weights, in the middle of those where learning gains anything."""

Order = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _uncertainty(p: np.ndarray) -> np.ndarray:
    return 4 * p * (1 - p)


def _count(states: np.ndarray, state: int) -> np.ndarray:
    return (states == state).sum(axis=0) + 1.0


def _positives_then(values: Order, enough: int) -> Order:
    """Ask the most probable of a label until it has enough positives, then something else."""

    def order(p: np.ndarray, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
        missing = enough + 1 - _count(states, POSITIVE)
        return np.where(missing > 0, 2 + missing + p, values(p, states, chance))

    return order


def _expected_share(p: np.ndarray, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """How much one more positive or negative adds to those that are known, as each is expected."""
    return p / _count(states, POSITIVE) + (1 - p) / _count(states, NEGATIVE)


def _entropy_by_state(p: np.ndarray, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
    p = p.clip(1e-6, 1 - 1e-6)
    positive, negative = -p * np.log(p), -(1 - p) * np.log(1 - p)
    return positive / _count(states, POSITIVE) + negative / _count(states, NEGATIVE)


def _fewest_positives(p: np.ndarray, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return p - 0.1 * _count(states, POSITIVE)


def _near_the_threshold(p: np.ndarray, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """By rank: nearest to as many photos as are expected to show the label."""
    place = (-p).argsort(axis=0).argsort(axis=0) + 1
    expected = np.maximum(p.sum(axis=0), 5)
    return -np.abs(np.log(place / expected)) * np.sqrt(_count(states, POSITIVE))


def _scarce(p: np.ndarray, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
    scarcity = 1 / _count(states, POSITIVE) + 1 / _count(states, NEGATIVE)
    return _uncertainty(p) * scarcity


def _before(p: np.ndarray, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return _uncertainty(p) / np.sqrt(_count(states, POSITIVE))


RANDOM, DEFAULT, BEFORE = "at random", "what teaches most", "the default before"
ORDERS: dict[str, Order] = {
    RANDOM: lambda p, states, chance: chance,
    DEFAULT: lambda p, states, chance: urgency("teach", p, states, chance),
    BEFORE: _before,
    "likely yes first": lambda p, states, chance: p,
    "uncertainty": lambda p, states, chance: _uncertainty(p),
    "near the threshold, by rank": _near_the_threshold,
    "uncertainty × scarcity": _scarce,
    "entropy × scarcity": _entropy_by_state,
    "expected share": _expected_share,
    "likely yes × scarcity": lambda p, states, chance: p / _count(states, POSITIVE),
    "fewest positives, likely yes": _fewest_positives,
    "3 positives, then uncertainty × scarcity": _positives_then(_scarce, 3),
    "5 positives, then the default before": _positives_then(_before, 5),
    "5 positives, then uncertainty × scarcity": _positives_then(_scarce, 5),
    "5 positives, then expected share": _positives_then(_expected_share, 5),
    "10 positives, then uncertainty × scarcity": _positives_then(_scarce, 10),
}
WITH_THE_PAGE = (DEFAULT, RANDOM, BEFORE, "likely yes first")


class Estimates(NamedTuple):
    """What a learner thinks of the photos that are asked about, and of those that measure it."""

    pool: Sources
    val: np.ndarray


class Photos:
    """Photos to ask about, photos to measure on, and what zero-shot matching thinks of both."""

    def __init__(self, data: Path, backbone: str, count: int, seed: int) -> None:
        """Draw photos to ask about, and compute features."""

        def read(split: str) -> MultiLabelDataset:
            return trmml.read_dataset(
                data / "labels.csv", images=data, unlabeled="negative", split=split
            )

        train = read("train")
        chosen = np.random.default_rng(seed).choice(len(train), count, replace=False)
        self.truth, self.val = train.subset(np.sort(chosen)), read("val").aligned_to(train.labels)
        names = [relative_name(photo, data) for photo in self.truth.photos]
        self.validates = validation_photos(names)
        labels, all_of_them = train.labels, np.ones(self.truth.states.shape, dtype=bool)
        self.to_sample = sampling_order(names, labels, all_of_them & self.validates[:, None])
        self.clip = FrozenCLIP.load(backbone)
        self.zero_shot = zero_shot_model(self.clip, train.labels)
        self.store = compute_features(self.truth.photos, self.clip, progress=True)
        self.val_store = compute_features(self.val.photos, self.clip, progress=True)
        self.start = Estimates(
            scores_of(self.zero_shot, self.truth, False),
            scores_of(self.zero_shot, self.val, False).model,
        )

    def known(self, states: np.ndarray) -> MultiLabelDataset:
        """Return the photos that are asked about with what is known of them."""
        return replace(self.truth, states=states)


class Page:
    """Learns as the page does."""

    def __init__(self, photos: Photos, settings: dict[str, Any]) -> None:
        """Prepare."""
        self.photos, self.settings = photos, settings

    def __call__(self, states: np.ndarray, before: Estimates) -> Estimates:
        """Return what is thought after learning; of labels that could not be learned, as before."""
        photos, labels = self.photos, self.photos.truth.labels
        nothing = np.zeros(states.shape, dtype=bool)
        model = learn(
            photos.zero_shot, photos.known(states), photos.validates, photos.store,
            before.pool.model, nothing, settings=self.settings,
        ).model  # fmt: skip
        columns = [labels.index(label) for label in model.labels]
        after = Estimates(Sources(*(x.copy() for x in before.pool)), before.val.copy())
        found = scores_of(model, photos.truth.with_labels(model.labels), False)
        for source, values in zip(after.pool, found, strict=True):
            source[:, columns] = values
        val = scores_of(model, photos.val.with_labels(model.labels), False)
        after.val[:, columns] = val.model
        return after


class Probe:
    """A logistic regression of the frozen features, beside the zero-shot logit of each label."""

    def __init__(self, photos: Photos, settings: dict[str, Any]) -> None:
        """Standardize features and zero-shot logits by the photos that are asked about."""
        self.photos = photos
        pool, val = (
            self._summaries(store, part)
            for store, part in ((photos.store, photos.truth), (photos.val_store, photos.val))
        )
        mean, scale = pool.mean(dim=0), (pool.std(dim=0) + 1e-6) * 3**0.5  # three summaries
        self.pool, self.val = (pool - mean) / scale, (val - mean) / scale
        odds = [
            torch.from_numpy(log_odds_of(scores)[..., 0]).float()
            for scores in (photos.start.pool.model, photos.start.val)
        ]
        mean, scale = odds[0].mean(dim=0), odds[0].std(dim=0)
        self.pool_odds, self.val_odds = ((each - mean) / scale for each in odds)

    def _summaries(self, store: Any, part: MultiLabelDataset) -> torch.Tensor:
        batches = CachedFeatures(store, np.arange(len(part))).in_order(256)
        model = self.photos.zero_shot
        return torch.cat([summary(model.centered(batch)) for batch in batches])

    def __call__(self, states: np.ndarray, before: Estimates) -> Estimates:
        """Return what is thought after learning; of labels without a positive, as before."""
        known = (
            torch.from_numpy(states != UNKNOWN) & ~torch.from_numpy(self.photos.validates)[:, None]
        )
        is_positive = torch.from_numpy(states == POSITIVE) & known
        without_negative = (known & ~is_positive).sum(dim=0) == 0
        weights = torch.where(without_negative & ~known, 0.1, known.float())
        weight = torch.zeros(self.pool.shape[1], states.shape[1], requires_grad=True)
        factor, bias = (torch.full((states.shape[1],), x, requires_grad=True) for x in (1.0, 0.0))
        solver = torch.optim.LBFGS(
            [weight, factor, bias], max_iter=40, line_search_fn="strong_wolfe"
        )

        def cost() -> float:
            solver.zero_grad()
            logits = self.pool @ weight + factor * self.pool_odds + bias
            total = F.binary_cross_entropy_with_logits(
                logits, is_positive.float(), weights, reduction="sum"
            )
            total = total + PENALTY / 2 * weight.square().sum() + 2 * (factor - 1).square().sum()
            total = (total + (bias + 1).square().sum() / 2) / len(self.pool)
            total.backward()
            return total.item()

        solver.step(cost)
        learned = is_positive.any(dim=0).numpy()
        pool, val = (
            probability_of((x @ weight + factor * odds + bias).detach().numpy())
            for x, odds in ((self.pool, self.pool_odds), (self.val, self.val_odds))
        )
        start = self.photos.start.pool
        return Estimates(
            Sources(np.where(learned, pool, before.pool.model), start.prototypes),
            np.where(learned, val, before.val),
        )


LEARNERS = {"page": Page, "probe": Probe}


def simulate(
    photos: Photos, learner: Page | Probe, order: Order, seed: int, rounds: tuple[int, ...]
) -> dict[str, Any]:
    """Ask, answer and learn; return answers, positives among them and mAP after each round."""
    started = time.perf_counter()
    truth = photos.truth.states
    states = np.full(truth.shape, UNKNOWN, dtype=np.int8)
    chance = np.random.default_rng(seed).random(truth.shape)
    thought, num_answers = photos.start, 0
    curve = [(0, 0, mean_average_precision(thought.val, photos.val.states))]
    for end in rounds:
        while num_answers < end:
            probability = calibrated_probability(
                thought.pool, photos.known(states), photos.validates
            )
            blank = states == UNKNOWN
            drawn = photos.to_sample[blank.flat[photos.to_sample]][: round(SHARE * AT_A_TIME)]
            values = order(probability, states, chance) + 1e-6 * chance
            values = np.where(photos.validates[:, None], -np.inf, values)
            rows, columns = most_urgent(values, blank, AT_A_TIME - len(drawn))
            states[rows, columns] = truth[rows, columns]
            states.flat[drawn] = truth.flat[drawn]
            if not len(rows) + len(drawn):
                raise SystemExit(f"Nothing is left to ask after {num_answers} answers.")
            num_answers += len(rows) + len(drawn)
        try:
            thought = learner(states, thought)
        except DataError as error:  # too little is known to learn
            print(error, flush=True)
        positives = int((states == POSITIVE).sum())
        curve.append(
            (num_answers, positives, mean_average_precision(thought.val, photos.val.states))
        )
    names = ("answers", "positives", "val_mAP")
    columns = {
        name: list(values) for name, values in zip(names, zip(*curve, strict=True), strict=True)
    }
    return {**columns, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--backbone", default="small-clip")
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON, gone on with if it exists"
    )
    parser.add_argument("--learner", choices=LEARNERS, default="page")
    parser.add_argument("--orders", nargs="*", choices=ORDERS, metavar="ORDER")
    parser.add_argument("--photos", type=int, default=1000, help="to ask about")
    parser.add_argument("--epochs", type=int, default=6, help="of the page's learning")
    parser.add_argument(
        "--rounds", nargs="*", type=int, default=ROUNDS, help="answers at their ends"
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    args = parser.parse_args()
    orders = args.orders or (WITH_THE_PAGE if args.learner == "page" else ORDERS)
    facts = {"backbone": args.backbone, "photos": args.photos, "epochs": args.epochs}
    facts["rounds"] = list(args.rounds)
    content: dict[str, Any] = {"facts": {**facts, **provenance()}, "runs": {}}
    if args.output.is_file():
        content = json.loads(args.output.read_text("utf-8"))
        before = {name: content["facts"].get(name) for name in facts}
        if before != facts:
            raise SystemExit(f"{args.output} was measured with {before}; choose another output.")
    for seed in args.seeds:
        left = [name for name in orders if _key(args.learner, name, seed) not in content["runs"]]
        if not left:
            continue
        photos = Photos(args.data, args.backbone, args.photos, seed)
        learner = LEARNERS[args.learner](photos, {"training.epochs": args.epochs})
        for name in left:
            run = simulate(photos, learner, ORDERS[name], seed, tuple(args.rounds))
            run |= {"learner": args.learner, "order": name, "seed": seed}
            content["runs"][_key(args.learner, name, seed)] = run | {
                "commit": provenance()["commit"]
            }
            write_json(args.output, content)
            shown = " ".join(f"{100 * value:.1f}" for value in run["val_mAP"])
            print(f"{args.learner} | {name} | seed {seed}: {shown}, {run['seconds']} s", flush=True)


def _key(learner: str, order: str, seed: int) -> str:
    return f"{learner} | {order} | seed {seed}"


if __name__ == "__main__":
    main()
