"""Pseudo labels: what the prototypes say about labels that nobody stated.

Paper: stated is that visual and text prototypes "leverage intra- and inter-category semantic
relationships" to estimate unknown labels. The formulas and thresholds here are our choices.
"""

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from trmml.config import PseudoLabelConfig
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.prototypes import Prototypes

INTER_TEMPERATURE = 0.01


@torch.no_grad()
def presence_probability(
    region_features: Float[Tensor, "batch category dim"],
    prototypes: Prototypes,
    negative_prototypes: Prototypes | None,
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, " category"],
    config: PseudoLabelConfig,
) -> tuple[Float[Tensor, "batch category"], Bool[Tensor, "batch category"]]:
    """Estimate from the prototypes how probable each category is.

    Intra-category: sigmoid of the scaled cosine with the category's own prototypes (minus the cosine
    with those of its absence), averaged over the modalities. Inter-category: a category can be
    present only if, for its own region, it is among the `top_categories` nearest prototypes of
    every modality. Without the intra part the probability is the softmax over categories, relative
    to the largest one, at temperature 0.01.

    Args:
        region_features: Of unit length.
        prototypes: Of the presence of each category.
        negative_prototypes: Of the absence, if the model has negative prompts.
        logit_scale: The model's present scale.
        logit_bias: The model's present bias per category.
        config: Which modalities and relations count.

    Returns:
        Probabilities in [0, 1], and where the inter-category relation allows a positive.
    """
    modalities = [i for i, used in enumerate((config.visual, config.text)) if used]
    possible = torch.ones(
        region_features.shape[:2], dtype=torch.bool, device=region_features.device
    )
    relative = []
    if config.inter_category:
        for i in modalities:
            similarity = prototypes.all_similarity(region_features)[i]
            own = similarity.diagonal(dim1=1, dim2=2)
            nearer = (similarity > own[..., None]).sum(dim=-1)
            possible &= nearer < config.top_categories
            relative.append((own - similarity.amax(dim=-1)) / INTER_TEMPERATURE)
    if not config.intra_category:
        return torch.stack(relative).mean(dim=0).exp(), possible
    present = prototypes.own_similarity(region_features)
    margin = torch.stack([present[i] for i in modalities]).mean(dim=0)
    if negative_prototypes is not None:
        absent = negative_prototypes.own_similarity(region_features)
        margin = margin - torch.stack([absent[i] for i in modalities]).mean(dim=0)
    return (logit_scale * margin + logit_bias).sigmoid(), possible


class PositiveBudget:
    """How many positives may be estimated of each category before those get the upper hand.

    The known labels tell how common a category is. Estimated positives make the model find more of
    them: without a limit, a category that is estimated too easily ends up everywhere (our choice; the
    thresholds of Xie et al., NeurIPS 2023, follow the same shares).
    """

    def __init__(self, per_unknown: Float[Tensor, " category"]) -> None:
        """Begin an epoch.

        Args:
            per_unknown: Positives allowed for each unknown label seen.
        """
        self.per_unknown = per_unknown
        self.left = torch.zeros_like(per_unknown)

    def spend(
        self,
        wanted: Bool[Tensor, "batch category"],
        probability: Float[Tensor, "batch category"],
        unknown: Bool[Tensor, "batch category"],
    ) -> Bool[Tensor, "batch category"]:
        """Return which of the wanted positives the budget allows: the most probable ones.

        What earlier batches of the epoch left over can be spent as well.
        """
        self.left += self.per_unknown * unknown.sum(dim=0)
        order = probability.masked_fill(~wanted, -1).argsort(dim=0, descending=True, stable=True)
        allowed = wanted & (order.argsort(dim=0) < self.left.floor())
        self.left -= allowed.sum(dim=0)
        return allowed


@torch.no_grad()
def pseudo_labels(
    labels: Int8[Tensor, "batch category"],
    probability: Float[Tensor, "batch category"],
    possible: Bool[Tensor, "batch category"],
    budget: PositiveBudget,
    config: PseudoLabelConfig,
) -> Int8[Tensor, "batch category"]:
    """Decide the unknown labels that are clear, and leave the others unknown.

    Args:
        labels: Labels in three states; the known ones come back as they are.
        probability: Estimated presence, in [0, 1].
        possible: Where a positive is possible.
        budget: Limits the positives, and is charged with them.
        config: The two thresholds.
    """
    unknown = labels == UNKNOWN
    estimated = labels.clone()
    wanted = unknown & possible & (probability >= config.positive_threshold)
    estimated[budget.spend(wanted, probability, unknown)] = POSITIVE
    estimated[unknown & (probability <= config.negative_threshold)] = NEGATIVE
    return estimated
