"""What is matched, and what comes of it."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

HIGHEST_SCORE = 1 - 2**-24
"""The largest float32 below 1."""


class TextFeatures(NamedTuple):
    """What the prompts say, of unit length: presence of each category and, maybe, its absence."""

    positive: Float[Tensor, "category dim"]
    negative: Float[Tensor, "category dim"] | None

    @property
    def direction(self) -> Float[Tensor, "category dim"]:
        """What a region is matched with: presence, less absence where there is one."""
        return self.positive if self.negative is None else self.positive - self.negative


class MatcherOutput(NamedTuple):
    """What a photo batch looks like to the matcher.

    Attributes:
        logits: Matching logits, before the sigmoid.
        region_features: What each category read from the photo; for text-image matching the image
            feature, for text-pixel matching the mean of the patches weighted by similarity.
        region_attention: Weights over the patches, summing to 1; None for text-image matching.
    """

    logits: Float[Tensor, "batch category"]
    region_features: Float[Tensor, "batch category dim"]
    region_attention: Float[Tensor, "batch category patch"] | None

    @property
    def scores(self) -> Float[Tensor, "batch category"]:
        """The sigmoid of the logits, below 1: a threshold of 1 means never."""
        return self.logits.float().sigmoid().clamp(max=HIGHEST_SCORE)
