"""What is matched, and what comes of it."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

HIGHEST_SCORE = 1 - 2**-24
"""The largest float32 below 1."""
BEST_PATCHES = 1 / 16
"""Share of the patches that speak for a label: one alone is an unsteady witness."""


def patch_similarity(
    patch_features: Float[Tensor, "batch patch dim"], directions: Float[Tensor, "label dim"]
) -> Float[Tensor, "batch patch label"]:
    """Return the products of patches and directions, in units of a photo's typical patch.

    A cosine would hide that a long patch says more than a short one (our choice: it was the better of
    the two at zero-shot).
    """
    typical = patch_features.square().sum(dim=-1).mean(dim=-1).sqrt().clamp(min=1e-6)
    return patch_features @ directions.T / typical[:, None, None]


def best_patches(
    similarity: Float[Tensor, "batch patch label"],
) -> Float[Tensor, "batch label"]:
    """Return the mean similarity of the patches that fit each label best (our choice).

    A photo as a whole tells best what it is a photo of; a small thing in it shows in a few patches and
    is lost in their mean.
    """
    num_best = max(round(BEST_PATCHES * similarity.shape[1]), 1)
    return similarity.topk(num_best, dim=1).values.mean(dim=1)


def zero_shot_similarity(
    image_features: Float[Tensor, "batch dim"],
    patch_features: Float[Tensor, "batch patch dim"],
    directions: Float[Tensor, "label dim"],
) -> Float[Tensor, "batch label"]:
    """Return how alike photo and text are for a CLIP alone: half by the photo, half by its patches.

    Their mean and not their sum, which the sigmoid of a CLIP's own scale would hold for certain.

    Args:
        image_features: Of unit length.
        patch_features: As long as they are.
        directions: Text features, relative to their mean.
    """
    best = best_patches(patch_similarity(patch_features, directions))
    # Any label has patches that fit it best; only how much better than other labels' counts.
    return (image_features @ directions.T + best - best.mean(dim=1, keepdim=True)) / 2


class TextFeatures(NamedTuple):
    """What the prompts say, of unit length: presence of each label and, maybe, its absence."""

    positive: Float[Tensor, "label dim"]
    negative: Float[Tensor, "label dim"] | None

    @property
    def direction(self) -> Float[Tensor, "label dim"]:
        """What a region is matched with: presence, less absence where there is one."""
        return self.positive if self.negative is None else self.positive - self.negative


class MatcherOutput(NamedTuple):
    """What a photo batch looks like to the matcher.

    Attributes:
        logits: Matching logits, before the sigmoid.
        region_features: What each label read from the photo; for text-pixel matching the
            mean of the patches weighted by similarity, without regions the image feature.
        region_attention: Weights over the patches, summing to 1; None without regions.
    """

    logits: Float[Tensor, "batch label"]
    region_features: Float[Tensor, "batch label dim"]
    region_attention: Float[Tensor, "batch label patch"] | None

    @property
    def scores(self) -> Float[Tensor, "batch label"]:
        """The sigmoid of the logits, below 1: a threshold of 1 means never."""
        return self.logits.float().sigmoid().clamp(max=HIGHEST_SCORE)
