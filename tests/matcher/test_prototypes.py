import torch
import torch.nn.functional as F

from trmml.matcher.prototypes import Prototypes

BATCH, CATEGORIES, DIM = 5, 3, 7
MOMENTUM = 0.9


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def test_visual_prototypes_move_by_the_momentum_towards_the_mean_of_the_chosen_regions() -> None:
    text, regions = unit(CATEGORIES, DIM), unit(BATCH, CATEGORIES, DIM)
    prototypes = Prototypes(text)
    chosen = torch.tensor([[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]).bool()
    prototypes.update(regions, chosen, text, MOMENTUM)
    mean = F.normalize(regions[:2, 0].mean(dim=0), dim=0)
    expected = F.normalize(MOMENTUM * text[0] + (1 - MOMENTUM) * mean, dim=0)
    torch.testing.assert_close(prototypes.visual[0], expected)
    assert torch.equal(prototypes.visual[1], text[1])
    single = F.normalize(MOMENTUM * text[2] + (1 - MOMENTUM) * regions[1, 2], dim=0)
    torch.testing.assert_close(prototypes.visual[2], single)


def test_a_category_seen_twice_moves_once() -> None:
    text, region = unit(CATEGORIES, DIM), unit(1, CATEGORIES, DIM)
    once, twice = Prototypes(text), Prototypes(text)
    once.update(region, torch.ones(1, CATEGORIES).bool(), text, MOMENTUM)
    twice.update(region.repeat(2, 1, 1), torch.ones(2, CATEGORIES).bool(), text, MOMENTUM)
    torch.testing.assert_close(once.visual, twice.visual)


def test_text_prototypes_follow_the_text() -> None:
    prototypes, text = Prototypes(unit(CATEGORIES, DIM)), unit(CATEGORIES, DIM)
    nothing = torch.zeros(BATCH, CATEGORIES).bool()
    prototypes.update(unit(BATCH, CATEGORIES, DIM), nothing, text, MOMENTUM)
    assert torch.equal(prototypes.text, text)


def test_prototypes_keep_unit_length() -> None:
    prototypes = Prototypes(unit(CATEGORIES, DIM))
    for _ in range(20):
        chosen = torch.rand(BATCH, CATEGORIES) < 0.5
        prototypes.update(unit(BATCH, CATEGORIES, DIM), chosen, unit(CATEGORIES, DIM), MOMENTUM)
    torch.testing.assert_close(prototypes.visual.norm(dim=1), torch.ones(CATEGORIES))


def test_replacing_keeps_what_has_no_example() -> None:
    start, sums = unit(CATEGORIES, DIM), 5 * torch.randn(CATEGORIES, DIM)
    sums[1] = 0
    prototypes = Prototypes(start)
    prototypes.replace_visual(sums)
    torch.testing.assert_close(prototypes.visual[0], F.normalize(sums[0], dim=0))
    assert torch.equal(prototypes.visual[1], start[1])


def test_prototypes_have_no_gradient() -> None:
    text = unit(CATEGORIES, DIM).requires_grad_()
    prototypes = Prototypes(text)
    prototypes.update(unit(BATCH, CATEGORIES, DIM), torch.ones(BATCH, CATEGORIES).bool(), text, 0.5)
    assert not any(
        tensor.requires_grad for tensor in prototypes.state_dict(keep_vars=True).values()
    )
