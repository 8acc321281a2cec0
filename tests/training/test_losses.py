import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.training.losses import asymmetric_loss, contrastive_loss, distillation_loss

BATCH, CATEGORIES, DIM = 5, 3, 7
AUTHORS = {"gamma_positive": 1.0, "gamma_negative": 2.0, "clip": 0.05}
"""Of the same first author's public code for partial labels."""


def random_labels(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (BATCH, CATEGORIES), generator=generator, dtype=torch.int8)


def test_without_focus_and_clip_it_is_binary_cross_entropy_of_the_known_labels() -> None:
    logits, states = torch.randn(BATCH, CATEGORIES), random_labels(0)
    known = states != UNKNOWN
    loss = asymmetric_loss(logits, states, gamma_positive=0, gamma_negative=0, clip=0)
    expected = F.binary_cross_entropy_with_logits(logits[known], states[known].float())
    torch.testing.assert_close(loss, expected)


def test_asymmetric_loss_by_its_formula() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0]])
    states = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN]], dtype=torch.int8)
    p, q = torch.sigmoid(torch.tensor(0.3)), torch.sigmoid(torch.tensor(-1.2)) - 0.05
    expected = (-(1 - p) * p.log() - q**2 * (1 - q).log()) / 2
    torch.testing.assert_close(asymmetric_loss(logits, states, **AUTHORS), expected)


def test_unknown_labels_do_not_touch_the_loss() -> None:
    logits = torch.randn(2, CATEGORIES, requires_grad=True)
    states = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN], [UNKNOWN] * 3], dtype=torch.int8)
    asymmetric_loss(logits, states, **AUTHORS).backward()
    assert torch.equal(logits.grad != 0, states != UNKNOWN)


def test_a_batch_of_unknown_labels_costs_nothing() -> None:
    logits = torch.randn(BATCH, CATEGORIES, requires_grad=True)
    loss = asymmetric_loss(
        logits, torch.full((BATCH, CATEGORIES), UNKNOWN, dtype=torch.int8), **AUTHORS
    )
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_the_scale_does_not_depend_on_how_many_labels_are_known() -> None:
    logits, states = torch.randn(BATCH, CATEGORIES), random_labels(1)
    twice = torch.cat([states, torch.full_like(states, UNKNOWN)])
    torch.testing.assert_close(
        asymmetric_loss(logits, states, **AUTHORS),
        asymmetric_loss(logits.repeat(2, 1), twice, **AUTHORS),
    )


def test_weights_average() -> None:
    logits, states = torch.randn(BATCH, CATEGORIES), random_labels(2).abs()
    weights = torch.rand(BATCH, CATEGORIES)
    single = torch.stack(
        [
            asymmetric_loss(logits[b : b + 1, c : c + 1], states[b : b + 1, c : c + 1], **AUTHORS)
            for b in range(BATCH)
            for c in range(CATEGORIES)
        ]
    )
    expected = (single * weights.flatten()).sum() / weights.sum()
    torch.testing.assert_close(
        asymmetric_loss(logits, states, weights=weights, **AUTHORS), expected
    )


@pytest.mark.parametrize("size", [40.0, 200.0])
def test_extreme_logits_stay_finite(size: float) -> None:
    logits = torch.tensor([[size, -size, size, -size]], requires_grad=True)
    states = torch.tensor([[POSITIVE, POSITIVE, NEGATIVE, NEGATIVE]], dtype=torch.int8)
    loss = asymmetric_loss(logits, states, **AUTHORS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


ALL_ALIKE = torch.ones(BATCH, CATEGORIES)


def test_distillation_is_one_minus_the_mean_weighted_correlation() -> None:
    student, teacher = torch.randn(BATCH, CATEGORIES), torch.randn(BATCH, CATEGORIES)
    weights = 2 * torch.rand(BATCH, CATEGORIES)
    weights[0, 0] = weights[1, 2] = 0
    correlations = []
    for both, w in zip(torch.stack([student, teacher]).unbind(-1), weights.unbind(-1), strict=True):
        covariance = np.cov(both.numpy(), aweights=w.numpy())
        correlations.append(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    expected = np.mean((1 - np.array(correlations)) * weights.numpy().mean(axis=0))
    assert distillation_loss(student, teacher, weights).item() == pytest.approx(expected, abs=1e-6)


def test_distillation_does_not_see_scale_and_offset_of_a_category() -> None:
    teacher = torch.randn(BATCH, CATEGORIES)
    student = (torch.rand(CATEGORIES) + 0.1) * teacher + torch.randn(CATEGORIES)
    for scores, expected in ((student, 0), (-student, 2)):
        loss = distillation_loss(scores, teacher, ALL_ALIKE)
        assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_the_teacher_says_nothing_where_it_has_no_weight() -> None:
    logits = torch.randn(BATCH, CATEGORIES, requires_grad=True)
    weights = ALL_ALIKE.clone()
    weights[1] = 0
    distillation_loss(logits, torch.randn(BATCH, CATEGORIES), weights).backward()
    assert torch.equal(logits.grad != 0, weights > 0)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_single_photo_teaches_nothing_and_neither_does_none(weight: float) -> None:
    logits = torch.randn(1, CATEGORIES, requires_grad=True)
    weights = torch.full((1, CATEGORIES), weight)
    distillation_loss(logits, torch.randn(1, CATEGORIES), weights).backward()
    assert not logits.grad.any()


def plain_contrast(
    regions: torch.Tensor, present: torch.Tensor, text: torch.Tensor, visual: torch.Tensor
) -> torch.Tensor:
    """The two terms in plain loops over a list of (vector, label)."""
    shown = [(regions[b, c], c) for b, c in present.nonzero().tolist()]
    keys = [*shown, *((v, c) for c, v in enumerate(visual)), *((t, c) for c, t in enumerate(text))]
    terms = []
    for i, (anchor, label) in enumerate(shown):
        others = [key for j, key in enumerate(keys) if j != i]
        total = sum(torch.exp(anchor @ key / 0.07) for key, _ in others)
        same = [torch.log(torch.exp(anchor @ k / 0.07) / total) for k, c in others if c == label]
        terms.append(-sum(same) / len(same))
    from_regions = sum(terms) / len(terms)
    terms, keys = [], keys[: -len(text)]
    for label in sorted({c for _, c in shown}):
        anchor = text[label]
        total = sum(torch.exp(anchor @ key / 0.07) for key, _ in keys)
        same = [torch.log(torch.exp(anchor @ k / 0.07) / total) for k, c in keys if c == label]
        terms.append(-sum(same) / len(same))
    return from_regions + sum(terms) / len(terms)


def test_contrast_equals_plain_loops() -> None:
    regions = F.normalize(torch.randn(BATCH, CATEGORIES, DIM), dim=-1)
    text = F.normalize(torch.randn(CATEGORIES, DIM), dim=-1)
    visual = F.normalize(torch.randn(CATEGORIES, DIM), dim=-1)
    present = torch.tensor([[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]]).bool()
    torch.testing.assert_close(
        contrastive_loss(regions, present, text, visual),
        plain_contrast(regions, present, text, visual),
    )


def test_nothing_present_gives_no_contrast_and_no_gradient() -> None:
    regions = torch.randn(BATCH, CATEGORIES, DIM, requires_grad=True)
    blank = torch.zeros(CATEGORIES, DIM)
    nothing = torch.zeros(BATCH, CATEGORIES, dtype=torch.bool)
    loss = contrastive_loss(regions, nothing, blank, blank)
    loss.backward()
    assert loss.item() == 0
    assert not regions.grad.any()


def test_contrast_uses_at_most_so_many_regions() -> None:
    regions = F.normalize(torch.randn(BATCH, CATEGORIES, DIM), dim=-1)
    text = F.normalize(torch.randn(CATEGORIES, DIM), dim=-1)
    present = torch.ones(BATCH, CATEGORIES, dtype=torch.bool)
    few = torch.zeros_like(present)
    few[:2] = True
    torch.testing.assert_close(
        contrastive_loss(regions, present, text, text, max_regions=2 * CATEGORIES),
        contrastive_loss(regions, few, text, text),
    )
