"""Zero-shot matching on the scale of logits: two scales for all labels, a bias for each (our choice)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trmml.labels import POSITIVE
from trmml.matcher.probe import ProbeInputs
from trmml.training import logistic
from trmml.training.logistic import both_ways, cell_weights, minimize, one_sided

HIGHEST_SCALE = 100.0
"""Of the order of the highest scale of zero-shot logits, as in CLIP; about 10 on COCO-18."""


class FittedText(NamedTuple):
    """Zero-shot matching with fitted scales and biases, on the scale of logits.

    Attributes:
        scales: On the similarity of text to the whole photo, and to its best patches.
        bias: Of each label.
    """

    scales: Float[Tensor, "2 label"]
    bias: Float[Tensor, " label"]

    def logits(self, inputs: ProbeInputs) -> Float[Tensor, "image label"]:
        """Return the logits of some photos."""
        return _scaled(self.scales, inputs.similarity) + self.bias


def fit_zero_shot(
    inputs: ProbeInputs,
    states: Int8[Tensor, "image label"],
    trust: Float[Tensor, " label"],
    assumed_negative: float,
) -> FittedText:
    """Return scales, of at least 0, and biases of the lowest cross-entropy on the known states.

    The two scales are the same for all labels, times how far the text of each is trusted. Where nothing
    is trusted, or the text orders photos the wrong way round, the logit is that of the label's known
    frequency.

    Args:
        inputs: Of the training photos.
        states: Of the same photos; unknown ones do not count.
        trust: See `trmml.training.survey.trust`.
        assumed_negative: Weight of unknown states of labels without a known negative.
    """
    targets, weights = (states == POSITIVE).float(), cell_weights(states, assumed_negative)
    positives, cells = (targets * weights).sum(dim=0) + 1, weights.sum(dim=0) + 2
    bias = (positives / (cells - positives)).log().requires_grad_()
    scales = bias.new_zeros(2, 1, requires_grad=True)
    kept = torch.ones_like(scales)

    mean = inputs.similarity.float().mean(dim=0, keepdim=True)
    without_one = one_sided(targets, weights)
    parts = range(0, len(states), max(logistic.MOST_CELLS // states.shape[1], 1))

    def loss_from(first: int, scaled: Tensor) -> Tensor:
        rows = slice(first, first + parts.step)
        logits = _scaled(scaled, inputs.similarity[rows]) + bias
        return F.binary_cross_entropy_with_logits(
            logits, targets[rows], weights[rows], reduction="sum"
        )

    def cost() -> Tensor:
        scaled = kept * scales * trust
        if len(parts) == 1:
            losses = loss_from(0, scaled)
        else:  # a part is computed anew for its gradient, so that memory holds one at a time
            losses = torch.stack(
                [checkpoint(loss_from, first, scaled, use_reentrant=False) for first in parts]
            ).sum()
        # Where text parts all known states, nothing else would bound the scales.
        bounds = (scales / HIGHEST_SCALE).square().sum() / 2
        bounds = bounds + (without_one * both_ways(_scaled(scaled, mean)[0] + bias)).sum()
        return (losses + bounds) / weights.sum()

    minimize([scales, bias], cost)
    while (scales < 0).any():  # which would believe the opposite of the text
        kept = kept * (scales.detach() >= 0)
        scales = torch.zeros_like(scales, requires_grad=True)
        minimize([scales, bias], cost)
    return FittedText(scales.detach() * trust, bias.detach())


def _scaled(
    scales: Float[Tensor, "2 label"], similarity: Float[Tensor, "image 2 label"]
) -> Float[Tensor, "image label"]:
    """Return the scaled similarities of photo and of patches, added."""
    return torch.einsum("sl,nsl->nl", scales, similarity.float())
