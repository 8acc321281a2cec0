"""What is seen of all training photos before any step, and how far the labels' text is to be trusted.

Our choice. Text is better than known photos where the CLIP knows the labels, and worse than nothing
where it does not. Which of the two holds can be seen before any training: by how well zero-shot
matching orders the photos in which a label is known. The same is asked of the teacher.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from trmml.backbone.clip import ImageFeatures
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.probe import ProbeInputs, probe_inputs
from trmml.training import distributed
from trmml.training.batches import AugmentedPhotos, CachedFeatures
from trmml.training.teacher import Teacher

BATCH_SIZE = 256
NO_TRUST, FULL_TRUST = 0.6, 0.7
"""Areas under the ROC curve up to which a teacher is not trusted, and from which on it is. Random
directions of made-up names reach 0.6 for some labels."""


class Survey(NamedTuple):
    """What one pass over all training photos gives.

    Attributes:
        inputs: Of the probe.
        text_trust: How far zero-shot matching is to be trusted for each label; see `trust`.
        teacher_trust: The same of the teacher, which for labels learned before is another.
    """

    inputs: ProbeInputs
    text_trust: Float[Tensor, " label"]
    teacher_trust: Float[Tensor, " label"]


def survey(
    model: TextRegionMatcher,
    features: CachedFeatures | AugmentedPhotos,
    states: Int8[Tensor, "image label"],
    teacher: Teacher,
) -> Survey:
    """See the plain view of all photos once, in the order of their states."""
    rows: list[tuple[Tensor, ...]] = []
    text = model.zero_shot_text()
    for batch in _batches(model, features):
        rows.append((*probe_inputs(model.centered(batch), text), teacher(batch)))
    summaries, similarity, scores = (
        distributed.gather(torch.cat(part), len(states)) for part in zip(*rows, strict=True)
    )
    inputs, states = ProbeInputs(summaries, similarity), states.to(model.device)
    return Survey(inputs, trust(similarity, states), trust(scores, states))


@torch.no_grad()
def _batches(
    model: TextRegionMatcher, features: CachedFeatures | AugmentedPhotos
) -> Iterator[ImageFeatures]:
    for batch in features.in_order(BATCH_SIZE):
        yield ImageFeatures(*(part.to(model.device) for part in batch))


def trust(
    scores: Float[Tensor, "image teacher label"], states: Int8[Tensor, "image label"]
) -> Float[Tensor, " label"]:
    """Return how far scores of one or several teachers are to be trusted of each label, in [0, 1].

    From the area under the ROC curve on the known states (unknown ones stand for negatives where none
    is known): 0 up to 0.6, 1 from 0.7 on. Few known states say little, so the area of a label is drawn
    towards the mean of all labels, by its variance (Mann and Whitney) and that between labels.
    """
    areas = torch.stack([_areas(of_one, states) for of_one in scores.unbind(dim=1)])
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
    return ((drawn - NO_TRUST) / (FULL_TRUST - NO_TRUST)).clamp(0, 1).float()


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
