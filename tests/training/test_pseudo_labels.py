import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from trmml.config.groups import PseudoLabelConfig
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.prototypes import Prototypes
from trmml.training.pseudo_labels import (
    NEAREST_LABELS,
    PositiveBudget,
    presence_probability,
    pseudo_labels,
)

BATCH, CATEGORIES, DIM = 2, 5, 7
UNLIMITED = torch.full((CATEGORIES,), float("inf"))
ALONE = PseudoLabelConfig(relations="intra")
"""What a label's own prototypes say, without a look at the others."""
SCALE, BIAS = torch.tensor(10.0), torch.linspace(-1, 1, CATEGORIES)


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def random_prototypes() -> Prototypes:
    prototypes = Prototypes(unit(CATEGORIES, DIM))
    prototypes.replace_visual(unit(CATEGORIES, DIM))
    return prototypes


def plainly(
    regions: torch.Tensor, present: Prototypes, absent: Prototypes | None, config: PseudoLabelConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in plain loops."""
    kinds = config.modalities.split("+")
    probability = torch.zeros(BATCH, CATEGORIES)
    allowed = torch.ones(BATCH, CATEGORIES).bool()
    for b in range(BATCH):
        for c in range(CATEGORIES):
            margins, shares = [], []
            for kind in kinds:
                table = getattr(present, kind)
                cosines = [float(regions[b, c] @ table[j]) for j in range(CATEGORIES)]
                rank = sum(cosine > cosines[c] for cosine in cosines)
                allowed[b, c] &= rank < NEAREST_LABELS or "inter" not in config.relations
                shares.append((cosines[c] - max(cosines)) / 0.01)
                against = 0.0 if absent is None else float(regions[b, c] @ getattr(absent, kind)[c])
                margins.append(cosines[c] - against)
            if "intra" in config.relations:
                logit = float(SCALE) * sum(margins) / len(margins) + float(BIAS[c])
                probability[b, c] = 1 / (1 + math.exp(-logit))
            else:
                probability[b, c] = math.exp(sum(shares) / len(shares))
    return probability, allowed


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"modalities": "text"},
        {"modalities": "visual"},
        {"relations": "intra"},
        {"relations": "inter"},
    ],
)
@pytest.mark.parametrize("with_absence", [True, False])
@pytest.mark.parametrize("at_a_time", [2**24, 3 * CATEGORIES])
def test_the_estimate_equals_its_definition(
    change: dict, with_absence: bool, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trmml.training.pseudo_labels.MOST_SIMILARITIES", at_a_time)
    config = replace(PseudoLabelConfig(), **change)
    regions, present = unit(BATCH, CATEGORIES, DIM), random_prototypes()
    absent = random_prototypes() if with_absence else None
    probability = presence_probability(regions, present, absent, SCALE, BIAS, config)
    expected, possible = plainly(regions, present, absent, config)
    torch.testing.assert_close(probability, expected, rtol=1e-4, atol=1e-6)
    # With thresholds out of the way, every possible label becomes positive.
    config = replace(config, positive_threshold=1e-9, negative_threshold=0.0)
    unknown = torch.full((BATCH, CATEGORIES), UNKNOWN, dtype=torch.int8)
    budget = PositiveBudget(UNLIMITED)
    found = pseudo_labels(unknown, probability, regions, present, budget, config)
    assert torch.equal(found == POSITIVE, possible & (probability >= 1e-9))


def test_pseudo_labels_equal_a_plain_loop_and_never_overwrite() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (31, CATEGORIES)
    states = torch.randint(-1, 2, shape, generator=generator, dtype=torch.int8)
    probability = torch.rand(shape, generator=generator)
    config = replace(ALONE, positive_threshold=0.7, negative_threshold=0.2)
    expected = states.clone()
    for b in range(shape[0]):
        for c in range(CATEGORIES):
            if states[b, c] == UNKNOWN and probability[b, c] >= 0.7:
                expected[b, c] = POSITIVE
            elif states[b, c] == UNKNOWN and probability[b, c] <= 0.2:
                expected[b, c] = NEGATIVE
    found = pseudo_labels(
        states, probability, unit(31, CATEGORIES, DIM), random_prototypes(),
        PositiveBudget(UNLIMITED), config
    )  # fmt: skip
    assert torch.equal(found, expected)


def test_no_more_cosines_are_held_at_a_time_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten photos and 1,000 labels have ten million cosines of regions with prototypes."""
    photos, many, allowed = 10, 1_000, 2**20
    monkeypatch.setattr("trmml.training.pseudo_labels.MOST_SIMILARITIES", allowed)
    config = replace(PseudoLabelConfig(), positive_threshold=0.3)
    prototypes, regions, zeros = (
        Prototypes(unit(many, DIM)),
        unit(photos, many, DIM),
        torch.zeros(many),
    )
    unknown = torch.full((photos, many), UNKNOWN, dtype=torch.int8)
    with torch.profiler.profile(profile_memory=True) as profile:
        probability = presence_probability(regions, prototypes, None, SCALE, zeros, config)
        budget = PositiveBudget(zeros)
        pseudo_labels(unknown, probability, regions, prototypes, budget, config)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert (probability >= 0.3).sum() * many > 5 * allowed
    assert largest <= 3 * 4 * allowed  # an operation and what it calls count together


def test_no_more_positives_are_estimated_than_the_budget_allows() -> None:
    """Against a plain loop over three batches; what one of them leaves, the next ones may spend."""
    generator = torch.Generator().manual_seed(0)
    per_unknown = torch.tensor([0.0, 0.02, 0.1, 0.5, 1.0])
    config = replace(ALONE, negative_threshold=0.1)
    budget, left = PositiveBudget(per_unknown), per_unknown.double() * 0
    total, wanted_of = torch.zeros(CATEGORIES), torch.zeros(CATEGORIES)
    for threshold in (0.95, 0.3, 0.6):
        config = replace(config, positive_threshold=threshold)
        states = torch.randint(-1, 2, (31, CATEGORIES), generator=generator, dtype=torch.int8)
        probability = torch.rand(31, CATEGORIES, generator=generator)
        regions = unit(31, CATEGORIES, DIM)
        found = pseudo_labels(states, probability, regions, random_prototypes(), budget, config)
        for c in range(CATEGORIES):
            left[c] += float(per_unknown[c]) * int((states[:, c] == UNKNOWN).sum())
            wanted = [
                b
                for b in sorted(range(31), key=lambda b: -probability[b, c])
                if states[b, c] == UNKNOWN and probability[b, c] >= threshold
            ]
            spent = wanted[: int(left[c] + 1e-4)]
            left[c] -= len(spent)
            estimated = (states[:, c] == UNKNOWN) & (found[:, c] == POSITIVE)
            assert estimated.nonzero().flatten().tolist() == sorted(spent)
            total[c] += len(spent)
            wanted_of[c] += len(wanted)
    # Neither end is the rule: one label has none, one has all, one has some of those it wants.
    assert total[0] == 0 < total[2] < wanted_of[2]
    assert total[4] == wanted_of[4]


def test_estimates_have_no_gradient() -> None:
    regions = unit(BATCH, CATEGORIES, DIM).requires_grad_()
    probability = presence_probability(
        regions, random_prototypes(), None, SCALE, BIAS, PseudoLabelConfig()
    )
    assert not probability.requires_grad
