"""A linear probe beside the matching of text and image: what known photos say without any text.

Our choice. A CLIP can have learned nothing of a label's name (a private code, a rare word), and then
text finds nothing in a photo; a linear map of the frozen features does not need the name.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.matcher.matching import CenteredFeatures
from trmml.matcher.prompts import NewRow

NUM_SUMMARIES = 3
"""Image feature, mean of the patches, maximum of the patches."""


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


def summary(features: CenteredFeatures) -> Float[Tensor, "batch summary"]:
    """Return what the probe sees of a photo: image feature, mean and maximum of its patches."""
    patches = features.patches
    return torch.cat([features.image, patches.mean(dim=1), patches.amax(dim=1)], dim=-1)
