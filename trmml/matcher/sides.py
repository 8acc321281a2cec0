"""The side of presence and, with negative prompts, that of absence: what is learned of every label."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.matcher.prompts import NewRow, PromptLearner
from trmml.matcher.prototypes import Prototypes


class Side(nn.Module):
    """Prompts, their text features and the prototypes of the presence (or of the absence) of labels.

    Attributes:
        prompts: Learned contexts.
        prototypes: Visual and text ones.
        text_features: What the prompts say, of unit length; kept so that prediction needs no text tower.
    """

    text_features: Float[Tensor, "label dim"]

    def __init__(
        self,
        context: Float[Tensor, "context width"] | Float[Tensor, "label context width"],
        text_features: Float[Tensor, "label dim"],
    ) -> None:
        """Start from a context and text features, which may be empty until they are filled."""
        super().__init__()
        self.prompts = PromptLearner(context)
        self.prototypes = Prototypes(text_features)
        # A buffer: gradients reach the prompts through `encode_text`, not through what was kept of it.
        self.register_buffer("text_features", text_features.clone())

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """The text features; see `NewRow`."""
        return {"text_features": "text"}

    @torch.no_grad()
    def set_from_text(
        self, text_features: Float[Tensor, "label dim"], which: list[int] | slice = slice(None)
    ) -> None:
        """Set text features and prototypes of some labels to what their prompts say."""
        self.text_features[which] = text_features[which]
        self.prototypes.visual[which] = text_features[which]
        self.prototypes.text[which] = text_features[which]
