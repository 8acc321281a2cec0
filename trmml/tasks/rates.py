"""Whether a label is as frequent among the known cells of one table as among those of another."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE

SIGNIFICANCE = 0.001
"""How often rates that are the same may be taken for different, in all tests of a table together."""
LEAST_RATIO = 1.5
"""Ratio of the odds below which a difference does little harm, however sure it is."""
MOST_NAMED = 5


class OtherRates(NamedTuple):
    """The labels whose rates differ.

    Attributes:
        labels: Which do; all of them where they do on the whole.
        note: What differs, with the numbers, in one sentence; empty if nothing does.
    """

    labels: Bool[np.ndarray, " label"]
    note: str


def other_rates(dataset: MultiLabelDataset, reference: MultiLabelDataset) -> OtherRates:
    """Compare the share of positives among known cells, per label and on the whole.

    A two-proportion z-test for each label, and one for all of them, stratified by label: the mix of
    labels is that of `dataset` (as Cochran, "Some methods for strengthening the common χ² tests",
    Biometrics 1954). A label of which `dataset` states positives alone is not compared: nothing was
    said of how frequent it is.

    Args:
        dataset: What is to be estimated.
        reference: What the estimates are calibrated on, with the same labels in the same order.
    """
    here, there = _counts(dataset), _counts(reference)
    compared = (here.negatives > 0) & (there.known > 0)
    none = np.zeros(len(dataset.labels), dtype=bool)
    if not compared.any():
        return OtherRates(none, "")
    limit = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2 / (int(compared.sum()) + 1))
    safe_here, safe_there = np.maximum(here.known, 1), np.maximum(there.known, 1)
    share = (here.positives + there.positives) / (safe_here + safe_there)
    variance = share * (1 - share) * (1 / safe_here + 1 / safe_there)
    rate, usual = here.positives / safe_here, there.positives / safe_there
    differs = compared & (np.abs(rate - usual) > limit * np.sqrt(variance))
    # Half a cell more of each, so that odds of nothing are odds, too.
    odds = (here.positives + 0.5) / (here.negatives + 0.5)
    odds = odds / ((there.positives + 0.5) / (there.negatives + 0.5))
    differs &= np.abs(np.log(odds)) >= np.log(LEAST_RATIO)

    mix = np.where(compared, here.known, 0) / here.known[compared].sum()
    whole, expected = float(mix @ rate), float(mix @ usual)
    is_sure = abs(whole - expected) > limit * np.sqrt(mix**2 @ variance)
    if is_sure and _odds_ratio(whole, expected) >= LEAST_RATIO:
        return OtherRates(
            ~none,
            f"{100 * whole:.1f} % of the known cells of {dataset.source} are positive, and "
            f"{100 * expected:.1f} % of those of {reference.source}, for the same mix of labels",
        )
    if not differs.any():
        return OtherRates(none, "")
    worst = np.argsort(-np.abs(np.log(odds)) * differs, kind="stable")[: int(differs.sum())]
    named = ", ".join(
        f"{dataset.labels[i]} ({100 * rate[i]:.1f} % here, {100 * usual[i]:.1f} % there)"
        for i in worst[:MOST_NAMED]
    )
    more = f" … ({len(worst)} labels in all)" if len(worst) > MOST_NAMED else ""
    return OtherRates(
        differs,
        f"known cells of {dataset.source} and {reference.source} are positive at different rates for "
        f"{named}{more}",
    )


class _Counts(NamedTuple):
    positives: Int64[np.ndarray, " label"]
    negatives: Int64[np.ndarray, " label"]

    @property
    def known(self) -> Int64[np.ndarray, " label"]:
        return self.positives + self.negatives


def _counts(dataset: MultiLabelDataset) -> _Counts:
    states = dataset.states
    return _Counts((states == POSITIVE).sum(axis=0), (states == NEGATIVE).sum(axis=0))


def _odds_ratio(first: float, second: float) -> float:
    """Return by how much the larger of two shares has the larger odds."""
    low, high = sorted((first, second))
    return float("inf") if low == 0 or high == 1 else high * (1 - low) / (low * (1 - high))
