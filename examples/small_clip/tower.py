"""The pretrained image tower: EfficientNet-Lite with its classifier, from a file of tensors."""

from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


class Classifier(NamedTuple):
    """The tower's own last layer: what it knows of the classes of ImageNet."""

    weight: Float[Tensor, "cls width"]
    bias: Float[Tensor, " cls"]

    def __call__(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch cls"]:
        """Return the logits of the classes."""
        return pooled @ self.weight.T + self.bias


def load_tower(name: str, weights: Path) -> tuple[nn.Module, Classifier]:
    """Build a tower of timm and give it the tensors of a file in which they have other names.

    Both hold the same tensors in the same order, so the order says which is which; every shape is
    checked.

    Args:
        name: Of the architecture in timm.
        weights: File of tensors by name, written by PyTorch.

    Returns:
        The tower without its classifier, in evaluation mode, and the classifier.

    Raises:
        ValueError: If the file does not hold this architecture's tensors.
    """
    tower: Any = timm.create_model(name, pretrained=False)
    own = tower.state_dict()
    given = torch.load(weights, weights_only=True, map_location="cpu")
    if len(given) != len(own):
        raise ValueError(f"{weights} has {len(given)} tensors, {name} has {len(own)}.")
    for (own_name, mine), (name_there, theirs) in zip(own.items(), given.items(), strict=True):
        if mine.shape != theirs.shape:
            raise ValueError(
                f"{weights}: {name_there} has the shape {tuple(theirs.shape)}, but {own_name}, "
                f"which has its place in {name}, has {tuple(mine.shape)}."
            )
    tower.load_state_dict(dict(zip(own, given.values(), strict=True)))
    last = tower.get_classifier()
    classifier = Classifier(last.weight.detach().clone(), last.bias.detach().clone())
    tower.reset_classifier(0)
    return tower.eval().requires_grad_(False), classifier
