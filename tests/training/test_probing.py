"""The linear probe that stands beside the text, and how far the text is trusted."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.matching import CenteredFeatures
from trmml.matcher.probe import LinearProbe, summary
from trmml.training.probing import (
    PENALTIES,
    fit_probe,
    fit_probes,
    share_of_probe,
    text_probe,
    trust,
)

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


def test_the_share_moves_each_logit_from_the_matching_to_the_probe(
    features: CenteredFeatures,
) -> None:
    probe = LinearProbe(LABELS, DIM)
    matched = torch.randn(PHOTOS, LABELS)
    torch.testing.assert_close(probe(matched, features), matched)
    weight, bias = torch.randn(LABELS, 3 * DIM), torch.randn(LABELS)
    probe.mix_in(weight, bias, torch.tensor([0.0, 0.25, 1.0]))
    probed = summary(features) @ weight.T + bias
    mixed = probe(matched, features)
    torch.testing.assert_close(mixed[:, 0], matched[:, 0])
    torch.testing.assert_close(mixed[:, 1], 0.75 * matched[:, 1] + 0.25 * probed[:, 1])
    torch.testing.assert_close(mixed[:, 2], probed[:, 2])


def test_a_second_map_is_mixed_into_what_the_logits_are_by_then(features: CenteredFeatures) -> None:
    probe, matched = LinearProbe(LABELS, DIM), torch.randn(PHOTOS, LABELS)
    probe.mix_in(torch.randn(LABELS, 3 * DIM), torch.randn(LABELS), torch.tensor([0.0, 0.3, 1.0]))
    before = probe(matched, features)
    weight, bias, share = torch.randn(LABELS, 3 * DIM), torch.randn(LABELS), torch.full((3,), 0.4)
    probe.mix_in(weight, bias, share)
    expected = 0.6 * before + 0.4 * (summary(features) @ weight.T + bias)
    torch.testing.assert_close(probe(matched, features), expected, atol=1e-5, rtol=1e-5)


def test_the_weights_are_those_of_a_logistic_regression_on_the_known_photos(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    seen = summary(features)
    scaled = (seen - seen.mean(dim=0)) / seen.std(dim=0, correction=0)
    for probe in fit_probes(seen, states, 0.1):
        for label in range(LABELS):
            known = states[:, label] != UNKNOWN
            fit = LogisticRegression(C=1 / probe.penalty, tol=1e-8, max_iter=1000)
            fit.fit(scaled[known], states[known, label])
            expected = fit.decision_function(scaled)
            np.testing.assert_allclose(probe.logits(seen)[:, label], expected, atol=5e-3)


def test_the_penalty_is_that_of_the_lowest_loss_on_known_validation_photos(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    seen = summary(features)
    train, val = seen[:150], seen[150:]
    chosen = fit_probe(train, states[:150], val, states[150:], assumed_negative=0.1)
    known = states[150:] != UNKNOWN

    def loss(logits: torch.Tensor) -> float:
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, (states[150:] == POSITIVE).float(), reduction="none"
        )
        return float(
            torch.stack([e[k].mean() for e, k in zip(each.T, known.T, strict=True)]).mean()
        )

    losses = {
        probe.penalty: loss(probe.logits(val)) for probe in fit_probes(train, states[:150], 0.1)
    }
    assert set(losses) == set(PENALTIES)
    assert chosen.penalty == min(losses, key=lambda penalty: losses[penalty])


def test_text_is_taken_at_the_scale_that_fits_the_known_photos_best(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    seen, text = summary(features), torch.eye(LABELS, DIM)
    probe = text_probe(seen, states, 0.1, text)
    known = states != UNKNOWN
    # One column for the scale, and one for the bias of each label.
    columns = torch.zeros(PHOTOS, LABELS, 1 + LABELS)
    columns[..., 0] = features.image @ text.T
    columns[..., 1:] = torch.eye(LABELS)
    fit = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-8, max_iter=1000)
    fit.fit(columns[known], states[known])
    expected = fit.decision_function(columns.flatten(0, 1)).reshape(PHOTOS, LABELS)
    np.testing.assert_allclose(probe.logits(seen), expected, atol=5e-3)


def test_a_probe_that_starts_from_text_is_near_it_at_a_strong_penalty(
    features: CenteredFeatures, states: torch.Tensor
) -> None:
    """And, at a weak one, near the probe without text: at any, it has the lower cost of the two."""
    seen, text = summary(features), 3 * torch.eye(LABELS, DIM)
    start = text_probe(seen, states, 0.1, text).logits(seen)
    plain, from_text = (list(fit_probes(seen, states, 0.1, given)) for given in (None, text))
    strong = (from_text[0].logits(seen) - start).abs().max()
    assert strong < 0.1 < (plain[0].logits(seen) - start).abs().max()
    apart = [
        (a.logits(seen) - b.logits(seen)).abs().mean().item()
        for a, b in zip(plain, from_text, strict=True)
    ]
    assert apart == sorted(apart, reverse=True)


def test_text_against_what_is_known_is_not_taken() -> None:
    seen = torch.randn(400, 6, generator=torch.Generator().manual_seed(5))
    states = (seen[:, :2] < 0).to(torch.int8)
    assert (text_probe(seen, states, 0.1, torch.eye(2)).weight == 0).all()


def test_the_fewer_positives_are_known_the_more_the_probe_has_to_say() -> None:
    states = torch.full((300, 3), UNKNOWN, dtype=torch.int8)
    states[:150, 0] = states[:75, 1] = POSITIVE
    states[75:, 1] = states[:, 2] = NEGATIVE
    share = share_of_probe(states, torch.ones(3))
    torch.testing.assert_close(share, torch.tensor([1 / 3, 1 / 2, 1]))
    assert (share_of_probe(states, torch.zeros(3)) == 1).all()


def test_unknown_photos_count_a_little_where_no_negative_is_known() -> None:
    seen = torch.cat([torch.ones(30, 3), -torch.ones(70, 3)]) + torch.randn(100, 3) / 10
    states = torch.full((100, 1), UNKNOWN, dtype=torch.int8)
    states[:10] = POSITIVE
    *_, probe = fit_probes(seen, states, 0.1)
    logits = probe.logits(seen)[:, 0]
    assert logits[:30].min() > logits[30:].max()


def test_trust_follows_the_area_under_the_curve_of_known_states() -> None:
    generator = torch.Generator().manual_seed(2)
    states = (torch.rand(4000, 2, generator=generator) < 0.3).to(torch.int8)
    noise = torch.randn(4000, 2, generator=generator)
    # The first label is ordered a little better than by chance, the second well.
    scores = noise + torch.tensor([0.4, 3.0]) * states
    states[:1000] = UNKNOWN
    area = roc_auc_score(states[1000:, 0], scores[1000:, 0])
    found = trust(scores[:, None], states)
    assert found[0].item() == pytest.approx((area - 0.5) / 0.2, abs=0.01)
    assert found[1].item() == 1


def test_a_teacher_that_orders_by_chance_is_not_trusted() -> None:
    generator = torch.Generator().manual_seed(3)
    states = (torch.rand(300, 40, generator=generator) < 0.1).to(torch.int8)
    found = trust(torch.randn(300, 2, 40, generator=generator), states)
    assert found.max() < 0.2


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


@pytest.mark.parametrize(("share", "replaced"), [(0.0, True), (1.0, False)])
def test_a_probe_that_is_better_by_more_than_chance_takes_the_place_of_the_training(
    backbone_source: str,
    make_dataset: Maker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    share: float,
    replaced: bool,
) -> None:
    """Nothing is learned by steps here, so without a share of the probe the model knows nothing."""
    monkeypatch.setattr(
        "trmml.training.mixing.share_of_probe",
        lambda states, *_: torch.full((states.shape[1],), share),
    )
    data = make_dataset(90)
    train, val = data.subset(np.arange(60)), data.subset(np.arange(60, 90))
    still = {"training.learning_rate": 1e-9, "training.prompt_learning_rate": 1e-9}
    model = trmml.finetune(train, val=val, backbone=backbone_source, config=QUICK | still)
    assert model.probe is not None
    assert model.report is not None
    assert (model.probe.share == 1).all()
    assert ("the training is worse than linear probe by" in caplog.text) == replaced
    gain = model.report["finetune"]["compared_with"]["linear probe"]
    assert gain["high"] >= 0
    measured = model.report["metrics"]["validation"]["mAP"]
    assert measured == pytest.approx(gain["mAP"] + gain["gain"], abs=1e-5)
