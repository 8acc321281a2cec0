"""Batch norms of a frozen tower folded into the convolutions before them: the same map, less work.

A batch norm that never moves is a linear map per channel, and so is part of the convolution whose
output it reads.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-4


@torch.no_grad()
def fold_batch_norms(tower: nn.Module, image_size: int) -> None:
    """Fold what can be folded, in place.

    A batch norm is taken to read the convolution registered before it in the same module. That is a
    guess about the code of the tower, so the result is checked on a photo of noise, and all is put
    back where the features differ.

    Args:
        tower: In evaluation mode; from photos to a tuple of features.
        image_size: Side of the photos it takes.
    """
    pairs = list(_pairs(tower))
    if not pairs:
        return
    # Noise, since an even photo would show little of what a convolution does.
    noise = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    before = tower(noise)
    originals = []
    for parent, conv_name, norm_name in pairs:
        conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
        originals.append((parent, {conv_name: conv, norm_name: norm}))
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(parent, norm_name, _without_norm(norm))
    if _agree(before, tower(noise)):
        return
    # One wrong pair spoils them all: the order of registration is not the order of the forward pass.
    for parent, modules in originals:
        for name, module in modules.items():
            setattr(parent, name, module)


def _without_norm(norm: Any) -> nn.Module:
    """What a batch norm does besides: timm's have the activation in them."""
    if type(norm) is BatchNormAct2d:
        return nn.Sequential(norm.drop, norm.act)  # pyright: ignore[reportArgumentType]
    return nn.Identity()


def _pairs(tower: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield neighbours among children: a convolution, then a batch norm of as many channels."""
    for parent in tower.modules():
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            # Exact types: what derives from them may compute something else.
            if (
                type(conv) is nn.Conv2d
                and type(norm) in (nn.BatchNorm2d, BatchNormAct2d)
                and norm.num_features == conv.out_channels
                and norm.running_mean is not None
            ):
                yield parent, conv_name, norm_name


def _agree(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Whether features are equal up to rounding, measured by their largest value."""
    return all(
        bool((a - b).abs().max() <= TOLERANCE * a.abs().max())
        for a, b in zip(first, second, strict=True)
    )
