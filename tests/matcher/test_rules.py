import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command as run
from conftest import trained_like
from PIL import Image

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.checks import parsed_rule
from trmml.errors import ArtifactError
from trmml.matcher.prediction import Prediction
from trmml.matcher.rules import with_rules
from trmml.matcher.thresholds import Calibration

LABELS = ("puppy", "dog", "animal", "day", "night")


def applied(scores: list[float], thresholds: list[float], *rules: str) -> Prediction:
    single = [np.array(values, dtype=np.float32) for values in (scores, thresholds)]
    found = with_rules(Prediction(LABELS, *single), [parsed_rule(r, LABELS) for r in rules])
    # Nothing of what was given has changed.
    assert single[0].tolist() == pytest.approx(scores)
    return found


def tags(found: Prediction) -> list[str]:
    return [tag.label for tag in found.positive]


def test_what_is_implied_is_a_tag_in_whatever_order_the_rules_come() -> None:
    rules = ("dog implies animal", "puppy implies dog")
    for order in (rules, rules[::-1]):
        found = applied([0.8, 0.3, 0.1, 0, 0], [0.5, 0.6, 0.99, 0.5, 0.5], *order)
        assert found.scores.tolist() == pytest.approx([0.8, 0.8, 0.8, 0, 0])
        assert tags(found) == ["puppy", "dog", "animal"]
    below = applied([0.4, 0.3, 0.1, 0, 0], [0.5, 0.6, 0.99, 0.5, 0.5], *rules)
    assert below.scores.tolist() == pytest.approx([0.4, 0.4, 0.4, 0, 0])
    assert tags(below) == []


def test_of_two_that_exclude_each_other_one_is_a_tag() -> None:
    for rule in ("day excludes night", "night excludes day"):
        found = applied([0, 0, 0, 0.7, 0.6], [0.5, 0.5, 0.5, 0.2, 0.2], rule)
        assert found.scores.tolist() == pytest.approx([0, 0, 0, 0.7, 0.3])
        assert tags(found) == ["day"]
        assert found.thresholds.max() <= 0.5
    assert tags(applied([0, 0, 0, 0.7, 0.6], [0.5] * 5)) == ["day", "night"]


def test_rules_in_a_circle_end() -> None:
    found = applied([0.9, 0, 0, 0, 0], [0.5] * 5, "puppy implies dog", "dog implies puppy")
    assert tags(found) == ["puppy", "dog"]


def test_rules_are_kept_with_the_model_and_applied_on_request(
    backbone: FrozenCLIP, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = trained_like(backbone)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    scores = trmml.predict(tmp_path / "a.png", model).scores
    order = [model.labels[i] for i in np.argsort(-scores)]
    rule = parsed_rule(f"{order[0]} implies {order[2]}", model.labels)
    model.calibration = replace(model.calibration, rules=(rule,))
    folder = trmml.save_model(model, tmp_path / "model")
    assert json.loads((folder / "calibration.json").read_text())["rules"] == [str(rule)]
    loaded = trmml.load_model(folder, device="cpu")
    assert loaded.calibration.rules == (rule,)
    without, kept = (trmml.predict(tmp_path / "a.png", loaded, rules=on) for on in (False, True))
    assert np.array_equal(without.scores, scores)
    assert kept[order[2]] == pytest.approx(kept[order[0]])
    for options in ((), ("--rules",)):
        arguments = ("predict", tmp_path / "a.png", "--model", folder, "--format", "json", *options)
        assert run(*arguments) == 0
        values = json.loads(capsys.readouterr().out)["scores"]
        assert (values[order[2]] == values[order[0]]) == bool(options)


def test_rules_stay_with_the_labels_that_they_name() -> None:
    rules = tuple(parsed_rule(r, LABELS) for r in ("puppy implies dog", "day excludes night"))
    made = replace(Calibration.uncalibrated(5), rules=rules)
    assert made.relabelled(LABELS, ("dog", "puppy", "day")).rules == rules[:1]
    new = Calibration(thresholds=(0.3,), known_positives=(4,))
    assert made.updated(LABELS, LABELS[:1], new).rules == rules


@pytest.mark.parametrize("rules", [["puppy implies cat"], ["puppy is dog"], [1], 1])
def test_a_damaged_rule_is_said(rules: object) -> None:
    values = Calibration.uncalibrated(5).to_dict(LABELS) | {"rules": rules}
    with pytest.raises(ArtifactError, match=r"calibration\.json"):
        Calibration.from_dict(values, LABELS, "calibration.json")
