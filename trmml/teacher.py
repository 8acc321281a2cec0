"""The teacher of distillation: what the frozen CLIP alone says about a photo.

Paper: distillation is "for cross-modal alignment"; who teaches is our choice.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.backbone import ImageFeatures
from trmml.matching import best_patches
from trmml.model import TextRegionMatcher


class Teacher:
    """Matches hand-written prompts with a photo, zero-shot.

    All of a photo in one feature and its best patches each know what the other misses.
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
        self.ways = {
            "photo": (self._whole,),
            "patches": (self._best_patches,),
            "both": (self._whole, self._best_patches),
        }[sees]

    @torch.no_grad()
    def __call__(self, features: ImageFeatures) -> Float[Tensor, "batch way category"]:
        """Score photos in each way; the ways have scales of their own."""
        return torch.stack([way(features) for way in self.ways], dim=1)

    def _whole(self, features: ImageFeatures) -> Float[Tensor, "batch category"]:
        return self.model.centered(features.image_features) @ self.text.T

    def _best_patches(self, features: ImageFeatures) -> Float[Tensor, "batch category"]:
        """Patches count with their length, too: what differs most from their mean says most."""
        return best_patches((features.patch_features - self.model.patch_center) @ self.text.T)
