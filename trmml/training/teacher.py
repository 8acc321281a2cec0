"""The teacher of distillation: what was known about a photo before training.

Paper: distillation is "for cross-modal alignment"; who teaches is our choice.
"""

import copy
from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.backbone.clip import ImageFeatures
from trmml.matcher.matching import best_patches
from trmml.matcher.model import TextRegionMatcher


class Teacher:
    """Matches hand-written prompts with a photo, zero-shot; what a model has learned, it says itself.

    All of a photo in one feature and its best patches each know what the other misses.
    """

    def __init__(
        self,
        model: TextRegionMatcher,
        sees: Literal["photo", "patches", "both"] = "both",
        learned: Collection[str] = (),
    ) -> None:
        """Encode the prompts, and keep the model as it is now.

        Args:
            model: Gives CLIP's text, and the means that its features are taken relative to.
            sees: Of zero-shot matching: the whole photo, its best patches, or each by itself.
            learned: Labels that the model was trained on before; it teaches them as it is now.
        """
        self.model = model
        self.before: TextRegionMatcher | None = None
        self.is_learned = torch.tensor([label in learned for label in model.labels])
        if self.is_learned.any():
            self.before = copy.deepcopy(model, {id(model.backbone): model.backbone}).eval()
            self.is_learned = self.is_learned.to(model.device)
        self.text = model.zero_shot_text()
        self.ways = {
            "photo": (self._whole,),
            "patches": (self._best_patches,),
            "both": (self._whole, self._best_patches),
        }[sees]

    @torch.no_grad()
    def __call__(self, features: ImageFeatures) -> Float[Tensor, "batch way label"]:
        """Score photos in each way; ways and labels have scales of their own."""
        scores = torch.stack([way(features) for way in self.ways], dim=1)
        if self.before is None:
            return scores
        own = self.before.match(features, self.before.stored_text()).logits
        return torch.where(self.is_learned, own[:, None].to(scores.dtype), scores)

    def _whole(self, features: ImageFeatures) -> Float[Tensor, "batch label"]:
        return self.model.centered(features.image_features) @ self.text.T

    def _best_patches(self, features: ImageFeatures) -> Float[Tensor, "batch label"]:
        """Patches count with their length, too: what differs most from their mean says most."""
        return best_patches((features.patch_features - self.model.patch_center) @ self.text.T)
