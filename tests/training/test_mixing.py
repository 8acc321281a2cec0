"""The end of a training: what is mixed in, what is kept, and what takes the place of what is worse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError
from trmml.training.probing import LinearMap
from trmml.zoo.loading import zero_shot_model

QUICK = {"training.epochs": 1, "matching.num_context_tokens": 2, "matching.num_heads": 2}
Maker = Callable[..., MultiLabelDataset]


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


def test_zero_shot_that_is_better_by_more_than_chance_takes_the_place_of_the_training(
    backbone: FrozenCLIP,
    make_dataset: Maker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Labels are what zero-shot says, and neither steps nor maps learn anything."""
    shares = lambda states, *_: torch.zeros(states.shape[1])  # noqa: E731
    monkeypatch.setattr("trmml.training.mixing.share_of_probe", shares)
    monkeypatch.setattr(
        "trmml.training.mixing.fit_linear",
        lambda summaries, states, *_, **__: LinearMap(
            torch.randn(states.shape[1], summaries.shape[1]), torch.zeros(states.shape[1]), 1.0
        ),
    )
    data = make_dataset(90)
    said = zero_shot_model(backbone, data.labels).predict_many(data.photos)
    scores = np.stack([prediction.scores for prediction in said])
    data = replace(data, states=(scores > np.median(scores, axis=0)).astype(np.int8))
    train, val = data.subset(np.arange(60)), data.subset(np.arange(60, 90))
    still = {"training.learning_rate": 1e-9, "training.prompt_learning_rate": 1e-9}
    model = trmml.finetune(train, val=val, backbone=backbone, config=QUICK | still)
    assert "the training is worse than zero-shot by" in caplog.text
    assert model.probe is not None
    assert model.report is not None
    assert (model.probe.share == 1).all()
    assert (model.probe.weight == 0).all()
    assert (model.probe.image_text != 0).any()
    assert model.report["metrics"]["validation"]["mAP"] > 0.8


def test_new_photos_reach_the_probe_where_steps_teach_nothing(
    backbone_source: str, make_dataset: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """If it helps, and enough is known to tell: of a handful of photos it is not."""
    data = make_dataset(120)
    few, many, val = (data.subset(np.arange(*rows)) for rows in ((0, 8), (0, 80), (80, 120)))
    still = {"training.learning_rate": 1e-9, "training.prompt_learning_rate": 1e-9}
    first = trmml.finetune(few, val=val, backbone=backbone_source, config=QUICK | still)
    again = trmml.finetune(many, val=val, model=first, config=QUICK | still)
    assert first.probe is not None
    assert again.probe is not None
    assert first.report is not None
    assert again.report is not None
    before, after = (m.report["metrics"]["validation"]["mAP"] for m in (first, again))
    assert after > before
    assert not torch.equal(first.probe.weight, again.probe.weight)
    assert "it is kept, with new thresholds and a probe of the new photos" in caplog.text
    handful = data.subset(np.arange(90, 95))
    before, after = (trmml.evaluate(m, handful).mean_average_precision for m in (first, again))
    assert after > before
    kept = trmml.finetune(many, val=handful, model=first, config=QUICK | still)
    assert kept.probe is not None
    assert torch.equal(first.probe.weight, kept.probe.weight)


@pytest.mark.parametrize("mlp", [False, True])
def test_new_labels_take_the_new_probe_where_too_little_is_known_to_change_the_learned_ones(
    backbone: FrozenCLIP, make_dataset: Maker, mlp: bool
) -> None:
    data = make_dataset(120)
    settings = QUICK | {"matching.mlp_probe": mlp}
    known = data.subset(np.arange(80)).with_labels(("red", "green"))
    start = trmml.finetune(known, backbone=backbone, config=settings)
    more, handful = data.subset(np.arange(80, 112)), data.subset(np.arange(112, 116))
    model = trmml.finetune(more, val=handful, model=start, config=settings)
    assert start.probe is not None
    assert model.probe is not None
    assert torch.equal(model.probe.share[:2], start.probe.share)
    assert torch.equal(model.probe.weight[:2], start.probe.weight)
    assert model.probe.share[2] > 0.5
    assert model.report is not None
    assert model.report["finetune"]["has_new_probe"]
    if mlp:  # its hidden units are those that the learned labels need
        assert model.probe.mlp is not None
        assert start.probe.mlp is not None
        assert start.probe.mlp.share.any()
        assert torch.equal(model.probe.mlp.hidden_weight, start.probe.mlp.hidden_weight)
        assert torch.equal(model.probe.mlp.share[:2], start.probe.mlp.share)
        assert model.probe.mlp.share[2] == 0
    assert model.unlearned == frozenset()


def test_labels_of_a_loaded_model_that_it_never_learned_are_new_ones(
    backbone: FrozenCLIP, make_dataset: Maker
) -> None:
    """However they came into it: `relabelled` before `finetune` or within."""
    data = make_dataset(60)
    start = trmml.finetune(data.with_labels(("red",)), backbone=backbone, config=QUICK)
    assert start.unlearned == frozenset()
    wider = start.relabelled(["green", "red"])
    assert wider.unlearned == {"green"}
    assert wider.relabelled(data.labels).unlearned == {"green", "blue"}
    within = trmml.finetune(data, model=start, config=QUICK)
    before = trmml.finetune(data, model=start.relabelled(data.labels), config=QUICK)
    for name, tensor in within.learned_state().items():
        torch.testing.assert_close(before.learned_state()[name], tensor, msg=name)
    assert before.unlearned == frozenset()


def test_settings_of_the_matching_that_a_trained_model_does_not_have_are_refused(
    backbone: FrozenCLIP, make_dataset: Maker
) -> None:
    data = make_dataset(24)
    start = trmml.finetune(data, val=data, backbone=backbone, config=QUICK)
    for name, value, there in (
        ("way", "text-pixel", "text-region"),
        ("linear_probe", False, True),
        ("num_context_tokens", 4, 2),
    ):
        wrong = rf"matching\.{name} is {value!r}, but .* was made with {there!r}; leave it out"
        with pytest.raises(ConfigError, match=wrong):
            trmml.finetune(data, val=data, model=start, config=QUICK | {f"matching.{name}": value})


def test_of_a_model_that_goes_by_its_probe_alone_nobody_is_told_to_lower_rates(
    backbone: FrozenCLIP, make_dataset: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_dataset(60)
    start = trmml.finetune(data, backbone=backbone, config=QUICK)
    assert start.probe is not None
    start.probe.share.fill_(1.0)
    trmml.finetune(data, val=data.subset(np.arange(4)), model=start, config=QUICK)
    assert "Its logits are those of its probe alone, which no epoch changes" in caplog.text
    assert "lower rates" not in caplog.text


def test_copies_of_one_photo_give_a_model_that_loads(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(24)
    copies = replace(data, photos=data.photos[:1] * 24)
    trmml.finetune(copies, val=data, backbone=backbone, config=QUICK, output=tmp_path / "out")
    loaded = trmml.load_model(tmp_path / "out")
    assert all(tensor.abs().max() < 1e5 for tensor in loaded.learned_state().values())
