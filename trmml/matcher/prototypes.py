"""Prototypes: slow averages of what a label looks like and of how it is described.

Paper: the "multimodal category prototype" of TRM-ML, visual and text, whose intra- and
inter-category similarities estimate unknown labels. Momentum and confidence gate are our choices
(0.99 and 0.8, seen in the same first author's earlier public code).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trmml.matcher.prompts import NewRow


class Prototypes(nn.Module):
    """One visual and one text prototype per label, of unit length.

    A model has one such set for the presence of each label and, if it has negative prompts, a
    second one for the absence.
    """

    visual: Float[Tensor, "label dim"]
    text: Float[Tensor, "label dim"]

    def __init__(self, text_features: Float[Tensor, "label dim"]) -> None:
        """Start both modalities from the text features of the prompts."""
        super().__init__()
        self.register_buffer("visual", text_features.detach().clone())
        self.register_buffer("text", text_features.detach().clone())

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """Both modalities; see `NewRow`."""
        return {"visual": "text", "text": "text"}

    @torch.no_grad()
    def replace_visual(
        self,
        region_sums: Float[Tensor, "label dim"],
    ) -> None:
        """Set the visual prototypes to the direction of sums of region features.

        A label whose sum is zero, for want of an example, keeps its prototype.
        """
        seen = region_sums.norm(dim=-1, keepdim=True) > 0
        self.visual.copy_(torch.where(seen, F.normalize(region_sums, dim=-1), self.visual))

    @torch.no_grad()
    def update(
        self,
        region_features: Float[Tensor, "batch label dim"],
        chosen: Bool[Tensor, "batch label"],
        text_features: Float[Tensor, "label dim"],
        momentum: float,
    ) -> None:
        """Move the prototypes one step: visual ones towards the chosen regions, text ones onto theirs.

        Args:
            region_features: Region features of a batch, of unit length.
            chosen: Which of them are trusted examples of their label.
            text_features: Current ones, of the same side.
            momentum: Share of the old visual prototype kept, in [0, 1).
        """
        # Average before the update: a label seen twice in a batch still moves once.
        sums = torch.einsum("bc,bcd->cd", chosen.to(region_features.dtype), region_features)
        moved = F.normalize(
            momentum * self.visual + (1 - momentum) * F.normalize(sums, dim=-1), dim=-1
        )
        self.visual.copy_(torch.where(chosen.any(dim=0)[:, None], moved, self.visual))
        self.text.copy_(text_features)
