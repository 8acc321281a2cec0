import math

import pytest
import torch

from trmml.backbone import FrozenCLIP, ImageFeatures
from trmml.config import FinetuneConfig, MatchingConfig
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.losses import asymmetric_loss
from trmml.model import TextRegionMatcher
from trmml.objective import Objective, StepLoss
from trmml.zoo import make_config

BATCH, PATCHES = 2, 5
LABELS = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN], [UNKNOWN, UNKNOWN, POSITIVE]]).to(torch.int8)
HAS_NONE = torch.tensor([False, False, True])


@pytest.fixture
def model(backbone: FrozenCLIP) -> TextRegionMatcher:
    config = make_config(backbone, ("a", "b", "c"), MatchingConfig(num_heads=2))
    model = TextRegionMatcher(config, backbone)
    model.start_from_text()
    return model


def step(
    model: TextRegionMatcher, without_negatives: torch.Tensor, epoch: int = 0, **settings: object
) -> tuple[StepLoss, torch.Tensor]:
    """One loss, and its gradient with respect to the logits."""
    config = FinetuneConfig().changed({k.replace("__", "."): v for k, v in settings.items()})
    torch.manual_seed(0)
    features = ImageFeatures(
        torch.randn(BATCH, PATCHES, model.backbone.dim), torch.randn(BATCH, model.backbone.dim)
    )
    text = model.encode_text()
    output = model.match(features, text)
    output.logits.retain_grad()
    loss = Objective(model, config, without_negatives)(
        features.image_features, output, text, LABELS, epoch
    )
    loss.total.backward()
    return loss, output.logits.grad


def test_unknown_labels_have_no_gradient_where_negatives_are_known(
    model: TextRegionMatcher,
) -> None:
    _, gradient = step(model, torch.zeros(3, dtype=torch.bool))
    assert torch.equal(gradient != 0, LABELS != UNKNOWN)


def test_without_known_negatives_an_unknown_label_is_a_weak_negative(
    model: TextRegionMatcher,
) -> None:
    pulls = []
    for weight in (0.0, 0.1, 1.0):
        _, gradient = step(model, HAS_NONE, loss__weak_negative=weight)
        pulls.append(gradient[0, 2].item())
        # The unknown labels of the categories with known negatives still have none.
        assert not gradient[1, :2].any()
    # Descent lowers a logit whose gradient is positive.
    assert pulls[0] == 0 < pulls[1] < pulls[2]


@pytest.mark.parametrize("has_none", [HAS_NONE, torch.zeros(3, dtype=torch.bool)])
def test_an_assumed_negative_moves_the_prototype_of_absence(
    model: TextRegionMatcher, has_none: torch.Tensor
) -> None:
    config = FinetuneConfig().changed({"pseudo_labels.confidence": 0.0})
    features = ImageFeatures(
        torch.randn(BATCH, PATCHES, model.backbone.dim), torch.randn(BATCH, model.backbone.dim)
    )
    text = model.encode_text()
    output = model.match(features, text)
    assert model.negative_prototypes is not None
    before = model.negative_prototypes.visual.clone()
    Objective(model, config, has_none).update_prototypes(output, text, LABELS)
    moved = (model.negative_prototypes.visual != before).any(dim=-1)
    # The first category never has a negative label; the second has a known one.
    assert moved.tolist() == [False, True, bool(has_none[2])]


def test_all_parts_are_off_but_the_classification_by_default(model: TextRegionMatcher) -> None:
    loss, _ = step(model, HAS_NONE, epoch=99)
    assert set(loss.parts) == {"classification"}
    assert torch.equal(loss.estimated, LABELS)


def test_the_total_is_the_sum_of_its_weighted_parts(model: TextRegionMatcher) -> None:
    settings = {"loss__distillation": 0.5, "loss__contrastive": 0.25}
    loss, _ = step(model, HAS_NONE, **settings)
    twice, _ = step(model, HAS_NONE, loss__distillation=1.0, loss__contrastive=0.5)
    assert set(loss.parts) == {"classification", "distillation", "contrastive"}
    assert loss.total.item() == pytest.approx(sum(loss.parts.values()))
    for part in ("distillation", "contrastive"):
        assert twice.parts[part] == pytest.approx(2 * loss.parts[part], rel=1e-5)


def test_pseudo_labels_wait_for_their_epoch_and_weigh_what_they_are_told(
    model: TextRegionMatcher,
) -> None:
    none = torch.zeros(3, dtype=torch.bool)
    settings = {
        "pseudo_labels__enabled": True,
        "pseudo_labels__start_epoch": 3,
        "pseudo_labels__weight": 0.5,
        "pseudo_labels__positive_threshold": 1.0,
        "pseudo_labels__negative_threshold": 0.999999,
    }
    early, _ = step(model, none, epoch=2, **settings)
    assert torch.equal(early.estimated, LABELS)
    late, gradient = step(model, none, epoch=3, **settings)
    known = LABELS != UNKNOWN
    assert torch.equal(late.estimated[known], LABELS[known])
    decided = late.estimated != UNKNOWN
    assert decided.sum() > known.sum()
    assert torch.equal(gradient != 0, decided)
    weights = torch.where(known, 1.0, 0.5)
    torch.manual_seed(0)
    inputs = ImageFeatures(
        torch.randn(BATCH, PATCHES, model.backbone.dim), torch.randn(BATCH, model.backbone.dim)
    )
    logits = model.match(inputs, model.encode_text()).logits
    plain = asymmetric_loss(
        logits, late.estimated, gamma_positive=0, gamma_negative=0, clip=0, weights=weights
    )
    torch.testing.assert_close(late.total, plain)


def test_pseudo_labels_take_back_the_odds_that_weak_negatives_teach(
    model: TextRegionMatcher,
) -> None:
    settings = {
        "pseudo_labels__enabled": True,
        "pseudo_labels__start_epoch": 0,
        "pseudo_labels__inter_category": False,
        "pseudo_labels__negative_threshold": 0.0,
        "loss__weak_negative": 0.1,
    }
    every = torch.ones(3, dtype=torch.bool)

    def is_decided(has_negatives: bool, probability: float) -> bool:
        model.prototypes.start(torch.zeros(3, model.backbone.dim))
        assert model.negative_prototypes is not None
        model.negative_prototypes.start(torch.zeros(3, model.backbone.dim))
        model.logit_bias.data.fill_(math.log(probability / (1 - probability)))
        known = ~every if has_negatives else every
        loss, _ = step(model, known, pseudo_labels__positive_threshold=0.5, **settings)
        return bool((loss.estimated[LABELS == UNKNOWN] == POSITIVE).all())

    # 10/11 are odds of ten: what a weak negative's tenth makes of even odds.
    assert is_decided(True, 0.6)
    assert not is_decided(False, 0.9)
    assert is_decided(False, 0.92)
