"""What all logistic regressions on known states share: their weights, bounds and solver."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from trmml.labels import NEGATIVE, UNKNOWN

MOST_ITERATIONS = 60
MOST_CELLS = 2**25
"""Of photos × labels solved for at a time, to bound memory."""


def cell_weights(
    states: Int8[Tensor, "image label"], assumed_negative: float
) -> Float[Tensor, "image label"]:
    """Return 1 for known states, 0 for unknown ones; a little where a label has no known negative."""
    known = (states != UNKNOWN).float()
    without_negatives = (states == NEGATIVE).sum(dim=0) == 0
    return torch.where(without_negatives & (states == UNKNOWN), assumed_negative, known)


def one_sided(
    targets: Float[Tensor, "image label"], weights: Float[Tensor, "image label"]
) -> Float[Tensor, " label"]:
    """Return 1 for labels all of whose known photos are positive, or all negative, and 0 for others.

    Nothing bounds the bias of such a label, and float32 gives all photos the same score of 1 in the end.
    So one positive and one negative photo of mean features are added to its own (our choice).
    """
    positives, cells = (targets * weights).sum(dim=0), weights.sum(dim=0)
    return ((positives == 0) | (positives == cells)).float()


def both_ways(logits: Float[Tensor, " label"]) -> Float[Tensor, " label"]:
    """Return the cross-entropy of a positive and a negative photo with the same logit."""
    return F.softplus(logits) + F.softplus(-logits)


def deviation_of(features: Float[Tensor, "image summary"]) -> Float[Tensor, " summary"]:
    """Return the standard deviation of each feature over photos, by which all are divided.

    One that hardly varies, as in copies of the same photo, is divided by more: by a hundredth of the
    median deviation, and by a ten-thousandth of the root mean square of all features at least.
    """
    deviation = features.float().std(dim=0, correction=0)
    length = features.float().square().mean().sqrt()
    return deviation.clamp(min=0.01 * torch.maximum(deviation.median(), 0.01 * length)) + 1e-6


def minimize(tensors: list[Tensor], cost: Callable[[], Tensor]) -> None:
    """Move tensors to where a smooth cost is lowest, by L-BFGS."""
    solver = torch.optim.LBFGS(
        tensors, max_iter=MOST_ITERATIONS, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        solver.zero_grad()
        total = cost()
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(step)  # pyright: ignore[reportArgumentType]
