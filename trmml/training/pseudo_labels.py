"""Pseudo labels: what the prototypes say about labels that nobody stated.

Paper: stated is that visual and text prototypes "leverage intra- and inter-category semantic
relationships" to estimate unknown labels. The formulas and thresholds here are our choices.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int8, Int64
from torch import Tensor

from trmml.config.groups import PseudoLabelConfig
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.matching import MatcherOutput
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prototypes import Prototypes

START_EPOCH = 2
"""Epoch, from 0, in which estimates begin to count; until then prototypes are means over an epoch."""
NEAREST_LABELS = 3
"""A region makes its label positive only if fewer prototypes than this are nearer than its own."""
INTER_TEMPERATURE = 0.01
"""Of the softmax over labels, where that alone estimates; cosines differ by hundredths."""
MOST_SIMILARITIES = 2**24
"""Cosines held at a time: all regions with all labels would be photos × labels²."""


@torch.no_grad()
def presence_probability(
    region_features: Float[Tensor, "batch label dim"],
    present: Prototypes,
    absent: Prototypes | None,
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, " label"],
    config: PseudoLabelConfig,
) -> Float[Tensor, "batch label"]:
    """Estimate from the prototypes how probable each label is, in [0, 1].

    Intra-category: sigmoid of the scaled cosine with the label's own prototypes (minus the cosine
    with those of its absence), averaged over the modalities. Without the intra part: the softmax over
    labels, relative to the largest one, at temperature 0.01, averaged in the same way.

    Args:
        region_features: Of unit length.
        present: Prototypes of the presence of each label.
        absent: Those of its absence, if the model has negative prompts.
        logit_scale: The model's current scale.
        logit_bias: The model's current bias per label.
        config: Which modalities and relations count.
    """
    if config.relations == "inter":
        every = torch.ones(region_features.shape[:2], dtype=torch.bool, device=logit_bias.device)
        gaps = [_rank_and_gap(region_features, every, table)[1] for table in _used(present, config)]
        return (-torch.stack(gaps).mean(dim=0) / INTER_TEMPERATURE).exp().view(every.shape)

    def similarity(own: Prototypes) -> Tensor:
        tables = _used(own, config)
        cosines = [torch.einsum("bcd,cd->bc", region_features, table) for table in tables]
        return torch.stack(cosines).mean(dim=0)

    # The mean of both modalities: text knows what was never seen, regions know what it looks like here.
    margin = similarity(present)
    if absent is not None:
        margin = margin - similarity(absent)
    return (logit_scale * margin + logit_bias).sigmoid()


def _used(prototypes: Prototypes, config: PseudoLabelConfig) -> list[Float[Tensor, "label dim"]]:
    modalities = {"visual": prototypes.visual, "text": prototypes.text}
    return [table for name, table in modalities.items() if name in config.modalities]


def _rank_and_gap(
    region_features: Float[Tensor, "batch label dim"],
    chosen: Bool[Tensor, "batch label"],
    table: Float[Tensor, "label dim"],
) -> tuple[Int64[Tensor, " region"], Float[Tensor, " region"]]:
    """Compare chosen regions with the prototypes of all labels.

    Returns:
        For each region the rank of its own label's prototype (how many are nearer), and the gap: the
        largest cosine less that with its own.
    """
    regions, own = region_features[chosen], chosen.nonzero()[:, 1]
    # In parts: 10,000 labels would otherwise take gigabytes for a batch.
    rows = max(MOST_SIMILARITIES // len(table), 1)
    ranks, gaps = [], []
    for some, labels in zip(regions.split(rows), own.split(rows), strict=True):
        similarity = some @ table.T
        of_own = similarity.gather(1, labels[:, None])
        ranks.append((similarity > of_own).sum(dim=1))
        gaps.append(similarity.amax(dim=1) - of_own[:, 0])
    return torch.cat(ranks), torch.cat(gaps)


class PositiveBudget:
    """How many positives may be estimated of each label before those get the upper hand.

    The known labels tell how common a label is. Estimated positives make the model find more of
    them: without a limit, a label that is estimated too easily ends up everywhere (our choice; the
    thresholds of Xie et al., NeurIPS 2023, follow the same shares).
    """

    def __init__(self, per_unknown: Float[Tensor, " label"]) -> None:
        """Begin an epoch.

        Args:
            per_unknown: Positives allowed for each unknown label seen.
        """
        self.per_unknown = per_unknown
        self.left = torch.zeros_like(per_unknown)

    def spend(
        self,
        wanted: Bool[Tensor, "batch label"],
        probability: Float[Tensor, "batch label"],
        unknown: Bool[Tensor, "batch label"],
    ) -> Bool[Tensor, "batch label"]:
        """Return which of the wanted positives the budget allows: the most probable ones.

        What earlier batches of the epoch left over can be spent as well.
        """
        self.left += self.per_unknown * unknown.sum(dim=0)
        # The rank of each photo among those wanted of its label: argsort of argsort.
        order = probability.masked_fill(~wanted, -1).argsort(dim=0, descending=True, stable=True)
        allowed = wanted & (order.argsort(dim=0) < self.left.floor())
        self.left -= allowed.sum(dim=0)
        return allowed


@torch.no_grad()
def pseudo_labels(
    states: Int8[Tensor, "batch label"],
    probability: Float[Tensor, "batch label"],
    region_features: Float[Tensor, "batch label dim"],
    prototypes: Prototypes,
    budget: PositiveBudget,
    config: PseudoLabelConfig,
) -> Int8[Tensor, "batch label"]:
    """Decide the unknown labels that are clear, and leave the others unknown.

    Inter-category: a label can become positive only if, for its own region, its label is among the
    three nearest prototypes of every modality.

    Args:
        states: Of each image and label; the known ones come back as they are.
        probability: Estimated presence, in [0, 1].
        region_features: Of unit length.
        prototypes: Of the presence of each label.
        budget: Limits the positives, and is charged with them.
        config: The two thresholds, and which modalities and relations count.
    """
    unknown = states == UNKNOWN
    estimated = states.clone()
    wanted = unknown & (probability >= config.positive_threshold)
    if config.relations != "intra":
        for table in _used(prototypes, config):
            rank, _ = _rank_and_gap(region_features, wanted, table)
            wanted = wanted.masked_scatter(wanted, rank < NEAREST_LABELS)
    # Negatives need no budget: most labels are absent from most photos.
    estimated[budget.spend(wanted, probability, unknown)] = POSITIVE
    estimated[unknown & (probability <= config.negative_threshold)] = NEGATIVE
    return estimated


class RegionSums:
    """Sums of region features over an epoch's known states, to start prototypes from."""

    def __init__(self, model: TextRegionMatcher) -> None:
        """Start from nothing."""
        self.sides = dict(zip((POSITIVE, NEGATIVE), model.sides, strict=False))
        self.sums = {
            state: torch.zeros_like(side.prototypes.visual) for state, side in self.sides.items()
        }

    @torch.no_grad()
    def add(self, output: MatcherOutput, states: Int8[Tensor, "batch label"]) -> None:
        """Add the regions of a batch, each to the side that its state says."""
        regions = F.normalize(output.region_features, dim=-1)
        for state, total in self.sums.items():
            total += torch.einsum("bc,bcd->cd", (states == state).float(), regions)

    def into_prototypes(self) -> None:
        """Put the directions of the sums into the visual prototypes."""
        for state, side in self.sides.items():
            side.prototypes.replace_visual(self.sums[state])


class PseudoLabelCounts:
    """How many unknown labels were decided in an epoch and, where it is known, how well."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.unknown = self.positive = self.negative = 0
        self.right_positive = self.right_negative = 0
        self.hidden_positive = self.hidden_negative = 0
        self.is_rated = False

    def add(self, states: np.ndarray, estimated: np.ndarray, hidden: np.ndarray | None) -> None:
        """Count a batch: labels, what became of them, and what they were before some were hidden."""
        unknown = states == UNKNOWN
        positive, negative = unknown & (estimated == POSITIVE), unknown & (estimated == NEGATIVE)
        self.unknown += int(unknown.sum())
        self.positive += int(positive.sum())
        self.negative += int(negative.sum())
        if hidden is not None:
            self.is_rated = True
            self.right_positive += int((positive & (hidden == POSITIVE)).sum())
            self.right_negative += int((negative & (hidden == NEGATIVE)).sum())
            self.hidden_positive += int((unknown & (hidden == POSITIVE)).sum())
            self.hidden_negative += int((unknown & (hidden == NEGATIVE)).sum())

    def to_dict(self) -> dict[str, int | float | None]:
        """Return counts and, where it is known what is right, shares."""
        counts: dict[str, int | float | None] = {
            "unknown": self.unknown,
            "positive": self.positive,
            "negative": self.negative,
        }
        if not self.is_rated:
            return counts
        return counts | {
            "positive_precision": _ratio(self.right_positive, self.positive),
            "positive_recall": _ratio(self.right_positive, self.hidden_positive),
            "negative_precision": _ratio(self.right_negative, self.negative),
            "negative_recall": _ratio(self.right_negative, self.hidden_negative),
        }


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
