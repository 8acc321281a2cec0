"""What is thought of every cell of a table: two estimates, joined and calibrated on known labels."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int8

from trmml.config.groups import PseudoLabelConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import POSITIVE, UNKNOWN
from trmml.matcher.matching import HIGHEST_SCORE
from trmml.matcher.model import TextRegionMatcher
from trmml.reports.progress import followed
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.training.pseudo_labels import presence_probability

BATCH_SIZE = 256
FEWEST_KNOWN = 10
"""Known positives, and known negatives, that a calibration needs."""
_LIMIT = 12.0
"""Largest log-odds that a single source may state; nothing is certain."""


class Estimates(NamedTuple):
    """What is thought of every cell, known ones included; probabilities in [0, 1].

    Attributes:
        model: The model's score.
        prototypes: The estimate of the visual and text prototypes.
        probability: Both together, calibrated on known labels.
    """

    model: Float32[np.ndarray, "image label"]
    prototypes: Float32[np.ndarray, "image label"]
    probability: Float32[np.ndarray, "image label"]


class Sources(NamedTuple):
    """Two estimates of every cell, each in [0, 1]: the model's and the prototypes'."""

    model: Float32[np.ndarray, "image label"]
    prototypes: Float32[np.ndarray, "image label"]


def calibrated(
    sources: Sources, reference: MultiLabelDataset
) -> tuple[Float[np.ndarray, " weight"], Float[np.ndarray, " label"], Float[np.ndarray, " label"]]:
    """Fit weights of the sources, an offset per label and the offset's standard deviation.

    Raises:
        DataError: If too few labels are known.
    """
    known = reference.states != UNKNOWN
    positive = reference.states[known] == POSITIVE
    if min(positive.sum(), (~positive).sum()) < FEWEST_KNOWN:
        raise DataError(
            f"{reference.source} has {int(positive.sum())} known positives and "
            f"{int((~positive).sum())} known negatives; at least {FEWEST_KNOWN} of each are needed "
            "to calibrate."
        )
    log_odds = log_odds_of(*sources)
    weights = _fit(log_odds[known], positive)
    return weights, *_offsets(joined(log_odds, weights), reference.states)


def scores_of(model: TextRegionMatcher, dataset: MultiLabelDataset, progress: bool) -> Sources:
    """Return the model's scores and the prototypes' estimates, from cached features."""
    columns = [model.labels.index(name) for name in dataset.labels]
    store = compute_features(dataset.photos, model.backbone, progress=progress)
    batches = CachedFeatures(store, np.arange(len(dataset))).in_order(BATCH_SIZE)
    # Every modality counts, whatever the model was trained with.
    config, text = PseudoLabelConfig(), model.stored_text()
    scores, estimates = [], []
    total = -(-len(dataset) // BATCH_SIZE)
    with torch.inference_mode():
        for batch in followed(batches, "estimates", total, "step", show=progress):
            features = type(batch)(*(part.to(model.device) for part in batch))
            output = model.match(features, text)
            probability = presence_probability(
                output.region_features,
                model.present.prototypes,
                None if model.absent is None else model.absent.prototypes,
                model.logit_scale,
                model.logit_bias,
                config,
            )
            scores.append(output.scores.cpu().numpy())
            estimates.append(probability.float().cpu().numpy())
    return Sources(np.concatenate(scores)[:, columns], np.concatenate(estimates)[:, columns])


def log_odds_of(*sources: Float[np.ndarray, "image label"]) -> Float[np.ndarray, "..."]:
    """Return the log-odds of each source, one after the other along a last axis."""
    with np.errstate(divide="ignore"):  # a score of 0 or 1 comes to the limit below
        odds = [np.log(p.astype(np.float64)) - np.log1p(-p.astype(np.float64)) for p in sources]
    return np.stack(odds, axis=-1).clip(-_LIMIT, _LIMIT)


def _fit(
    log_odds: Float[np.ndarray, "known source"], positive: Bool[np.ndarray, " known"]
) -> Float[np.ndarray, " weight"]:
    """Fit a logistic regression on the sources' log-odds by Newton's method, with a slight ridge."""
    inputs = np.column_stack([log_odds, np.ones(len(log_odds))])
    weights = np.zeros(inputs.shape[1])
    # The ridge keeps the weights finite where the sources tell positives and negatives apart.
    for _ in range(30):
        p = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (p - positive) + 1e-3 * weights
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-3 * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights


def joined(
    log_odds: Float[np.ndarray, "image label source"], weights: Float[np.ndarray, " weight"]
) -> Float[np.ndarray, "image label"]:
    """Return the log-odds of the sources together."""
    return log_odds @ weights[:-1] + weights[-1]


def probability_of(
    log_odds: Float[np.ndarray, "image label"],
) -> Float32[np.ndarray, "image label"]:
    """Return probabilities, in [0, 1)."""
    return np.minimum(1 / (1 + np.exp(-log_odds)), HIGHEST_SCORE).astype(np.float32)


def _offsets(
    log_odds: Float[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]
) -> tuple[Float[np.ndarray, " label"], Float[np.ndarray, " label"]]:
    """Fit a correction of the log-odds per label, drawn to none where it is seldom known.

    The most probable ones under a normal prior of unit variance, and the standard deviations around
    them (Laplace's approximation). The slope of the posterior falls, so its root is found by halving:
    Newton's steps overshoot where all of a label is scored wrong.
    """
    known, positive = states != UNKNOWN, states == POSITIVE
    low, high = (np.full(states.shape[1], end) for end in (-2 * _LIMIT, 2 * _LIMIT))
    for _ in range(50):  # until the halves are below rounding
        middle = (low + high) / 2
        p = 1 / (1 + np.exp(-(log_odds + middle)))
        too_low = ((positive - p) * known).sum(axis=0) > middle
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    p = 1 / (1 + np.exp(-(log_odds + low)))
    return low, 1 / np.sqrt((p * (1 - p) * known).sum(axis=0) + 1)
