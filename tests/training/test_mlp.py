"""The small MLP that corrects zero-shot beside the linear map."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import untrained

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.training import mlp
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.training.mlp import MLP, fit_mlp, share_of_mlp
from trmml.training.validation import Validation

Maker = Callable[..., MultiLabelDataset]
QUICK = {"training.epochs": 2, "matching.num_context_tokens": 2, "matching.num_heads": 2}


def signs_that_differ(num_photos: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos with the label where the first two features differ in sign: no line parts them."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(num_photos, 6, generator=generator)
    seen[:, 5] = 3 + seen[:, 5] / 100
    return seen, (seen[:, :1] * seen[:, 1:2] < 0).to(torch.int8)


def random_mlp(num_labels: int, dim: int) -> MLP:
    shapes = ((mlp.HIDDEN_UNITS, dim), (mlp.HIDDEN_UNITS,))
    rows = ((num_labels, mlp.HIDDEN_UNITS), (num_labels,))
    return MLP(*(torch.randn(shape) / 8 for shape in (*shapes, *rows)))


def test_it_learns_what_no_linear_map_can_from_known_states_alone() -> None:
    seen, states = signs_that_differ(12_000, 0)
    states[6000:] = UNKNOWN
    others, wanted = signs_that_differ(500, 1)
    before = torch.get_rng_state()
    fit = partial(
        fit_mlp,
        seen,
        assumed_negative=0.1,
        zero_shot=torch.zeros(12_000, 1),
        trust=torch.ones(1),
    )
    found = fit(states, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    right = (found.logits(others) > 0) == (wanted == POSITIVE)
    assert right.float().mean() > 0.9
    again = fit(states, seed=0)
    assert all(map(torch.equal, found, again))
    other = fit(states, seed=1)
    assert not torch.equal(found.weight, other.weight)
    # With the wrong states in the unknown cells it would learn something else.
    full = torch.where(states == UNKNOWN, NEGATIVE, states)
    assert not torch.equal(found.weight, fit(full, seed=0).weight)


def test_it_starts_without_a_correction_where_zero_shot_is_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlp, "LEARNING_RATE", 1e-12)
    seen, states = signs_that_differ(100, 0)
    found = fit_mlp(
        seen,
        states.expand(100, 3),
        assumed_negative=0.1,
        seed=0,
        zero_shot=torch.zeros(100, 3),
        trust=torch.tensor([1.0, 0.5, 0.0]),
    )
    sizes = found.weight.abs().amax(dim=1)
    assert sizes[0] < 1e-6
    # Uniform up to 1 / √256, as PyTorch starts a linear map.
    torch.testing.assert_close(sizes[1:], torch.tensor([1 / 32, 1 / 16]), atol=0, rtol=0.1)


def test_it_goes_on_from_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "LEARNING_RATE", 1e-12)
    seen, states = signs_that_differ(100, 0)
    start = random_mlp(1, 6)
    found = fit_mlp(
        seen,
        states,
        assumed_negative=0.1,
        seed=0,
        zero_shot=torch.zeros(100, 1),
        trust=torch.zeros(1),
        start=start,
    )
    torch.testing.assert_close(found.logits(seen), start.logits(seen), atol=1e-3, rtol=1e-3)


def test_the_share_grows_with_the_known_positives() -> None:
    states = torch.full((2000, 4), UNKNOWN, dtype=torch.int8)
    for label, positives in enumerate((10, 20, 50, 1570)):
        states[:positives, label] = POSITIVE
    expected = torch.tensor([0, 0.16, 0.4, 0.78])
    torch.testing.assert_close(share_of_mlp(states, torch.ones(4)), expected)
    untrusted = torch.tensor([0.16, 0.8 / 3, 0.8 * 5 / 9, 0.8 * 157 / 161])
    torch.testing.assert_close(share_of_mlp(states, torch.zeros(4)), untrusted)


def test_it_learns_only_what_zero_shot_gets_wrong() -> None:
    seen, states = signs_that_differ(400, 0)
    right = 20 * states.float() - 10
    fit = partial(fit_mlp, seen, states, assumed_negative=0.1, seed=0, trust=torch.ones(1))
    found = fit(zero_shot=right)
    assert found.logits(seen).abs().max() < 1
    found = fit(zero_shot=-right / 5)
    assert (found.logits(seen) * right).mean() > 1


def test_a_training_mixes_it_in_where_enough_positives_are_known(
    backbone_source: str, make_dataset: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(60)
    positives = (data.states == POSITIVE).sum(axis=0)
    monkeypatch.setattr(mlp, "FEWEST_POSITIVES", int(np.sort(positives)[1]))
    monkeypatch.setattr(mlp, "POSITIVES_AT_HALF", 60)
    monkeypatch.setattr("trmml.training.survey.trust", lambda *_: torch.ones(3))
    model = trmml.finetune(data, val=make_dataset(20), backbone=backbone_source, config=QUICK)
    assert model.probe is not None
    assert model.probe.mlp is not None
    expected = share_of_mlp(torch.from_numpy(data.states), torch.ones(3))
    torch.testing.assert_close(model.probe.mlp.share, expected)
    assert ((expected > 0) == (torch.from_numpy(positives) > int(np.sort(positives)[1]))).all()
    assert model.probe.mlp.hidden_weight.any()

    # It corrects zero-shot as that stands in the probe.
    zero_shot = []

    def watched(*arguments: Any, **named: Any) -> MLP:
        zero_shot.append(named["zero_shot"])
        return fit_mlp(*arguments, **named)

    monkeypatch.setattr("trmml.training.mixing.fit_mlp", watched)

    # Going on, it has at least the share that it had, and is put back where that did not help.
    for val_map, better in ((0.9, True), (0.1, False)):
        maps = iter([0.5, 0.6, 0.6, val_map, 0.6])
        monkeypatch.setattr(Validation, "map_of", lambda *_, maps=maps: next(maps, 0.6))
        again = trmml.finetune(data, val=data, model=model, config=QUICK)
        assert again.probe is not None
        assert again.probe.mlp is not None
        torch.testing.assert_close(again.probe.mlp.share, expected)
        changed = not torch.equal(again.probe.mlp.weight, model.probe.mlp.weight)
        assert changed == better
        if better:
            probe, features = (
                copy.deepcopy(again.probe),
                compute_features(data.photos, again.backbone),
            )
            batch = next(iter(CachedFeatures(features, np.arange(len(data))).in_order(len(data))))
            for tensor in (probe.weight, probe.bias, probe.mlp.share):
                tensor.zero_()
            differences = zero_shot[0] - probe.logits(again.centered(batch))
            # Up to the bias of each label, and half precision.
            torch.testing.assert_close(
                differences, differences[:1].expand_as(differences), atol=0.05, rtol=0
            )


def test_a_new_label_has_no_share_in_it(backbone: FrozenCLIP) -> None:
    model = untrained(backbone, ("dog", "cat"))
    assert model.probe is not None
    assert model.probe.mlp is not None
    model.probe.mlp.share.fill_(0.5)
    model.probe.mlp.weight.fill_(2)
    more = model.relabelled(["cow", "dog"])
    assert more.probe is not None
    assert more.probe.mlp is not None
    assert more.probe.mlp.share.tolist() == [0, 0.5]
    assert more.probe.mlp.weight[0].abs().max() == 0
    assert torch.equal(more.probe.mlp.hidden_weight, model.probe.mlp.hidden_weight)
