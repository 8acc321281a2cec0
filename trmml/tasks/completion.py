"""Completing a label table: estimates for its blanks, likely mistakes, and what to ask next.

The paper's prototypes estimate unknown labels inside training; here the same estimate, together with
the model's own, is given to the owner of the table. How the two are joined, when a blank is decided
and how cells are ranked are our choices.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int8

from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError
from trmml.evaluation.requirements import require_known, require_loaded
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN, known_mask
from trmml.matcher.model import TextRegionMatcher
from trmml.tasks.estimates import (
    Estimates,
    calibrated,
    joined,
    log_odds_of,
    probability_of,
    scores_of,
)
from trmml.tasks.mistakes import Cell, Mistakes, likely_mistakes
from trmml.tasks.rates import other_rates

FIRST_POSITIVES = 5
"""Of each label, known before uncertainty decides what is asked."""
FIRST_ASKED = 20
"""Blanks of a label that are asked first, where it lacks positives."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Completion:
    """A table with blanks filled, and what a person should look at.

    Attributes:
        dataset: The table; known cells are as they were, decided blanks are filled.
        estimates: Of every cell.
        decided: Which blanks were filled.
        doubts: How far the estimates contradict known cells, and what that is worth.
        questions: Blanks whose answer would teach most, the best first, one per photo.
        precision: The precision that was wanted.
        warnings: What was not done because the calibration does not fit the table, or done in spite.
    """

    dataset: MultiLabelDataset
    estimates: Estimates
    decided: Bool[np.ndarray, "image label"]
    doubts: Mistakes
    questions: list[Cell]
    precision: float
    warnings: tuple[str, ...] = ()

    @property
    def mistakes(self) -> list[Cell]:
        """Known cells that are likely mistakes, the worst first; `doubts` says what they are worth."""
        return self.doubts.cells

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"{type(self).__name__}({self.dataset!r}, {int(self.decided.sum())} blanks filled, "
            f"{len(self.mistakes)} possible mistakes, {len(self.questions)} questions)"
        )


def complete(
    model: TextRegionMatcher,
    dataset: MultiLabelDataset,
    *,
    precision: float = 0.9,
    calibrate_on: MultiLabelDataset | None = None,
    any_rates: bool = False,
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
        any_rates: Whether to go on where a label is known to be positive in another share of cells in
            `calibrate_on` than in `dataset`. By default such labels stay as they are, because their
            estimates are too high or too low, and `warnings` says so with the numbers.
        progress: Whether to show how far it is.

    Raises:
        ConfigError: If the precision is not between 0.5 and 1.
        DataError: If a photo cannot be read, too few labels are known to calibrate, or the model does
            not know a label.

    Example:
        >>> model = trmml.load_model("runs/shop")
        >>> table = trmml.read_dataset("labels.csv", images="photos/")
        >>> other = trmml.read_dataset("val.csv", images="photos/")
        >>> filled = trmml.complete(model, table, calibrate_on=other).dataset
    """
    if not 0.5 <= precision < 1:
        raise ConfigError(f"precision must be at least 0.5 and below 1, got {precision}.")
    require_loaded(model)
    require_known(dataset, model.labels)
    reference = dataset if calibrate_on is None else calibrate_on.aligned_to(dataset.labels)
    there = scores_of(model, reference, progress)
    weights, offsets, spreads = calibrated(there, reference)
    here = there if reference is dataset else scores_of(model, dataset, progress)
    odds = joined(log_odds_of(*here), weights) + offsets
    set_aside, warnings = _set_aside(dataset, reference, any_rates)
    states = _decided(odds, spreads, dataset.states, precision)
    states[:, set_aside] = dataset.states[:, set_aside]
    probability = probability_of(odds)
    return Completion(
        dataset=replace(
            dataset,
            states=states,
            interpretation=f"{dataset.interpretation} Blanks filled where a precision of "
            f"{precision:g} is expected.",
        ),
        estimates=Estimates(*here, probability),
        decided=states != dataset.states,
        doubts=likely_mistakes(
            probability,
            np.where(set_aside, np.int8(UNKNOWN), dataset.states),
            None if reference is dataset else int(known_mask(reference.states).sum()),
        ),
        questions=_questions(probability, dataset.states, states),
        precision=precision,
        warnings=warnings,
    )


def _set_aside(
    dataset: MultiLabelDataset, reference: MultiLabelDataset, any_rates: bool
) -> tuple[Bool[np.ndarray, " label"], tuple[str, ...]]:
    """Return the labels that stay as they are, and why."""
    found = other_rates(dataset, reference)
    if not found.note:
        return found.labels, ()
    note = f"{found.note[0].upper()}{found.note[1:]}"
    if any_rates:
        effect = "Filled all the same, as any_rates (--any-rates) says: expect more wrong cells."
        return np.zeros_like(found.labels), (f"{note}. {effect}",)
    what = "Nothing" if found.labels.all() else "None of these labels"
    return found.labels, (
        f"{note}. {what} is filled or doubted, as the estimates would be too high or too low. Calibrate "
        "on cells that were chosen alike; or, if the known cells are not a fair sample of the table's "
        "and the others are, go on with any_rates (--any-rates).",
    )


def _decided(
    log_odds: Float[np.ndarray, "image label"],
    spreads: Float[np.ndarray, " label"],
    states: Int8[np.ndarray, "image label"],
    precision: float,
) -> Int8[np.ndarray, "image label"]:
    """Return the states with the clear blanks filled, judged a standard deviation less sure."""
    blank, filled = states == UNKNOWN, states.copy()
    is_positive = _clear_positives(probability_of(log_odds - spreads), blank, precision)
    is_negative = _clear_negatives(probability_of(log_odds + spreads), blank, precision)
    filled[is_positive] = POSITIVE
    # At a precision near one half, a blank can pass as both.
    filled[is_negative & ~is_positive] = NEGATIVE
    return filled


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


def teaching_value(
    probability: Float[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]
) -> Float[np.ndarray, "image label"]:
    """Say how much an answer would teach; larger is better, and nothing else is meant by it.

    First positives: of a label with fewer than five known ones, the most probable blanks have 1 + how
    many are missing + probability. Then uncertainty, more where few positives or few negatives are
    known: 2·p·(1 − p)·(1 / (positives + 1) + 1 / (negatives + 1)), at most 1. NaN where the probability
    is.

    Our choice, measured by simulated answers about 1,000 photos of COCO-18 of which nothing was known
    (`examples/benchmarks/questions.py`): it reaches the mAP that random questions have after 3,200
    answers after 613 of them, and what they have after 1,600 after 450. With a linear probe as the
    learner it is 725, where uncertainty by the square root of the positives alone took 1,388, and likely
    positives first 1,542.
    """
    positives, negatives = ((states == state).sum(axis=0) for state in (POSITIVE, NEGATIVE))
    scarcity = 1 / (positives + 1) + 1 / (negatives + 1)
    value = 2 * probability * (1 - probability) * scarcity
    missing = FIRST_POSITIVES - positives
    is_first = (missing > 0) & _most_probable(probability, states == UNKNOWN)
    return np.where(is_first, 1 + missing + probability, value)


def _most_probable(
    probability: Float[np.ndarray, "image label"], blank: Bool[np.ndarray, "image label"]
) -> Bool[np.ndarray, "image label"]:
    """Choose the few most probable blanks of each label, so that one alone does not fill a list."""
    ranked = np.where(blank & ~np.isnan(probability), probability, -1.0)
    last = max(len(ranked) - FIRST_ASKED, 0)
    least = np.partition(ranked, last, axis=0)[last] if len(ranked) else ranked.max(initial=-1.0)
    return (ranked >= least) & (ranked >= 0)


def _questions(
    probability: Float[np.ndarray, "image label"],
    before: Int8[np.ndarray, "image label"],
    after: Int8[np.ndarray, "image label"],
) -> list[Cell]:
    """Rank open blanks by what their answer would teach; labels that lack positives take turns."""
    teaches = np.where(after == UNKNOWN, teaching_value(probability, before), -1.0)
    # One a photo: a person who has it open sees the rest.
    best = teaches.argmax(axis=1)
    value = teaches[np.arange(len(best)), best]
    order = [i for i in np.argsort(-value, kind="stable") if value[i] > 0]
    asked = dict.fromkeys(best.tolist(), 0)
    turns = {}
    for i in order:
        asked[int(best[i])] += 1
        turns[i] = (
            asked[int(best[i])] if value[i] > 1 else len(order)
        )  # above 1: see `teaching_value`
    order.sort(key=lambda i: turns[i])
    return [
        Cell(int(i), int(best[i]), float(probability[i, best[i]]), float(value[i])) for i in order
    ]
