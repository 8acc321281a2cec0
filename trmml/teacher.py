"""The teacher of distillation: what the frozen CLIP alone says about a photo.

Paper: distillation is "for cross-modal alignment"; who teaches is our choice.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.backbone import ImageFeatures
from trmml.model import TextRegionMatcher

BEST_PATCHES = 1 / 16
"""Share of the patches that speak for a category: one alone is an unsteady witness."""


class Teacher:
    """Matches hand-written prompts with a photo, zero-shot.

    All of a photo in one feature tells best what it is a photo of; a small thing in it shows in a few
    patches and is lost in their mean. Each knows what the other misses.
    """

    def __init__(
        self, model: TextRegionMatcher, sees: Literal["photo", "patches", "both"] = "both"
    ) -> None:
        """Encode the prompts.

        Args:
            model: Gives CLIP's text, and the means that its features are taken relative to.
            sees: The whole photo, its best patches, or each by itself.
        """
        self.model = model
        self.text = model.zero_shot_text()
        ways = {"photo": (self._whole,), "patches": (self._best_patches,)}
        self.ways = ways.get(sees, (self._whole, self._best_patches))

    @torch.no_grad()
    def __call__(self, features: ImageFeatures) -> Float[Tensor, "batch way category"]:
        """Score photos in each way; the ways have scales of their own."""
        return torch.stack([way(features) for way in self.ways], dim=1)

    def _whole(self, features: ImageFeatures) -> Float[Tensor, "batch category"]:
        return self.model.centered(features.image_features) @ self.text.T

    def _best_patches(self, features: ImageFeatures) -> Float[Tensor, "batch category"]:
        """Mean of the best patches, which count with their length and not only their direction.

        What differs most from the mean of all patches says most.
        """
        scores = (features.patch_features - self.model.patch_center) @ self.text.T
        num_best = max(round(BEST_PATCHES * scores.shape[1]), 1)
        return scores.topk(num_best, dim=1).values.mean(dim=1)
