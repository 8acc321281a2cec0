"""What is solved for and not trained by steps: a linear map, by itself or to correct zero-shot.

Our choice. A logistic regression of the frozen features is the simplest thing that learns from known
photos. As far as the labels' text is trusted, zero-shot matching is added to its logit, so that it has
to learn only what zero-shot gets wrong: with few known photos it stays near zero-shot, and with many
it becomes a logistic regression.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from trmml.labels import POSITIVE
from trmml.training import logistic
from trmml.training.logistic import both_ways, cell_weights, deviation_of, minimize, one_sided

PENALTIES = (30000.0, 10000.0, 3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0)
"""Of the squared weights, from strong to weak; each solution starts from the one before it."""
USUAL_PENALTY = 1000.0
"""Taken unless validation photos say otherwise. Beside zero-shot the best or nearly so on COCO-18 with
100 to 22,500 photos, and on words of captions (validation photos)."""
ENOUGH_POSITIVES = 1000
"""Known positives of the validation photos, of all labels, from which on they choose the penalty."""
NUM_FOLDS, MOST_FOLDED = 3, 10_000
"""Of the cross-validation: folds, and photos to solve for in all of them together."""
MOST_WEIGHTS = 2**20
"""Of labels × features solved for at a time: L-BFGS keeps two hundred times as many numbers."""
LEAST_SHARE, POSITIVES_AT_HALF = 0.4, 150
"""The probe's share in a trusted label's logit with very many known positives, and the number of these
at which it is halfway from 1 to that."""


class LinearMap(NamedTuple):
    """A logistic regression of each label on the summaries of photos.

    Attributes:
        penalty: Of the squared weights of the standardized features.
    """

    weight: Float[Tensor, "label summary"]
    bias: Float[Tensor, " label"]
    penalty: float

    def logits(self, summaries: Float[Tensor, "image summary"]) -> Float[Tensor, "image label"]:
        """Return the logits of some photos, or what is added to those of zero-shot."""
        return summaries.float() @ self.weight.T + self.bias


def share_of_probe(
    states: Int8[Tensor, "image label"], trust: Float[Tensor, " label"]
) -> Float[Tensor, " label"]:
    """Return the probe's share in the logit of each label.

    Where the text is trusted, 1 − 0.6 p / (p + 150) of p known positives: the fewer are known, the more
    of what was learned by steps is noise. Where it is not, up to all. Our choice, from tables of 4 to
    1,800 known positives a label.
    """
    positives = (states == POSITIVE).sum(dim=0).to(trust.device)
    most = trust * (1 - LEAST_SHARE)
    return 1 - most * positives / (positives + POSITIVES_AT_HALF)


def fit_linear(
    summaries: Float[Tensor, "image summary"],
    states: Int8[Tensor, "image label"],
    val: Float[Tensor, "val_image summary"],
    val_states: Int8[Tensor, "val_image label"],
    *,
    assumed_negative: float,
    zero_shot: tuple[Float[Tensor, "image label"], Float[Tensor, "val_image label"]] | None = None,
) -> LinearMap:
    """Fit a linear map, to correct zero-shot or by itself.

    Its penalty is that of the lowest cross-entropy on `val`, or by cross-validation on the training
    photos where `val` has few known positives. Where it corrects zero-shot, it is the usual one, unless
    that other is better by more than two standard errors of the difference, over photos and over labels:
    what helps a few labels alone is as likely to harm those that are tested.

    Args:
        summaries: Of the training photos.
        states: Of the same photos; unknown ones do not count.
        val: Summaries of the validation photos.
        val_states: Of these; each label counts the same.
        assumed_negative: Weight of unknown states of labels without a known negative.
        zero_shot: Logits of training and validation photos for the map to correct.
    """
    states, val_states = states.to(summaries.device), val_states.to(summaries.device)
    offset, val_offset = (None, 0.0) if zero_shot is None else zero_shot
    folds = None
    if (val_states == POSITIVE).sum() < ENOUGH_POSITIVES and len(states) >= 2 * NUM_FOLDS:
        folds = _losses_on_folds(summaries, states, assumed_negative, offset)
    tried: list[tuple[LinearMap, Tensor]] = []
    for found in fit_linear_maps(summaries, states, assumed_negative, offset):
        if folds is None:
            losses = _losses(found.logits(val) + val_offset, val_states, assumed_negative)
        else:
            losses = next(folds)
        tried.append((found, losses))
        means = [losses.mean() for _, losses in tried]
        if found.penalty <= USUAL_PENALTY and means[-1] > min(means):
            break  # it will rise further
    best = min(tried, key=lambda pair: pair[1].mean().item())
    if zero_shot is None:
        return best[0]
    usual = next(pair for pair in tried if pair[0].penalty == USUAL_PENALTY)
    gains = usual[1] - best[1]
    is_better = _is_clear(gains.mean(dim=1)) and (
        gains.shape[1] == 1 or _is_clear(gains.mean(dim=0))
    )
    return (best if is_better else usual)[0]


def _is_clear(gains: Float[Tensor, " any"]) -> bool:
    """Say whether the mean is above 0 by more than two of its standard errors."""
    return len(gains) > 1 and bool(gains.mean() > 2 * gains.std() / len(gains) ** 0.5)


def _losses_on_folds(
    summaries: Float[Tensor, "image summary"],
    states: Int8[Tensor, "image label"],
    assumed_negative: float,
    zero_shot: Float[Tensor, "image label"] | None,
) -> Iterator[Float[Tensor, "held_out label"]]:
    """Yield, for each penalty, the losses of training photos by maps that have not seen them.

    One photo in three is held out at a time; of many photos not each is, to bound time. The few
    numbers of zero-shot have seen all of them.
    """
    offset = torch.zeros(states.shape, device=states.device) if zero_shot is None else zero_shot
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    fold = order.to(states.device) % NUM_FOLDS
    num_solved = min(max(MOST_FOLDED // len(states), 1), NUM_FOLDS)
    held_out = [fold == i for i in range(num_solved)]
    solved = [
        fit_linear_maps(summaries[~rows], states[~rows], assumed_negative, offset[~rows])
        for rows in held_out
    ]
    for of_folds in zip(*solved, strict=True):
        logits = offset.clone()
        for rows, found in zip(held_out, of_folds, strict=True):
            logits[rows] += found.logits(summaries[rows])
        judged = fold < num_solved
        yield _losses(logits[judged], states[judged], assumed_negative)


def fit_linear_maps(
    summaries: Float[Tensor, "image summary"],
    states: Int8[Tensor, "image label"],
    assumed_negative: float,
    zero_shot: Float[Tensor, "image label"] | None = None,
) -> Iterator[LinearMap]:
    """Yield a logistic regression per label for each penalty, from strong to weak.

    Minimized is Σ wᵢ · cross-entropy(zero-shot + weight · features + bias) + penalty / 2 · ‖weight‖²,
    over standardized features, for all labels together, by L-BFGS.

    Args:
        summaries: Of the training photos.
        states: Of the same photos; unknown ones do not count.
        assumed_negative: Weight of unknown states of labels without a known negative.
        zero_shot: Logits of the same photos; 0 by default.
    """
    features = summaries.float()
    mean, deviation = features.mean(dim=0), deviation_of(features)
    features = (features - mean) / deviation
    weights, targets = cell_weights(states, assumed_negative), (states == POSITIVE).float()
    offset = torch.zeros_like(targets) if zero_shot is None else zero_shot
    most = min(logistic.MOST_CELLS // len(states), MOST_WEIGHTS // features.shape[1])
    parts = torch.arange(states.shape[1]).split(max(most, 1))
    solved = [
        _solve(features, targets[:, part], weights[:, part], offset[:, part]) for part in parts
    ]
    for penalty, *of_parts in zip(PENALTIES, *solved, strict=True):
        scaled = torch.cat([weight for weight, _ in of_parts]) / deviation
        bias = torch.cat([bias for _, bias in of_parts])
        yield LinearMap(scaled, bias - scaled @ mean, penalty)


def _solve(
    features: Float[Tensor, "image summary"],
    targets: Float[Tensor, "image label"],
    weights: Float[Tensor, "image label"],
    offset: Float[Tensor, "image label"],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weight and bias of some labels for each penalty."""
    weight = features.new_zeros(targets.shape[1], features.shape[1])
    bias = features.new_zeros(targets.shape[1], requires_grad=True)
    mean_offset, without_one = offset.mean(dim=0), one_sided(targets, weights)
    for penalty in PENALTIES:
        # In this unit the penalty curves the loss about as much as the photos do, which L-BFGS likes.
        unit = (1 + 4 * penalty / len(features)) ** -0.5
        scaled = (weight / unit).requires_grad_()

        def cost(penalty: float = penalty, unit: float = unit, scaled: Tensor = scaled) -> Tensor:
            logits = offset + features @ (unit * scaled).T + bias
            losses = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
            losses = losses + (without_one * both_ways(mean_offset + bias)).sum()
            return (losses + penalty / 2 * (unit * scaled).square().sum()) / len(features)

        minimize([scaled, bias], cost)
        weight = unit * scaled.detach()
        yield weight, bias.detach().clone()


def _losses(
    logits: Float[Tensor, "image label"],
    states: Int8[Tensor, "image label"],
    assumed_negative: float,
) -> Float[Tensor, "image label"]:
    """Return the cross-entropy of known states, weighted so that each label counts the same in all."""
    weights, targets = cell_weights(states, assumed_negative), (states == POSITIVE).float()
    losses = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
    return losses / weights.mean(dim=0).clamp(min=1 / len(states))
