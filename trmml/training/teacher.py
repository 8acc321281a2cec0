"""The teacher of distillation: zero-shot matching or, of labels learned before, the model as it was.

Paper: distillation is "for cross-modal alignment"; who teaches is our choice. Where training starts
from a trained model, that is self-distillation: the model must not unlearn what it knew.
"""

import copy
from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.backbone.clip import ImageFeatures
from trmml.matcher.matching import CenteredFeatures, best_patches, patch_similarity
from trmml.matcher.model import TextRegionMatcher


class Teacher:
    """Scores photos for the student to follow: by zero-shot matching, in two ways.

    The whole photo and its best patches each know what the other misses: what a photo is of, and what
    is small in it.
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
            # A copy of the small modules; the frozen tower is shared.
            self.before = copy.deepcopy(model, {id(model.backbone): model.backbone}).eval()
            self.is_learned = self.is_learned.to(model.device)
        self.text = model.zero_shot_text()
        self.scorers = {
            "photo": (self._whole,),
            "patches": (self._best_patches,),
            "both": (self._whole, self._best_patches),
        }[sees]

    @torch.no_grad()
    def __call__(self, features: ImageFeatures) -> Float[Tensor, "batch teacher label"]:
        """Return the scores of each way of zero-shot; every way and label has a scale of its own."""
        centered = self.model.centered(features)
        scores = torch.stack([score(centered) for score in self.scorers], dim=1)
        if self.before is None:
            return scores
        # Beside one another, since distillation compares photos within a label and never two labels.
        own = self.before.match(features, self.before.stored_text()).logits
        return torch.where(self.is_learned, own[:, None].to(scores.dtype), scores)

    def _whole(self, features: CenteredFeatures) -> Float[Tensor, "batch label"]:
        return features.image @ self.text.T

    def _best_patches(self, features: CenteredFeatures) -> Float[Tensor, "batch label"]:
        return best_patches(patch_similarity(features.patches, self.text))
