"""What is solved for and not trained by steps: the linear probe, and its share beside the text.

Our choice. A logistic regression of the frozen features is the simplest thing that learns from known
photos; text is better where the CLIP knows the labels and worse than nothing where it does not. Which
of the two holds can be seen before any training: by how well the teacher's scores order the photos in
which a label is known. As far as text is trusted, the probe starts from it: the penalty draws its
weights to those of zero-shot matching, which are linear in the image feature, and not to zero. So few
known photos leave it near zero-shot, and many make it a logistic regression.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from trmml.backbone.clip import ImageFeatures
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.probe import summary
from trmml.training import distributed
from trmml.training.batches import AugmentedPhotos, CachedFeatures
from trmml.training.teacher import Teacher

PENALTIES = (30000.0, 10000.0, 3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0)
"""Of the squared weights, from strong to weak; each solution starts from the one before it."""
MOST_ITERATIONS = 60
BATCH_SIZE = 256
MOST_CELLS = 2**25
"""Of photos × labels solved for at a time, to bound memory."""
FULL_TRUST = 0.7
"""Area under the ROC curve from which on a teacher is trusted; at 0.5, that of chance, it is not."""
POSITIVES_AT_HALF = 75
"""Known positives at which the probe has half of a trusted label's logit; a third at twice these."""


class Survey(NamedTuple):
    """What is seen of all training photos in one pass.

    Attributes:
        summaries: What a linear probe sees; see `trmml.matcher.probe.summary`.
        trust: How far the text of each label is to be trusted; see `trust`.
    """

    summaries: Float[Tensor, "image summary"]
    trust: Float[Tensor, " label"]


class Probe(NamedTuple):
    """A logistic regression of each label on the summaries of photos.

    Attributes:
        penalty: Of the squared weights, or of their squared distance from those of the text.
    """

    weight: Float[Tensor, "label summary"]
    bias: Float[Tensor, " label"]
    penalty: float

    def logits(self, summaries: Float[Tensor, "image summary"]) -> Float[Tensor, "image label"]:
        """Return the logits of some photos."""
        return summaries.float() @ self.weight.T + self.bias


def share_of_probe(
    states: Int8[Tensor, "image label"], trusted: Float[Tensor, " label"]
) -> Float[Tensor, " label"]:
    """Return the probe's share in the logit of each label.

    Where the text is trusted, 75 / (75 + known positives): the fewer are known, the more of what was
    learned by steps is noise. Where it is not, up to all. Our choice, from tables of 4 to 1,800 known
    positives a label.
    """
    positives = (states == POSITIVE).sum(dim=0).to(trusted.device)
    return 1 - trusted * positives / (positives + POSITIVES_AT_HALF)


def survey(
    model: TextRegionMatcher,
    features: CachedFeatures | AugmentedPhotos,
    states: Int8[Tensor, "image label"],
    teacher: Teacher,
) -> Survey:
    """See the plain view of all photos once, in the order of their states."""
    summaries, scores = [], []
    for batch in _batches(model, features):
        summaries.append(summary(model.centered(batch)).half())
        scores.append(teacher(batch))
    both = [distributed.gather(torch.cat(part), len(states)) for part in (summaries, scores)]
    # The zero-shot scores of a single label say nothing: they are relative to those of the others.
    trusted = states.new_ones(1, dtype=torch.float32).to(model.device)
    if len(model.labels) > 1:
        trusted = trust(both[1], states.to(model.device))
    return Survey(both[0], trusted)


@torch.no_grad()
def _batches(
    model: TextRegionMatcher, features: CachedFeatures | AugmentedPhotos
) -> Iterator[ImageFeatures]:
    for batch in features.in_order(BATCH_SIZE):
        yield ImageFeatures(*(part.to(model.device) for part in batch))


def cell_weights(
    states: Int8[Tensor, "image label"], assumed_negative: float
) -> Float[Tensor, "image label"]:
    """Return 1 for known states, 0 for unknown ones; a little where a label has no known negative."""
    known = (states != UNKNOWN).float()
    without_negatives = (states == NEGATIVE).sum(dim=0) == 0
    return torch.where(without_negatives & (states == UNKNOWN), assumed_negative, known)


def fit_probe(
    summaries: Float[Tensor, "image summary"],
    states: Int8[Tensor, "image label"],
    val: Float[Tensor, "val_image summary"],
    val_states: Int8[Tensor, "val_image label"],
    *,
    assumed_negative: float,
    text: Float[Tensor, "label dim"] | None = None,
) -> Probe:
    """Fit probes with ever weaker penalties until the cross-entropy on `val` rises; return the best.

    Args:
        summaries: Of the training photos.
        states: Of the same photos; unknown ones do not count.
        val: Summaries of the validation photos.
        val_states: Of these; each label counts the same.
        assumed_negative: Weight of unknown states of labels without a known negative.
        text: Directions of the labels' text for the probes to start from, each as long as it is trusted.
    """
    device = summaries.device
    probes = fit_probes(summaries, states.to(device), assumed_negative, text)
    best = next(probes)
    least = _mean_loss(best, val, val_states.to(device))
    for probe in probes:
        loss = _mean_loss(probe, val, val_states.to(device))
        if loss > least:
            break
        best, least = probe, loss
    return best


def fit_probes(
    summaries: Float[Tensor, "image summary"],
    states: Int8[Tensor, "image label"],
    assumed_negative: float,
    text: Float[Tensor, "label dim"] | None = None,
) -> Iterator[Probe]:
    """Yield a logistic regression per label for each penalty, from strong to weak.

    Minimized is Σ wᵢ · cross-entropy + penalty / 2 · ‖weight − start‖² over standardized features, for
    all labels together, by L-BFGS. Without text the start is 0.

    Args:
        summaries: Of the training photos.
        states: Of the same photos; unknown ones do not count.
        assumed_negative: Weight of unknown states of labels without a known negative.
        text: As in `fit_probe`; `start` is it at the scale that fits the known states best.
    """
    features = summaries.float()
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0) + 1e-6
    features = (features - mean) / deviation
    weights = cell_weights(states, assumed_negative)
    start = text_probe(summaries, states, assumed_negative, text)
    weight, bias = start.weight * deviation, start.bias + start.weight @ mean
    parts = torch.arange(states.shape[1]).split(max(MOST_CELLS // len(states), 1))
    targets = (states == POSITIVE).float()
    solved = [
        _solve(features, targets[:, part], weights[:, part], weight[part], bias[part])
        for part in parts
    ]
    for penalty, *of_parts in zip(PENALTIES, *solved, strict=True):
        scaled = torch.cat([weight for weight, _ in of_parts]) / deviation
        bias = torch.cat([bias for _, bias in of_parts])
        yield Probe(scaled, bias - scaled @ mean, penalty)


def text_probe(
    summaries: Float[Tensor, "image summary"],
    states: Int8[Tensor, "image label"],
    assumed_negative: float,
    text: Float[Tensor, "label dim"] | None = None,
) -> Probe:
    """Return zero-shot matching as a linear map: logit = scale · (image feature · text) + bias.

    The scale is the same for all labels, the bias is the label's own; both are those of the lowest
    cross-entropy on the known states. Without text the logit is that of the label's known frequency.
    """
    targets, weights = (states == POSITIVE).float(), cell_weights(states, assumed_negative)
    positives, cells = (targets * weights).sum(dim=0) + 1, weights.sum(dim=0) + 2
    bias = (positives / (cells - positives)).log()
    weight = summaries.new_zeros(len(bias), summaries.shape[1], dtype=torch.float32)
    if text is None:
        return Probe(weight, bias, float("inf"))
    similarity = summaries[:, : text.shape[1]].float() @ text.T
    scale, bias = similarity.new_zeros((), requires_grad=True), bias.requires_grad_()

    def cost() -> Tensor:
        logits = scale * similarity + bias
        return F.binary_cross_entropy_with_logits(logits, targets, weights)

    _minimize([scale, bias], cost)
    weight[:, : text.shape[1]] = scale.detach().clamp(min=0) * text
    return Probe(weight, bias.detach(), float("inf"))


def _minimize(tensors: list[Tensor], cost: Callable[[], Tensor]) -> None:
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


def _solve(
    features: Float[Tensor, "image summary"],
    targets: Float[Tensor, "image label"],
    weights: Float[Tensor, "image label"],
    start: Float[Tensor, "label summary"],
    bias: Float[Tensor, " label"],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weight and bias of some labels for each penalty."""
    weight, bias = start, bias.clone().requires_grad_()
    for penalty in PENALTIES:
        # In this unit the penalty curves the loss about as much as the photos do, which L-BFGS likes.
        unit = (1 + 4 * penalty / len(features)) ** -0.5
        moved = ((weight - start) / unit).requires_grad_()

        def cost(penalty: float = penalty, unit: float = unit, moved: Tensor = moved) -> Tensor:
            logits = features @ (start + unit * moved).T + bias
            losses = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
            return (losses + penalty / 2 * (unit * moved).square().sum()) / len(features)

        _minimize([moved, bias], cost)
        weight = start + unit * moved.detach()
        yield weight, bias.detach().clone()


def _mean_loss(
    probe: Probe, summaries: Float[Tensor, "image summary"], states: Int8[Tensor, "image label"]
) -> float:
    """Return the cross-entropy on known states, each label counting the same."""
    weights, targets = (states != UNKNOWN).float(), (states == POSITIVE).float()
    losses = F.binary_cross_entropy_with_logits(
        probe.logits(summaries), targets, weights, reduction="none"
    )
    return (losses.sum(dim=0) / weights.sum(dim=0).clamp(min=1)).mean().item()


def trust(
    teacher_scores: Float[Tensor, "image teacher label"], states: Int8[Tensor, "image label"]
) -> Float[Tensor, " label"]:
    """Return how far a teacher is to be trusted of each label, in [0, 1].

    From the area under the ROC curve on the known states (unknown ones stand for negatives where none
    is known): 0 at 0.5, 1 from 0.7 on. Few known states say little, so the area of a label is drawn
    towards the mean of all labels, by its variance (Mann and Whitney) and that between labels.
    """
    areas = torch.stack([_areas(scores, states) for scores in teacher_scores.unbind(dim=1)])
    positives = (states == POSITIVE).sum(dim=0).double()
    negatives = _negatives(states).sum(dim=0).double()
    measured = (positives > 0) & (negatives > 0)
    if not measured.any():
        return torch.ones(states.shape[1], device=states.device)
    area = areas.mean(dim=0)
    variance = (positives + negatives + 1) / (12 * positives * negatives).clamp(min=1)
    mean = (area / variance)[measured].sum() / (1 / variance)[measured].sum()
    between = ((area - mean)[measured].square() - variance[measured]).mean().clamp(min=1e-4)
    drawn = torch.where(measured, (between * area + variance * mean) / (between + variance), mean)
    return ((drawn - 0.5) / (FULL_TRUST - 0.5)).clamp(0, 1).float()


def _negatives(states: Int8[Tensor, "image label"]) -> Tensor:
    without_negatives = (states == NEGATIVE).sum(dim=0) == 0
    return torch.where(without_negatives, states == UNKNOWN, states == NEGATIVE)


def _areas(
    scores: Float[Tensor, "image label"], states: Int8[Tensor, "image label"]
) -> Float[Tensor, " label"]:
    """Return the area under the ROC curve of each label: the share of pairs in the right order."""
    areas, negatives = [], _negatives(states)
    for column, positive, negative in zip(
        scores.double().T, (states == POSITIVE).T, negatives.T, strict=True
    ):
        below, above = column[negative].sort().values, column[positive].contiguous()
        right = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)
        areas.append(right.double().sum() / 2 / max(len(above) * len(below), 1))
    return torch.stack(areas)
