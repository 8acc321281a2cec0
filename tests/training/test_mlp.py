"""The small MLP that stands beside text and linear probe."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import untrained

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.matching import CenteredFeatures
from trmml.matcher.probe import MLPProbe, summary
from trmml.training import mlp
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
    seen, states = signs_that_differ(3000, 0)
    states[1500:] = UNKNOWN
    others, wanted = signs_that_differ(500, 1)
    before = torch.get_rng_state()
    found = fit_mlp(seen, states, assumed_negative=0.1, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    right = (found.logits(others) > 0) == (wanted == POSITIVE)
    assert right.float().mean() > 0.9
    again = fit_mlp(seen, states, assumed_negative=0.1, seed=0)
    assert all(map(torch.equal, found, again))
    other = fit_mlp(seen, states, assumed_negative=0.1, seed=1)
    assert not torch.equal(found.weight, other.weight)
    # With the wrong states in the unknown cells it would learn something else.
    full = torch.where(states == UNKNOWN, NEGATIVE, states)
    assert not torch.equal(found.weight, fit_mlp(seen, full, assumed_negative=0.1, seed=0).weight)


def test_it_goes_on_from_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "LEARNING_RATE", 1e-12)
    seen, states = signs_that_differ(100, 0)
    start = random_mlp(1, 6)
    found = fit_mlp(seen, states, assumed_negative=0.1, seed=0, start=start)
    torch.testing.assert_close(found.logits(seen), start.logits(seen), atol=1e-3, rtol=1e-3)


def test_the_share_grows_with_the_known_positives() -> None:
    states = torch.full((2000, 4), UNKNOWN, dtype=torch.int8)
    for label, positives in enumerate((25, 26, 100, 1450)):
        states[:positives, label] = POSITIVE
    expected = torch.tensor([0, 1 / 152, 1 / 4, 0.475])
    torch.testing.assert_close(share_of_mlp(states), expected)


def test_it_is_mixed_into_the_logits_label_by_label() -> None:
    probe, one = MLPProbe(3, 4), random_mlp(3, 12)
    features = CenteredFeatures(torch.randn(5, 9, 4), torch.randn(5, 4))
    logits = torch.randn(5, 3)
    assert torch.equal(probe(logits, features), logits)
    for tensor, new in zip(
        (probe.hidden_weight, probe.hidden_bias, probe.weight, probe.bias, probe.share),
        (*one, torch.tensor([0.0, 0.25, 1.0])),
        strict=True,
    ):
        tensor.copy_(new)
    mixed, own = probe(logits, features), one.logits(summary(features))
    expected = F.relu(summary(features) @ one.hidden_weight.T + one.hidden_bias) @ one.weight.T
    torch.testing.assert_close(own, expected + one.bias)
    torch.testing.assert_close(mixed[:, 0], logits[:, 0])
    torch.testing.assert_close(mixed[:, 1], 0.75 * logits[:, 1] + 0.25 * own[:, 1])
    torch.testing.assert_close(mixed[:, 2], own[:, 2])


def test_a_training_mixes_it_in_where_enough_positives_are_known(
    backbone_source: str, make_dataset: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(60)
    positives = (data.states == POSITIVE).sum(axis=0)
    monkeypatch.setattr(mlp, "FEWEST_POSITIVES", int(np.sort(positives)[1]))
    monkeypatch.setattr(mlp, "POSITIVES_AT_HALF", 60)
    model = trmml.finetune(data, val=make_dataset(20), backbone=backbone_source, config=QUICK)
    assert model.mlp_probe is not None
    expected = share_of_mlp(torch.from_numpy(data.states))
    assert ((expected > 0) == (torch.from_numpy(positives) > int(np.sort(positives)[1]))).all()
    torch.testing.assert_close(model.mlp_probe.share, expected)
    assert model.mlp_probe.hidden_weight.any()

    # Going on, it has at least the share that it had, and is put back where that did not help.
    for val_map, better in ((0.9, True), (0.1, False)):
        maps = iter([0.5, 0.6, 0.6, val_map, 0.6])
        monkeypatch.setattr(Validation, "map_of", lambda *_, maps=maps: next(maps, 0.6))
        again = trmml.finetune(data, val=data, model=model, config=QUICK)
        assert again.mlp_probe is not None
        torch.testing.assert_close(again.mlp_probe.share, expected)
        changed = not torch.equal(again.mlp_probe.weight, model.mlp_probe.weight)
        assert changed == better


def test_a_new_label_has_no_share_in_it(backbone: FrozenCLIP) -> None:
    model = untrained(backbone, ("dog", "cat"))
    assert model.mlp_probe is not None
    model.mlp_probe.share.fill_(0.5)
    model.mlp_probe.weight.fill_(2)
    more = model.relabelled(["cow", "dog"])
    assert more.mlp_probe is not None
    assert more.mlp_probe.share.tolist() == [0, 0.5]
    assert more.mlp_probe.weight[0].abs().max() == 0
    assert torch.equal(more.mlp_probe.hidden_weight, model.mlp_probe.hidden_weight)
