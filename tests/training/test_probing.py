"""Zero-shot and the linear map that corrects it, and how far the text is trusted."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import untrained
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import trmml
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.matching import CenteredFeatures, scores_of
from trmml.matcher.probe import FeatureProbe, ProbeInputs, probe_inputs, summary
from trmml.training import logistic, probing
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.training.fitted_text import fit_zero_shot
from trmml.training.probing import (
    PENALTIES,
    USUAL_PENALTY,
    LinearMap,
    fit_linear,
    fit_linear_maps,
    share_of_probe,
)
from trmml.training.survey import survey, trust
from trmml.training.teacher import Teacher

LABEL_NAMES = ("red", "green", "blue")
PHOTOS, LABELS, PATCHES, DIM = 211, 3, 5, 7
QUICK = {"training.epochs": 1, "matching.num_context_tokens": 2, "matching.num_heads": 2}
Maker = Callable[..., MultiLabelDataset]


@pytest.fixture
def features() -> CenteredFeatures:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(PHOTOS, PATCHES, DIM, generator=generator)
    return CenteredFeatures(patches, torch.randn(PHOTOS, DIM, generator=generator))


@pytest.fixture
def states(features: CenteredFeatures) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(PHOTOS, LABELS, generator=generator)
    states = (features.image[:, :LABELS] + noise > 0).to(torch.int8)
    return states.masked_fill(torch.rand(PHOTOS, LABELS, generator=generator) < 0.4, UNKNOWN)


def test_the_summary_is_the_image_feature_and_mean_and_maximum_of_the_patches() -> None:
    patches = torch.tensor([[[1.0, -2.0], [3.0, -4.0]]])
    image = torch.tensor([[0.6, 0.8]])
    seen = summary(CenteredFeatures(patches, image))
    torch.testing.assert_close(seen, torch.tensor([[0.6, 0.8, 2.0, -3.0, 3.0, -2.0]]))


class Maps(NamedTuple):
    """What `mix_in` takes beside the share."""

    image_text: torch.Tensor
    patch_text: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def random(cls) -> "Maps":
        shapes = ((LABELS, DIM), (LABELS, DIM), (LABELS, 3 * DIM), (LABELS,))
        return cls(*map(torch.randn, shapes))


def probed(features: CenteredFeatures, maps: Maps) -> torch.Tensor:
    """The logits of a probe without MLP; of five patches the best one speaks for a label."""
    cosines = F.normalize(features.patches, dim=-1) @ maps.patch_text.T
    zero_shot = features.image @ maps.image_text.T + cosines.amax(dim=1)
    return zero_shot + summary(features) @ maps.weight.T + maps.bias


def test_the_share_moves_each_logit_from_the_matching_to_the_probe(
    features: CenteredFeatures,
) -> None:
    probe = FeatureProbe(LABELS, DIM, mlp=False)
    matched = torch.randn(PHOTOS, LABELS)
    torch.testing.assert_close(probe(matched, features), matched)
    maps = Maps.random()
    probe.mix_in(*maps, share=torch.tensor([0.0, 0.25, 1.0]))
    expected, mixed = probed(features, maps), probe(matched, features)
    torch.testing.assert_close(mixed[:, 0], matched[:, 0])
    torch.testing.assert_close(mixed[:, 1], 0.75 * matched[:, 1] + 0.25 * expected[:, 1])
    torch.testing.assert_close(mixed[:, 2], expected[:, 2])


def test_the_mlp_takes_a_share_of_the_linear_map_and_none_of_zero_shot(
    features: CenteredFeatures,
) -> None:
    probe, maps = FeatureProbe(LABELS, DIM, mlp=True), Maps.random()
    probe.mix_in(*maps, share=torch.ones(LABELS))
    assert probe.mlp is not None
    for tensor in probe.mlp.buffers():
        tensor.copy_(torch.randn(tensor.shape))
    probe.mlp.share.copy_(torch.tensor([0.0, 0.25, 1.0]))
    seen, logits = summary(features), probe(torch.randn(PHOTOS, LABELS), features)
    hidden = F.relu(seen @ probe.mlp.hidden_weight.T + probe.mlp.hidden_bias)
    mlp = hidden @ probe.mlp.weight.T + probe.mlp.bias
    linear = seen @ maps.weight.T + maps.bias
    zero_shot = probed(features, maps) - linear
    expected = zero_shot + linear + torch.tensor([0.0, 0.25, 1.0]) * (mlp - linear)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-5)


def test_a_second_map_is_mixed_into_what_the_logits_are_by_then(features: CenteredFeatures) -> None:
    probe, matched = FeatureProbe(LABELS, DIM, mlp=False), torch.randn(PHOTOS, LABELS)
    first, second = Maps.random(), Maps.random()
    scales = torch.tensor([[0.0], [0.4], [2.0]])  # of the same text
    second = second._replace(patch_text=scales * first.patch_text)
    probe.mix_in(*first, share=torch.tensor([0.0, 0.3, 1.0]))
    before = probe(matched, features)
    probe.mix_in(*second, share=torch.full((3,), 0.4))
    expected = 0.6 * before + 0.4 * probed(features, second)
    torch.testing.assert_close(probe(matched, features), expected, atol=1e-5, rtol=1e-5)


def test_in_training_a_probe_without_a_share_costs_nothing(
    features: CenteredFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, matched = FeatureProbe(LABELS, DIM, mlp=True).train(), torch.randn(PHOTOS, LABELS)
    maps = Maps.random()
    probe.mix_in(*maps, share=torch.tensor([0.0, 0.0, 0.5]))
    expected = 0.5 * (matched + probed(features, maps))[:, 2]
    torch.testing.assert_close(probe(matched, features)[:, 2], expected)
    probe.share.zero_()
    monkeypatch.delattr(FeatureProbe, "logits")
    assert probe(matched, features) is matched


def test_the_weights_are_those_of_a_logistic_regression_on_the_known_photos(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    seen = summary(features)
    scaled = (seen - seen.mean(dim=0)) / seen.std(dim=0, correction=0)
    for found in fit_linear_maps(seen, states, 0.1):
        for label in range(LABELS):
            known = states[:, label] != UNKNOWN
            fit = LogisticRegression(C=1 / found.penalty, tol=1e-8, max_iter=1000)
            fit.fit(scaled[known], states[known, label])
            expected = fit.decision_function(scaled)
            np.testing.assert_allclose(found.logits(seen)[:, label], expected, atol=5e-3)


def mean_loss(logits: torch.Tensor, states: torch.Tensor) -> float:
    """The cross-entropy on known states, each label counting the same."""
    each = F.binary_cross_entropy_with_logits(
        logits, (states == POSITIVE).float(), reduction="none"
    )
    known = states != UNKNOWN
    return float(torch.stack([e[k].mean() for e, k in zip(each.T, known.T, strict=True)]).mean())


def test_the_penalty_is_the_usual_one_unless_validation_photos_say_otherwise(
    features: CenteredFeatures, states: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "ENOUGH_POSITIVES", 0)
    seen = summary(features)
    found = {one.penalty: one for one in fit_linear_maps(seen, states, 0.1)}
    losses = {penalty: mean_loss(one.logits(seen), states) for penalty, one in found.items()}
    assert set(losses) == set(PENALTIES)

    def chosen(rows: slice) -> LinearMap:
        none = torch.zeros(PHOTOS, LABELS)
        return fit_linear(
            seen,
            states,
            seen[rows],
            states[rows],
            assumed_negative=0.1,
            zero_shot=(none, none[rows]),
        )

    # On the photos that it learned from, the weakest penalty is the best, and clearly so on all of them.
    assert min(losses, key=losses.__getitem__) == PENALTIES[-1]
    assert chosen(slice(None)).penalty == PENALTIES[-1]
    # One photo says nothing of the penalty of a correction; a probe by itself has no usual one.
    assert chosen(slice(1)).penalty == USUAL_PENALTY
    alone = fit_linear(seen, states, seen[150:], states[150:], assumed_negative=0.1)
    val_losses = {p: mean_loss(one.logits(seen[150:]), states[150:]) for p, one in found.items()}
    assert alone.penalty == min(val_losses, key=val_losses.__getitem__)


@pytest.mark.parametrize(("most_folded", "num_folds"), [(10_000, 3), (2 * PHOTOS, 2), (1, 1)])
def test_where_few_positives_validate_the_training_photos_choose_the_penalty_in_folds(
    features: CenteredFeatures,
    monkeypatch: pytest.MonkeyPatch,
    most_folded: int,
    num_folds: int,
) -> None:
    monkeypatch.setattr(probing, "MOST_FOLDED", most_folded)
    noise = torch.randn(PHOTOS, LABELS, generator=torch.Generator().manual_seed(2))
    states = (features.image[:, :LABELS] + 2 * noise > 0).to(torch.int8)
    states[::3] = UNKNOWN
    seen = summary(features)
    fold = torch.randperm(PHOTOS, generator=torch.Generator().manual_seed(0)) % 3
    losses = {}
    for penalty in PENALTIES:
        logits = torch.zeros(PHOTOS, LABELS)
        for held_out in (fold == i for i in range(num_folds)):
            scaler = StandardScaler().fit(seen[~held_out])
            for label in range(LABELS):
                known = ~held_out & (states[:, label] != UNKNOWN)
                fit = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000)
                fit.fit(scaler.transform(seen[known]), states[known, label])
                found = fit.decision_function(scaler.transform(seen[held_out]))
                logits[held_out, label] = torch.from_numpy(found).float()
        judged = fold < num_folds
        losses[penalty] = mean_loss(logits[judged], states[judged])
    best = min(losses, key=losses.__getitem__)
    assert best != PENALTIES[-1]
    # The validation photos, which are those learned from, would take the weakest.
    assert fit_linear(seen, states, seen, states, assumed_negative=0.1).penalty == best


def test_the_scales_of_zero_shot_are_those_that_fit_the_known_photos_best(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    seen, trusted = probe_inputs(features, torch.eye(LABELS, DIM)), torch.tensor([1.0, 0.5, 1.0])
    found = fit_zero_shot(seen, states, trusted, 0.1)
    known = states != UNKNOWN
    # A column for each scale, and one for the bias of each label.
    columns = torch.zeros(PHOTOS, LABELS, 2 + LABELS)
    columns[..., :2] = (seen.similarity.float() * trusted).movedim(1, 2)
    columns[..., 2:] = torch.eye(LABELS)
    fit = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-8, max_iter=1000)
    fit.fit(columns[known], states[known])
    expected = fit.decision_function(columns.flatten(0, 1)).reshape(PHOTOS, LABELS)
    np.testing.assert_allclose(found.logits(seen), expected, atol=5e-3)


def test_what_is_seen_of_a_photo_is_its_summary_and_how_well_text_fits(
    features: CenteredFeatures,
) -> None:
    text = torch.randn(LABELS, DIM)
    seen = probe_inputs(features, text)
    cosines = F.normalize(features.patches, dim=-1) @ text.T
    torch.testing.assert_close(seen.summaries.float(), summary(features), atol=3e-3, rtol=1e-3)
    similarity = torch.stack([features.image @ text.T, cosines.amax(dim=1)], dim=1)
    torch.testing.assert_close(seen.similarity.float(), similarity, atol=1e-2, rtol=1e-3)


def test_a_map_beside_zero_shot_corrects_it_the_less_the_stronger_the_penalty(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    """At any penalty the cost is lower with zero-shot than without: its start is worth something."""
    seen = probe_inputs(features, torch.eye(LABELS, DIM))
    zero_shot = fit_zero_shot(seen, states, torch.ones(LABELS), 0.1).logits(seen)
    beside = list(fit_linear_maps(seen.summaries, states, 0.1, zero_shot))
    plain = list(fit_linear_maps(seen.summaries, states, 0.1))
    corrections = [one.logits(seen.summaries) for one in beside]
    moved = [correction.std(dim=0).mean().item() for correction in corrections]
    assert moved == sorted(moved)
    assert moved[0] < 0.05
    for one, other, correction in zip(beside, plain, corrections, strict=True):
        assert one.penalty == other.penalty
        with_text = mean_loss(zero_shot + correction, states)
        assert with_text < mean_loss(other.logits(seen.summaries), states)


def test_text_against_what_is_known_is_not_taken() -> None:
    generator = torch.Generator().manual_seed(5)
    image, patches = (torch.randn(400, 2, generator=generator) for _ in range(2))
    states = (image < 0).to(torch.int8)
    seen = ProbeInputs(torch.zeros(400, 6), torch.stack([image, patches], dim=1))
    scales = fit_zero_shot(seen, states, torch.ones(2), 0.1).scales
    assert scales[0].tolist() == [0, 0]
    # Photos speak for the label and patches against it; the scale is as without the patches.
    seen = ProbeInputs(seen.summaries, torch.stack([patches - image, patches], dim=1))
    both = fit_zero_shot(seen, states, torch.ones(2), 0.1)
    alone = seen._replace(similarity=seen.similarity * torch.tensor([[1.0], [0.0]]))
    expected = fit_zero_shot(alone, states, torch.ones(2), 0.1)
    assert both.scales[1].tolist() == [0, 0]
    torch.testing.assert_close(both.scales[0], expected.scales[0], atol=1e-3, rtol=1e-3)


def test_text_that_parts_all_known_photos_is_not_taken_for_certain() -> None:
    similarity = torch.linspace(-0.2, 0.2, 20)[:, None, None].expand(20, 2, 1)
    inputs = ProbeInputs(torch.zeros(20, 6), similarity)
    states = (similarity[:, 0] > 0).to(torch.int8)
    found = fit_zero_shot(inputs, states, torch.ones(1), 0.1)
    logits = found.logits(inputs)
    assert ((logits > 0) == (states == POSITIVE)).all()
    assert 10 < found.scales.max() < 1000
    assert logits.abs().max() < 100


def test_untrusted_text_has_no_part_in_zero_shot(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    seen = probe_inputs(features, torch.eye(LABELS, DIM))
    found = fit_zero_shot(seen, states, torch.tensor([0.0, 1.0, 1.0]), 0.1)
    assert found.scales[:, 0].tolist() == [0, 0]
    known = states[:, 0][states[:, 0] != UNKNOWN].float()
    assert found.bias[0].item() == pytest.approx(torch.logit(known.mean()).item(), abs=1e-2)


def test_in_parts_the_same_is_found(
    features: CenteredFeatures, states: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of photos for zero-shot, and of labels for the linear map."""
    generator = torch.Generator().manual_seed(3)
    similarity = 0.1 * torch.randn(PHOTOS, 2, LABELS, generator=generator)
    inputs = ProbeInputs(summary(features), similarity)

    def found() -> list[torch.Tensor]:
        zero_shot = fit_zero_shot(inputs, states, torch.ones(LABELS), 0.1)
        maps = list(fit_linear_maps(inputs.summaries, states, 0.1, zero_shot.logits(inputs)))
        return [
            zero_shot.scales,
            zero_shot.bias,
            *(m.weight for m in maps),
            *(m.bias for m in maps),
        ]

    whole = found()
    monkeypatch.setattr(logistic, "MOST_CELLS", 50 * LABELS)
    monkeypatch.setattr(probing, "MOST_WEIGHTS", 2 * inputs.summaries.shape[1])
    for tensor, expected in zip(found(), whole, strict=True):
        torch.testing.assert_close(tensor, expected, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("state", [POSITIVE, NEGATIVE])
def test_a_label_known_one_way_alone_leaves_the_photos_in_their_order(state: int) -> None:
    """Its bias has a finite best value, at which float32 still tells the photos apart."""
    generator = torch.Generator().manual_seed(0)
    similarity = 0.1 * torch.randn(300, 2, 2, generator=generator)
    noise = 0.1 * torch.randn(300, 2, generator=generator)
    states = (similarity.mean(dim=1) + noise > 0).to(torch.int8)
    states[:, 0] = state
    inputs = ProbeInputs(torch.randn(300, 6, generator=generator), similarity)
    zero_shot = fit_zero_shot(inputs, states, torch.ones(2), 0.1)
    *_, free = fit_linear_maps(inputs.summaries, states, 0.1, zero_shot.logits(inputs))
    logits = zero_shot.logits(inputs)
    for some in (logits, logits + free.logits(inputs.summaries)):
        assert len(scores_of(some)[:, 0].unique()) > 250
    alone = fit_zero_shot(inputs, states, torch.tensor([0.0, 1.0]), 0.1)
    # Of 300 photos and the two that are added, one is on the other side.
    expected = np.log(301) if state == POSITIVE else -np.log(301)
    assert alone.bias[0].item() == pytest.approx(expected, abs=0.02)


def test_the_fewer_positives_are_known_the_more_the_probe_has_to_say() -> None:
    states = torch.full((300, 3), UNKNOWN, dtype=torch.int8)
    states[:150, 0] = states[:75, 1] = POSITIVE
    states[75:, 1] = states[:, 2] = NEGATIVE
    share = share_of_probe(states, torch.ones(3))
    torch.testing.assert_close(share, torch.tensor([0.7, 0.8, 1]))
    assert (share_of_probe(states, torch.zeros(3)) == 1).all()


def test_unknown_photos_count_a_little_where_no_negative_is_known() -> None:
    seen = torch.cat([torch.ones(30, 3), -torch.ones(70, 3)]) + torch.randn(100, 3) / 10
    states = torch.full((100, 1), UNKNOWN, dtype=torch.int8)
    states[:10] = POSITIVE
    *_, found = fit_linear_maps(seen, states, 0.1)
    logits = found.logits(seen)[:, 0]
    assert logits[:30].min() > logits[30:].max()


def test_trust_follows_the_area_under_the_curve_of_known_states() -> None:
    generator = torch.Generator().manual_seed(2)
    states = (torch.rand(4000, 2, generator=generator) < 0.3).to(torch.int8)
    noise = torch.randn(4000, 2, generator=generator)
    # The first label is ordered somewhat better than by chance, the second well.
    scores = noise + torch.tensor([0.5, 3.0]) * states
    states[:1000] = UNKNOWN
    area = roc_auc_score(states[1000:, 0], scores[1000:, 0])
    found = trust(scores[:, None], states)
    assert found[0].item() == pytest.approx((area - 0.6) / 0.1, abs=0.02)
    assert found[1].item() == 1


def test_a_teacher_that_orders_by_chance_is_not_trusted() -> None:
    generator = torch.Generator().manual_seed(3)
    states = (torch.rand(300, 40, generator=generator) < 0.1).to(torch.int8)
    found = trust(torch.randn(300, 2, 40, generator=generator), states)
    assert found.max() == 0


def test_a_label_with_few_known_states_is_trusted_as_the_others_are() -> None:
    generator = torch.Generator().manual_seed(4)
    states = (torch.rand(500, 20, generator=generator) < 0.3).to(torch.int8)
    scores = torch.randn(500, 20, generator=generator) + 2.0 * states
    states[2:, 7] = UNKNOWN
    states[:2, 7] = torch.tensor([POSITIVE, NEGATIVE], dtype=torch.int8)
    scores[:2, 7] = torch.tensor([0.0, 1.0])  # its one pair is in the wrong order
    assert trust(scores[:, None], states)[7] > 0.9


def test_without_anything_known_of_a_label_all_are_trusted() -> None:
    states = torch.full((5, 2), POSITIVE, dtype=torch.int8)
    assert trust(torch.randn(5, 1, 2), states).tolist() == [1, 1]


def test_how_far_text_is_trusted_does_not_hang_on_who_teaches(
    backbone_source: str, make_dataset: Maker
) -> None:
    data = make_dataset(24)
    shares = []
    for distillation in (0.0, 0.1):
        config = QUICK | {"loss.distillation": distillation}
        model = trmml.finetune(data, val=data, backbone=backbone_source, config=config)
        assert model.probe is not None
        shares.append(model.probe.share)
    torch.testing.assert_close(*shares)
    assert (shares[0] > 0.85).all()  # few photos


class Contrary(Teacher):
    """Orders photos the other way round."""

    def __call__(self, features: ImageFeatures) -> torch.Tensor:
        return -super().__call__(features)


def test_text_and_teacher_are_trusted_by_themselves(
    backbone: FrozenCLIP, make_dataset: Maker
) -> None:
    data, model = make_dataset(24), untrained(backbone, LABEL_NAMES)
    features = CachedFeatures(compute_features(data.photos, backbone), np.arange(24))
    similarity = survey(
        model, features, torch.from_numpy(data.states), Teacher(model)
    ).inputs.similarity
    states = (similarity.mean(dim=1) > similarity.mean(dim=1).median(dim=0).values).to(torch.int8)
    agreeing = survey(model, features, states, Teacher(model))
    contrary = survey(model, features, states, Contrary(model))
    assert agreeing.text_trust.tolist() == contrary.text_trust.tolist() == [1, 1, 1]
    assert (agreeing.teacher_trust.tolist(), contrary.teacher_trust.tolist()) == ([1] * 3, [0] * 3)


def test_photos_are_not_gone_through_for_nothing(
    backbone_source: str, make_dataset: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surveyed(*_: object) -> None:
        raise AssertionError("a pass over all photos that nobody needs")

    monkeypatch.setattr("trmml.training.trainer.survey", surveyed)
    data = make_dataset(24)
    for change in ({"loss.distillation": 0.0}, {"loss.trust_teacher": False}):
        config = QUICK | change | {"matching.linear_probe": False}
        assert trmml.finetune(data, val=data, backbone=backbone_source, config=config).probe is None
