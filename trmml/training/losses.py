"""The three losses of TRM-ML: classification, distillation, multimodal contrast.

Paper: stated are a distillation "for cross-modal alignment" and "multimodal contrastive learning"
with intra- and inter-class relations; forms and temperatures are our choices. The classification
loss is the one in the same first author's public code: asymmetric (Ridnik et al., ICCV 2021).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from trmml.labels import POSITIVE, UNKNOWN

CONTRASTIVE_TEMPERATURE = 0.07
"""Usual in supervised contrast (Khosla et al., 2020)."""


def asymmetric_loss(
    logits: Float[Tensor, "batch label"],
    states: Int8[Tensor, "batch label"],
    *,
    gamma_positive: float,
    gamma_negative: float,
    clip: float,
    weights: Float[Tensor, "batch label"] | None = None,
) -> Float[Tensor, ""]:
    """Asymmetric loss, averaged over the known states.

    With p the score, a positive costs −(1 − p)^γ₊ log p and a negative −pₘ^γ₋ log(1 − pₘ), where
    pₘ = max(p − clip, 0). The focusing factors carry no gradient. Zero focus and clip give binary
    cross-entropy.

    Args:
        logits: Matching logits, before the sigmoid.
        states: Of each image and label; unknown ones have neither value nor gradient.
        gamma_positive: Focus γ₊ on hard positives.
        gamma_negative: Focus γ₋ on hard negatives.
        clip: Score below which a negative costs nothing.
        weights: Weight of each state in the average; all 1 by default.

    Returns:
        A scalar; zero if every state is unknown.
    """
    is_positive = states == POSITIVE
    log_positive = F.logsigmoid(logits)
    # logsigmoid keeps its digits where the sigmoid is 0 or 1; a shifted probability has no such form.
    if clip > 0:
        shifted = (1 - logits.sigmoid() + clip).clamp(max=1)
        log_negative = shifted.clamp(min=1e-8).log()
    else:
        log_negative = F.logsigmoid(-logits)
    log_right = torch.where(is_positive, log_positive, log_negative)
    with torch.no_grad():
        gamma = torch.where(is_positive, gamma_positive, gamma_negative)
        focus = (1 - log_right.exp()).clamp(min=0) ** gamma
    # Where a cell has no weight the product is 0, and so is its gradient.
    cell_weights = (states != UNKNOWN).to(logits.dtype)
    if weights is not None:
        cell_weights = cell_weights * weights
    return -(cell_weights * focus * log_right).sum() / cell_weights.sum().clamp(min=1e-8)


def distillation_loss(
    logits: Float[Tensor, "batch label"],
    teacher_scores: Float[Tensor, "batch label"],
    weights: Float[Tensor, "batch label"],
) -> Float[Tensor, ""]:
    """One minus the weighted correlation of logits and teacher over the photos of a batch.

    A frozen CLIP can say which of two photos shows more of a label, and neither how probable one
    is nor which of two labels is the likelier; so only the order and the distances of the photos
    are distilled, label by label (our choice; Pearson's correlation as in DIST, Huang et al.,
    NeurIPS 2022).

    Args:
        logits: Matching logits.
        teacher_scores: What the teacher says of the same photos, in any unit.
        weights: How much each photo counts in the correlation of a label; zero or more.

    Returns:
        The mean over labels, each times its mean weight; zero if all weights are.
    """
    # A weighted correlation: the mean is taken out with the weights, each vector scaled by their root.
    total = weights.sum(dim=0).clamp(min=1e-6)

    def centered(scores: Tensor) -> Tensor:
        return weights.sqrt() * (scores - (weights * scores).sum(dim=0) / total)

    correlation = F.cosine_similarity(
        centered(logits), centered(teacher_scores.detach()), dim=0, eps=1e-6
    )
    return ((1 - correlation) * weights.mean(dim=0)).mean()


def contrastive_loss(
    region_features: Float[Tensor, "batch label dim"],
    present: Bool[Tensor, "batch label"],
    text_features: Float[Tensor, "label dim"],
    visual_prototypes: Float[Tensor, "label dim"],
    *,
    temperature: float = CONTRASTIVE_TEMPERATURE,
    max_regions: int = 2048,
) -> Float[Tensor, ""]:
    """Multimodal supervised contrast over the regions of present labels (our form).

    Regions of one label, its text feature and its visual prototype attract each other; those of
    other labels are pushed away: a region against all keys, and a text feature against all
    regions and visual prototypes.

    Args:
        region_features: Of unit length.
        present: Which regions show their label: known or pseudo positives.
        text_features: Of unit length.
        visual_prototypes: Of unit length, without gradient.
        temperature: τ.
        max_regions: Regions used at most, the first ones, to bound memory.

    Returns:
        A scalar; zero if nothing is present.
    """
    labels = present.nonzero()[:max_regions, 1]
    if len(labels) == 0:
        return region_features.sum() * 0  # a zero that backward() can go through
    regions = region_features[present][:max_regions]
    every = torch.arange(len(text_features), device=regions.device)
    own = torch.eye(len(regions), dtype=torch.bool, device=regions.device)

    keys = torch.cat([regions, visual_prototypes, text_features])
    key_labels = torch.cat([labels, every, every])
    # A region is not its own key.
    not_self = ~F.pad(own, (0, len(keys) - len(regions)))
    from_regions = _attraction(regions, labels, keys, key_labels, not_self, temperature)

    shown = labels.unique()
    keys, key_labels = keys[: -len(every)], key_labels[: -len(every)]
    all_keys = keys.new_ones(len(shown), len(keys), dtype=torch.bool)
    from_text = _attraction(text_features[shown], shown, keys, key_labels, all_keys, temperature)
    return from_regions + from_text


def _attraction(
    anchors: Tensor,
    anchor_labels: Tensor,
    keys: Tensor,
    key_labels: Tensor,
    usable: Tensor,
    temperature: float,
) -> Tensor:
    """Mean over anchors and their own label's keys of −log softmax over the usable keys."""
    similarity = (anchors @ keys.T / temperature).masked_fill(~usable, float("-inf"))
    log_share = similarity.log_softmax(dim=-1)
    same = usable & (anchor_labels[:, None] == key_labels)
    per_anchor = log_share.masked_fill(~same, 0).sum(dim=-1) / same.sum(dim=-1).clamp(min=1)
    return -per_anchor.mean()
