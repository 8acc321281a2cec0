"""Completing a label table: estimates for its blanks, likely mistakes, and what to ask next.

The paper's prototypes estimate unknown labels inside training; here the same estimate, together with
the model's own, is given to the owner of the table. How the two are joined, when a blank is decided
and how cells are ranked are our choices.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int8
from tqdm import tqdm

from trmml.config.groups import PseudoLabelConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError, DataError
from trmml.evaluation.measuring import require_known
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.matching import HIGHEST_SCORE
from trmml.matcher.model import TextRegionMatcher, require_loaded
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


class Cell(NamedTuple):
    """A cell that a person should look at.

    Attributes:
        row: Position of the photo.
        column: Position of the label.
        probability: That the label is there.
        rank: Larger is more urgent; of no unit.
    """

    row: int
    column: int
    probability: float
    rank: float


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A table with blanks filled, and what a person should look at.

    Attributes:
        dataset: The table; known cells are as they were, decided blanks are filled.
        estimates: Of every cell.
        decided: Which blanks were filled.
        mistakes: Known cells that the estimates contradict most, the worst first.
        questions: Blanks whose answer would teach most, the best first, one per photo.
        precision: The precision that was wanted.
    """

    dataset: MultiLabelDataset
    estimates: Estimates
    decided: Bool[np.ndarray, "image label"]
    mistakes: list[Cell]
    questions: list[Cell]
    precision: float


def complete(
    model: TextRegionMatcher,
    dataset: MultiLabelDataset,
    *,
    precision: float = 0.9,
    calibrate_on: MultiLabelDataset | None = None,
    progress: bool = False,
) -> Completion:
    """Estimate the unknown labels of a data set and decide those that are clear.

    Model and prototypes are joined into one probability, calibrated on known labels. Of each
    label, as many of the most probable blanks become positive as keep their mean probability,
    which is the precision to be expected, at the wanted one; as many of the least probable ones
    become negative as keep theirs there, and lose at most 1 − precision of the expected positives.
    Both with log-odds a standard deviation less sure than they are, so that a label that is seldom
    known is decided with more care. Known cells never change. The result is for people: training on
    it instead of on the table with its blanks did harm where we measured it: a model repeats its
    mistakes.

    Args:
        model: The model; its labels must include those of the data set.
        dataset: Photos with some unknown labels.
        precision: Wanted share of right ones among the decided positives, and among the negatives.
        calibrate_on: Photos with known labels that the model was not trained on. By default the known
            labels of `dataset` itself, which flatters a model that learned from them.
        progress: Whether to show a bar.

    Raises:
        ConfigError: If the precision is not between 0.5 and 1.
        DataError: If a photo cannot be read, too few labels are known to calibrate, or the model does
            not know a label.
    """
    if not 0.5 <= precision < 1:
        raise ConfigError(f"precision must be at least 0.5 and below 1, got {precision}.")
    require_loaded(model)
    require_known(dataset, model.labels)
    reference = dataset if calibrate_on is None else calibrate_on.aligned_to(dataset.labels)
    there = _scores(model, reference, progress)
    weights, offsets, spreads = _calibrated(there, reference)
    here = there if reference is dataset else _scores(model, dataset, progress)
    odds = _joined(_log_odds(*here), weights) + offsets
    states = _decided(odds, spreads, dataset.states, precision)
    probability = _probability(odds)
    return Completion(
        dataset=replace(
            dataset,
            states=states,
            interpretation=f"{dataset.interpretation} Blanks filled where a precision of "
            f"{precision:g} is expected.",
        ),
        estimates=Estimates(*here, probability),
        decided=states != dataset.states,
        mistakes=_mistakes(probability, dataset.states),
        questions=_questions(probability, dataset.states, states),
        precision=precision,
    )


class _Sources(NamedTuple):
    """Two estimates of every cell, each in [0, 1]."""

    model: Float32[np.ndarray, "image label"]
    prototypes: Float32[np.ndarray, "image label"]


def _calibrated(
    sources: _Sources, reference: MultiLabelDataset
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
    log_odds = _log_odds(*sources)
    weights = _fit(log_odds[known], positive)
    return weights, *_offsets(_joined(log_odds, weights), reference.states)


def _decided(
    log_odds: Float[np.ndarray, "image label"],
    spreads: Float[np.ndarray, " label"],
    states: Int8[np.ndarray, "image label"],
    precision: float,
) -> Int8[np.ndarray, "image label"]:
    """Return the states with the clear blanks filled, judged a standard deviation less sure."""
    blank, filled = states == UNKNOWN, states.copy()
    is_positive = _clear_positives(_probability(log_odds - spreads), blank, precision)
    is_negative = _clear_negatives(_probability(log_odds + spreads), blank, precision)
    filled[is_positive] = POSITIVE
    # At a precision near one half, a blank can pass as both.
    filled[is_negative & ~is_positive] = NEGATIVE
    return filled


def _scores(model: TextRegionMatcher, dataset: MultiLabelDataset, progress: bool) -> _Sources:
    """Return the model's scores and the prototypes' estimates, from cached features."""
    columns = [model.labels.index(name) for name in dataset.labels]
    store = compute_features(dataset.photos, model.backbone, progress=progress)
    batches = CachedFeatures(store, np.arange(len(dataset))).in_order(BATCH_SIZE)
    # Every modality counts, whatever the model was trained with.
    config, text = PseudoLabelConfig(), model.stored_text()
    scores, estimates = [], []
    total = -(-len(dataset) // BATCH_SIZE)
    with torch.inference_mode():
        for batch in tqdm(batches, "estimates", total, disable=not progress):
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
    return _Sources(np.concatenate(scores)[:, columns], np.concatenate(estimates)[:, columns])


def _log_odds(*sources: Float[np.ndarray, "image label"]) -> Float[np.ndarray, "..."]:
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


def _joined(
    log_odds: Float[np.ndarray, "image label source"], weights: Float[np.ndarray, " weight"]
) -> Float[np.ndarray, "image label"]:
    return log_odds @ weights[:-1] + weights[-1]


def _probability(
    log_odds: Float[np.ndarray, "image label"],
) -> Float32[np.ndarray, "image label"]:
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


def _clear_positives(
    probability: Float[np.ndarray, "image label"],
    blank: Bool[np.ndarray, "image label"],
    precision: float,
) -> Bool[np.ndarray, "image label"]:
    """Choose the most probable blanks of each label whose mean is the precision."""
    chosen = np.zeros_like(blank)
    for c, (column, is_blank) in enumerate(zip(probability.T, blank.T, strict=True)):
        falling = np.sort(column[is_blank].astype(np.float64))[::-1]
        # The mean falls with the number, so the last one is the most that can be had.
        enough = np.flatnonzero(_ends_tie(falling) & (_running_mean(falling) >= precision))
        if len(enough):
            chosen[:, c] = is_blank & (column >= falling[enough[-1]])
    return chosen


def _clear_negatives(
    probability: Float[np.ndarray, "image label"],
    blank: Bool[np.ndarray, "image label"],
    precision: float,
) -> Bool[np.ndarray, "image label"]:
    """Choose the least probable blanks of each label, so precise and so complete.

    Where most labels are negative, a precision alone would let every blank be one.
    """
    chosen = np.zeros_like(blank)
    for c, (column, is_blank) in enumerate(zip(probability.T, blank.T, strict=True)):
        rising = np.sort(column[is_blank].astype(np.float64))
        precise = _running_mean(1 - rising) >= precision
        is_complete = rising.cumsum() <= (1 - precision) * rising.sum()
        enough = np.flatnonzero(_ends_tie(rising) & precise & is_complete)
        if len(enough):
            chosen[:, c] = is_blank & (column <= rising[enough[-1]])
    return chosen


def _ends_tie(values: Float[np.ndarray, " value"]) -> Bool[np.ndarray, " value"]:
    """Say of sorted values which are the last of their tie: equal ones are chosen together."""
    return np.diff(values, append=np.nan) != 0


def _running_mean(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
    return values.cumsum() / np.arange(1, len(values) + 1)


def _mistakes(
    probability: Float[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]
) -> list[Cell]:
    """Rank known cells by how improbable what they state is; those below one half count."""
    stated = np.where(states == POSITIVE, probability, 1 - probability)
    rows, columns = np.nonzero((states != UNKNOWN) & (stated < 0.5))
    order = np.argsort(stated[rows, columns], kind="stable")
    return [
        Cell(int(rows[i]), int(columns[i]), float(probability[rows[i], columns[i]]),
             float(1 - stated[rows[i], columns[i]]))
        for i in order
    ]  # fmt: skip


def teaching_value(
    probability: Float[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]
) -> Float[np.ndarray, "image label"]:
    """Say how much an answer would teach: uncertainty, more where few positives are known."""
    positives = (states == POSITIVE).sum(axis=0)
    # 4·p·(1 − p) is 1 where p is one half.
    return 4 * probability * (1 - probability) / np.sqrt(positives + 1)


def _questions(
    probability: Float[np.ndarray, "image label"],
    before: Int8[np.ndarray, "image label"],
    after: Int8[np.ndarray, "image label"],
) -> list[Cell]:
    """Rank open blanks by their uncertainty, more where few positives are known."""
    uncertainty = np.where(after == UNKNOWN, teaching_value(probability, before), -1.0)
    # One a photo: a person who has it open sees the rest.
    best = uncertainty.argmax(axis=1)
    value = uncertainty[np.arange(len(best)), best]
    order = [i for i in np.argsort(-value, kind="stable") if value[i] > 0]
    return [
        Cell(int(i), int(best[i]), float(probability[i, best[i]]), float(value[i])) for i in order
    ]
