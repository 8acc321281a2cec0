"""What stands beside the matching of text and image: a linear probe and a small MLP, without any text.

Our choice. A CLIP can have learned nothing of a label's name (a private code, a rare word), and then
text finds nothing in a photo; a map of the frozen features does not need the name.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.matcher.matching import CenteredFeatures
from trmml.matcher.prompts import NewRow

NUM_SUMMARIES = 3
"""Image feature, mean of the patches, maximum of the patches."""
HIDDEN_UNITS = 256
"""Of the MLP; twice as many were no better on COCO-18."""


class LinearProbe(nn.Module):
    """Mixes the logits of a linear map into those of the matching, label by label.

    Its tensors are solved for at the end of a training (see `trmml.training.probing`); before that, and
    for labels that were never learned, its share is 0 and nothing is mixed in.

    Attributes:
        weight: Of the summary of a photo.
        bias: Of each label.
        share: Of the probe in the logit of each label, in [0, 1].
    """

    weight: Float[Tensor, "label summary"]
    bias: Float[Tensor, " label"]
    share: Float[Tensor, " label"]

    def __init__(self, num_labels: int, dim: int) -> None:
        """Start with a share of 0."""
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_labels, NUM_SUMMARIES * dim))
        self.register_buffer("bias", torch.zeros(num_labels))
        self.register_buffer("share", torch.zeros(num_labels))

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """All of them; see `NewRow`."""
        return {"weight": "zero", "bias": "zero", "share": "zero"}

    def forward(
        self, matched: Float[Tensor, "batch label"], features: CenteredFeatures
    ) -> Float[Tensor, "batch label"]:
        """Return (1 − share) · matched logit + share · (weight · summary + bias)."""
        probed = summary(features) @ self.weight.T + self.bias
        return matched + self.share * (probed - matched)

    @torch.no_grad()
    def mix_in(
        self,
        weight: Float[Tensor, "label summary"],
        bias: Float[Tensor, " label"],
        share: Float[Tensor, " label"],
    ) -> None:
        """Mix another linear map into the logits as they are now, which may hold one already."""
        before = (1 - share) * self.share
        total = (before + share).clamp(min=1e-6)
        old, new = before / total, share / total
        self.weight.copy_(old[:, None] * self.weight + new[:, None] * weight)
        self.bias.copy_(old * self.bias + new * bias)
        self.share.copy_(before + share)


class MLPProbe(nn.Module):
    """Mixes the logits of a small MLP into those of matching and linear probe, label by label.

    Its tensors are trained at the end of a training (see `trmml.training.mlp`); before that, and
    for labels with few known positives, its share is 0 and nothing is mixed in.

    Attributes:
        hidden_weight: Of the summary of a photo.
        hidden_bias: Of each hidden unit.
        weight: Of the hidden units, after ReLU.
        bias: Of each label.
        share: Of the MLP in the logit of each label, in [0, 1].
    """

    hidden_weight: Float[Tensor, "unit summary"]
    hidden_bias: Float[Tensor, " unit"]
    weight: Float[Tensor, "label unit"]
    bias: Float[Tensor, " label"]
    share: Float[Tensor, " label"]

    def __init__(self, num_labels: int, dim: int) -> None:
        """Start with a share of 0."""
        super().__init__()
        self.register_buffer("hidden_weight", torch.zeros(HIDDEN_UNITS, NUM_SUMMARIES * dim))
        self.register_buffer("hidden_bias", torch.zeros(HIDDEN_UNITS))
        self.register_buffer("weight", torch.zeros(num_labels, HIDDEN_UNITS))
        self.register_buffer("bias", torch.zeros(num_labels))
        self.register_buffer("share", torch.zeros(num_labels))

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """All but those of the hidden units; see `NewRow`."""
        return {"weight": "zero", "bias": "zero", "share": "zero"}

    def forward(
        self, logits: Float[Tensor, "batch label"], features: CenteredFeatures
    ) -> Float[Tensor, "batch label"]:
        """Return (1 − share) · logit + share · (weight · ReLU(hidden) + bias)."""
        hidden = (summary(features) @ self.hidden_weight.T + self.hidden_bias).relu()
        return logits + self.share * (hidden @ self.weight.T + self.bias - logits)


def summary(features: CenteredFeatures) -> Float[Tensor, "batch summary"]:
    """Return what the probe sees of a photo: image feature, mean and maximum of its patches."""
    patches = features.patches
    return torch.cat([features.image, patches.mean(dim=1), patches.amax(dim=1)], dim=-1)
