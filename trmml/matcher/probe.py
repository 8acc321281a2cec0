"""What stands beside the learned matching: zero-shot matching, corrected by maps of the frozen features.

Our choice. A CLIP can have learned nothing of a label's name (a private code, a rare word), and then
text finds nothing in a photo; a map of the frozen features does not need the name. Where the CLIP knows
it, zero-shot matching is a good start, and few photos are enough to correct it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.matcher.matching import CenteredFeatures, best_patches, patch_similarity
from trmml.matcher.prompts import NewRow

NUM_SUMMARIES = 3
"""Image feature, mean of the patches, maximum of the patches."""
HIDDEN_UNITS = 256
"""Of the MLP; twice as many were no better on COCO-18."""


class FeatureProbe(nn.Module):
    """Mixes its own logits into those of the matching, label by label.

    Its logit is that of zero-shot matching (by the whole photo and by its best patches, each with a
    scale) plus a correction: a linear map of the summary of the photo and, with a share of its own, an
    MLP. All is found at the end of a training (see `trmml.training.mixing`); before that, and for labels
    that were never learned, its share is 0 and nothing is mixed in.

    Attributes:
        image_text: Scaled text of each label, multiplied with the image feature.
        patch_text: The same for the cosines of the best patches.
        weight: Of the linear map.
        bias: Of each label.
        share: Of the probe in the logit of each label, in [0, 1].
        mlp: The MLP; None without one.
    """

    image_text: Float[Tensor, "label dim"]
    patch_text: Float[Tensor, "label dim"]
    weight: Float[Tensor, "label summary"]
    bias: Float[Tensor, " label"]
    share: Float[Tensor, " label"]

    def __init__(self, num_labels: int, dim: int, *, mlp: bool) -> None:
        """Start with a share of 0."""
        super().__init__()
        self.register_buffer("image_text", torch.zeros(num_labels, dim))
        self.register_buffer("patch_text", torch.zeros(num_labels, dim))
        self.register_buffer("weight", torch.zeros(num_labels, NUM_SUMMARIES * dim))
        self.register_buffer("bias", torch.zeros(num_labels))
        self.register_buffer("share", torch.zeros(num_labels))
        self.mlp = ProbeMLP(num_labels, dim) if mlp else None

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """All of its own; see `NewRow`."""
        names = ("image_text", "patch_text", "weight", "bias", "share")
        return {name: "zero" for name in names}

    def forward(
        self, matched: Float[Tensor, "batch label"], features: CenteredFeatures
    ) -> Float[Tensor, "batch label"]:
        """Return (1 − share) · matched logit + share · logit of the probe."""
        if self.training and not self.share.any():
            return matched  # from a bare CLIP on, its share is 0 in every step
        return matched + self.share * (self.logits(features) - matched)

    def logits(self, features: CenteredFeatures) -> Float[Tensor, "batch label"]:
        """Return the logits of the probe alone: zero-shot + correction."""
        seen = summary(features)
        zero_shot = features.image @ self.image_text.T
        zero_shot = zero_shot + best_patches(patch_similarity(features.patches, self.patch_text))
        correction = seen @ self.weight.T + self.bias
        if self.mlp is not None:
            correction = self.mlp(correction, seen)
        return zero_shot + correction

    @torch.no_grad()
    def mix_in(
        self,
        image_text: Float[Tensor, "label dim"],
        patch_text: Float[Tensor, "label dim"],
        weight: Float[Tensor, "label summary"],
        bias: Float[Tensor, " label"],
        share: Float[Tensor, " label"],
    ) -> None:
        """Mix zero-shot and a linear map into the logits as they are now, which may hold such already.

        Of the best patches this is exact where the text of a label points where the one before it does,
        as for a model that keeps its labels; for other directions it is nearly so.
        """
        before = (1 - share) * self.share
        total = (before + share).clamp(min=1e-6)
        old, new = before / total, share / total
        for tensor, added in (
            (self.image_text, image_text),
            (self.patch_text, patch_text),
            (self.weight, weight),
        ):
            tensor.copy_(old[:, None] * tensor + new[:, None] * added)
        self.bias.copy_(old * self.bias + new * bias)
        self.share.copy_(before + share)


class ProbeMLP(nn.Module):
    """A small MLP of the summary of a photo, which takes a share of the linear map's place.

    Attributes:
        hidden_weight: Of the summary of a photo.
        hidden_bias: Of each hidden unit.
        weight: Of the hidden units, after ReLU.
        bias: Of each label.
        share: Of the MLP in the correction of each label, in [0, 1].
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
        self, linear: Float[Tensor, "batch label"], seen: Float[Tensor, "batch summary"]
    ) -> Float[Tensor, "batch label"]:
        """Return (1 − share) · linear + share · (weight · ReLU(hidden) + bias)."""
        hidden = (seen @ self.hidden_weight.T + self.hidden_bias).relu()
        return linear + self.share * (hidden @ self.weight.T + self.bias - linear)


class ProbeInputs(NamedTuple):
    """What the logits of the probe are made from, for many photos.

    Attributes:
        summaries: See `summary`.
        similarity: Of each label's text to the image feature, and to the best patches.
    """

    summaries: Float[Tensor, "image summary"]
    similarity: Float[Tensor, "image 2 label"]


def probe_inputs(features: CenteredFeatures, text: Float[Tensor, "label dim"]) -> ProbeInputs:
    """Return the inputs of the probe; `text` is that of zero-shot matching."""
    similarity = (
        features.image @ text.T,
        best_patches(patch_similarity(features.patches, text)),
    )
    return ProbeInputs(summary(features).half(), torch.stack(similarity, dim=1).half())


def summary(features: CenteredFeatures) -> Float[Tensor, "batch summary"]:
    """Return image feature, mean and maximum of the patches, one behind the other."""
    patches = features.patches
    return torch.cat([features.image, patches.mean(dim=1), patches.amax(dim=1)], dim=-1)
