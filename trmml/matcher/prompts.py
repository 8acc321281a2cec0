"""Learned prompts: context tokens in front of a label's name.

Paper: the "category prompts" of TRM-ML, in the form of CoOp (Zhou et al., 2022) that the field uses:
start, M learned tokens, the name, a full stop, end. Not stated by TRM-ML: M, and whether each
label has its own context; see `MatchingConfig`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.backbone.text import TextTower

NewRow = Literal["text", "mean", "zero"]
"""What a label that was never learned starts from, in a tensor with a row per label.

Each part of a model names its tensors of that kind in `tensors_per_label`, for
`TextRegionMatcher.relabelled`. "mean": of the learned rows. "zero": nothing. "text": what its prompt
says, which `start_from_text` and `Side.set_from_text` put there.
"""
HAND_WRITTEN = "a photo of a"
"""Context of the prompts that need no training."""
TEMPLATES = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a photo of the {}",
    "there is a {}",
    "a {} in a scene",
)
"""Prompts whose mean stands for a label in zero-shot (our choice, as CLIP's ensembles).

Photo captions rarely speak of photos, web captions do; a CLIP learned from either finds its own here.
"""
COMMON_NAMES = (
    *("person", "dog", "bird", "car", "boat", "street", "house", "kitchen", "table", "food"),
    *("cup", "tree", "flower", "mountain", "water", "snow", "shirt", "book", "phone", "ball"),
)
"""What is in photos of any kind: what few labels are compared with, beside one another."""
FEW_NAMES = 16
"""From so many labels on, they are compared with one another alone."""


def relative_text(
    tower: TextTower, names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Float[Tensor, "label dim"]:
    """Return the mean text feature of each name over templates like "a {}", less that of all names.

    Cosines of a CLIP lie close together and far from 0: only their differences say something. The mean
    of one name is that name, and that of two lies between them; so common names count in the mean of
    fewer than 16 (our choice; validation photos of COCO-18).

    Raises:
        ConfigError: If a text does not fit the tower.
    """
    text = tower.encode_names(tuple(names), templates)
    if len(names) >= FEW_NAMES:
        return text - text.mean(dim=0)
    return text - torch.cat([text, tower.encode_names(COMMON_NAMES, templates)]).mean(dim=0)


class PromptLearner(nn.Module):
    """Holds the context and puts it between the start token and each name.

    Names are given at every call and not stored, so a shared context moves to other names.
    """

    def __init__(
        self, context: Float[Tensor, "context width"] | Float[Tensor, "label context width"]
    ) -> None:
        """Start from a context, shared by all labels or one for each."""
        super().__init__()
        self.context = nn.Parameter(context.clone())

    def forward(
        self, name_embeddings: Float[Tensor, "label token width"], num_start_tokens: int = 1
    ) -> Float[Tensor, "label prompt width"]:
        """Return the prompt embeddings: start, context, the rest of each name's tokens.

        Args:
            name_embeddings: Token embeddings of "<start>name.<end>", padded at the end.
            num_start_tokens: How many of them are the start.
        """
        context = self.context.expand(len(name_embeddings), *self.context.shape[-2:])
        start, names = name_embeddings.tensor_split([num_start_tokens], dim=1)
        return torch.cat([start, context, names], dim=1)

    @property
    def is_shared(self) -> bool:
        """Whether all labels have the same context."""
        return self.context.ndim == 2

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """The contexts, where each label has its own; see `NewRow`."""
        return {} if self.is_shared else {"context": "mean"}


def random_context(
    num_context_tokens: int, width: int, num_labels: int | None, generator: torch.Generator
) -> Tensor:
    """Return noise to start a context from: normal, standard deviation 0.02 (as CoOp).

    Args:
        num_context_tokens: Learned tokens per prompt.
        width: Width of a token embedding.
        num_labels: One context for each label, or a shared one if None.
        generator: Source of the noise.
    """
    # Far shorter than the words' own embeddings: what the tower reads first is the label's name.
    shape = (num_context_tokens, width)
    if num_labels is not None:
        shape = (num_labels, *shape)
    return 0.02 * torch.randn(shape, generator=generator)
