import pytest
import torch
import torch.nn.functional as F
from conftest import untrained

from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.config.groups import FinetuneConfig
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.matching import MatcherOutput
from trmml.matcher.model import TextRegionMatcher
from trmml.training.objective import Objective, StepLoss
from trmml.training.pseudo_labels import START_EPOCH

BATCH, PATCHES = 2, 5
LABELS = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN], [UNKNOWN, UNKNOWN, POSITIVE]]).to(torch.int8)
OFF = {"loss.distillation": 0.0, "loss.contrastive": 0.0, "pseudo_labels.enabled": False}
HAS_NONE = torch.tensor([False, False, True])
"""The third label has no known negative in the training set."""
ALL_HAVE = torch.zeros(3, dtype=torch.bool)


def training_labels(without_negatives: torch.Tensor) -> torch.Tensor:
    """Of six photos: four known positives of every label and, maybe, two known negatives."""
    others = torch.where(without_negatives, UNKNOWN, NEGATIVE).expand(2, 3)
    return torch.cat([torch.full((4, 3), POSITIVE), others]).to(torch.int8)


@pytest.fixture
def model(backbone: FrozenCLIP) -> TextRegionMatcher:
    return untrained(backbone)


def step(
    model: TextRegionMatcher, without_negatives: torch.Tensor, epoch: int = 0, **settings: object
) -> tuple[StepLoss, torch.Tensor]:
    """One loss, and its gradient with respect to the logits."""
    config = FinetuneConfig().changed(OFF | {k.replace("__", "."): v for k, v in settings.items()})
    torch.manual_seed(0)
    features = ImageFeatures(
        torch.randn(BATCH, PATCHES, model.backbone.dim), torch.randn(BATCH, model.backbone.dim)
    )
    text = model.encode_text()
    output = model.match(features, text)
    output.logits.retain_grad()
    objective = Objective(model, config, training_labels(without_negatives))
    objective.begin_epoch(epoch)
    scores = None if objective.teacher is None else objective.teacher(features)
    loss = objective(output, text, LABELS, scores)
    loss.total.backward()
    return loss, output.logits.grad


def test_unknown_labels_have_no_gradient_where_negatives_are_known(
    model: TextRegionMatcher,
) -> None:
    _, gradient = step(model, ALL_HAVE)
    assert torch.equal(gradient != 0, LABELS != UNKNOWN)


def test_without_known_negatives_an_unknown_label_is_a_assumed_negative(
    model: TextRegionMatcher,
) -> None:
    pulls = []
    for weight in (0.0, 0.1, 1.0):
        _, gradient = step(model, HAS_NONE, loss__assumed_negative=weight)
        pulls.append(gradient[0, 2].item())
        # The unknown labels of the labels with known negatives still have none.
        assert not gradient[1, :2].any()
    # Descent lowers a logit whose gradient is positive.
    assert pulls[0] == 0 < pulls[1] < pulls[2]


@pytest.mark.parametrize("has_none", [HAS_NONE, ALL_HAVE])
def test_an_assumed_negative_moves_the_prototype_of_absence(
    model: TextRegionMatcher, has_none: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trmml.training.objective.CONFIDENCE", 0.0)
    config = FinetuneConfig()
    features = ImageFeatures(
        torch.randn(BATCH, PATCHES, model.backbone.dim), torch.randn(BATCH, model.backbone.dim)
    )
    text = model.encode_text()
    output = model.match(features, text)
    assert model.absent is not None
    before = model.absent.prototypes.visual.clone()
    Objective(model, config, training_labels(has_none)).update_prototypes(output, text, LABELS)
    moved = (model.absent.prototypes.visual != before).any(dim=-1)
    # The first label never has a negative label; the second has a known one.
    assert moved.tolist() == [False, True, bool(has_none[2])]


def test_without_its_parts_the_loss_is_the_classification_of_the_known_labels(
    model: TextRegionMatcher,
) -> None:
    loss, _ = step(model, HAS_NONE, epoch=99)
    assert set(loss.parts) == {"classification"}
    assert torch.equal(loss.estimated, LABELS)


def test_half_of_distillation_is_by_the_photo_and_half_by_its_patches(
    model: TextRegionMatcher,
) -> None:
    config = FinetuneConfig().changed(OFF | {"loss.distillation": 0.5, "loss.few_labels": 0})
    objective = Objective(model, config, training_labels(ALL_HAVE))
    unknown = torch.full((4, 3), UNKNOWN, dtype=torch.int8)
    logits, text = torch.randn(4, 3), model.encode_text()

    def distillation(whole: torch.Tensor, patches: torch.Tensor) -> float:
        output = MatcherOutput(logits, torch.randn(4, 3, model.backbone.dim))
        scores = torch.stack([whole, patches], dim=1)
        return objective(output, text, unknown, scores).parts["distillation"]

    assert distillation(3 * logits + 1, 9 * logits) == pytest.approx(0, abs=1e-6)
    # The opposite of a right answer costs 2.
    assert distillation(logits, -logits) == pytest.approx(0.5 * 2 / 2)
    assert distillation(-logits, logits) == pytest.approx(0.5 * 2 / 2)


@pytest.mark.parametrize(("few_labels", "extra"), [(0, 0), (6, 0), (9, 0.5), (60, 9), (999, 30)])
def test_the_teacher_says_more_where_few_labels_are_known(
    model: TextRegionMatcher, few_labels: int, extra: float
) -> None:
    config = FinetuneConfig().changed(
        OFF | {"loss.distillation": 1.0, "loss.few_labels": few_labels}
    )
    objective = Objective(model, config, training_labels(ALL_HAVE))  # six are known of each
    logits, text = torch.randn(4, 3), model.encode_text()
    output = MatcherOutput(logits, torch.randn(4, 3, model.backbone.dim))
    scores = -logits[:, None].expand(-1, 2, -1)
    for state, weight in ((UNKNOWN, 1 + extra), (POSITIVE, extra)):
        states = torch.full((4, 3), state, dtype=torch.int8)
        found = objective(output, text, states, scores).parts["distillation"]
        assert found == pytest.approx(2 * weight, rel=1e-5)


def test_where_no_negative_is_known_all_labels_count(model: TextRegionMatcher) -> None:
    config = FinetuneConfig().changed(OFF | {"loss.distillation": 1.0, "loss.few_labels": 5})
    objective = Objective(model, config, training_labels(HAS_NONE))
    # Of six photos: six known labels, six, and four with two assumed to be negative.
    assert objective.teacher_boost.tolist() == [0, 0, 0]


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
    settings = {
        "pseudo_labels__enabled": True,
        "pseudo_labels__weight": 0.5,
        "pseudo_labels__positive_threshold": 1.0,
        "pseudo_labels__negative_threshold": 0.999999,
    }
    early, _ = step(model, ALL_HAVE, epoch=START_EPOCH - 1, **settings)
    assert torch.equal(early.estimated, LABELS)
    late, gradient = step(model, ALL_HAVE, epoch=START_EPOCH, **settings)
    known = LABELS != UNKNOWN
    assert torch.equal(late.estimated[known], LABELS[known])
    decided = late.estimated != UNKNOWN
    assert decided.sum() > known.sum()
    assert torch.equal(gradient != 0, decided)
    torch.manual_seed(0)
    inputs = ImageFeatures(
        torch.randn(BATCH, PATCHES, model.backbone.dim), torch.randn(BATCH, model.backbone.dim)
    )
    logits = model.match(inputs, model.encode_text()).logits
    cost = F.binary_cross_entropy_with_logits(logits, late.estimated.float(), reduction="none")
    # Each weighs half of a known one, and takes nothing from those.
    plain = (cost[known].sum() + 0.5 * cost[decided & ~known].sum()) / known.sum()
    torch.testing.assert_close(late.total, plain)


def test_where_no_negative_is_known_nothing_is_estimated(model: TextRegionMatcher) -> None:
    model.logit_bias.data.copy_(torch.tensor([9.0, -9.0, 9.0]))
    settings = {
        "pseudo_labels__enabled": True,
        "pseudo_labels__relations": "intra",
        "pseudo_labels__positive_budget": 9.0,
    }
    loss, gradient = step(model, HAS_NONE, epoch=START_EPOCH, **settings)
    unknown = LABELS == UNKNOWN
    assert torch.equal(loss.estimated == UNKNOWN, unknown & HAS_NONE)
    # They stay the weak negatives that they were.
    assert (gradient[unknown & HAS_NONE] > 0).all()


def test_the_known_labels_limit_how_many_positives_are_estimated(model: TextRegionMatcher) -> None:
    model.logit_bias.data.fill_(30.0)
    settings = {
        "pseudo_labels__enabled": True,
        "pseudo_labels__relations": "intra",
    }
    # Four positives and two negatives are known, so of one unknown label (4 + 1) / (6 + 2) is expected.
    for budget, expected in ((1.0, 0), (8 / 5, 1)):
        loss, _ = step(
            model, ALL_HAVE, epoch=START_EPOCH, pseudo_labels__positive_budget=budget, **settings
        )
        estimated = (LABELS == UNKNOWN) & (loss.estimated == POSITIVE)
        assert estimated.sum(dim=0).tolist() == [expected] * 3
