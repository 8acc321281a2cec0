import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trmml.config.base import Interval, above, at_least
from trmml.config.groups import (
    FinetuneConfig,
    LossConfig,
    MatchingConfig,
    ModelConfig,
    PhotoConfig,
    PseudoLabelConfig,
    TrainingConfig,
)
from trmml.errors import ConfigError

MODEL = {
    "labels": ["dog", "日本語", "<b>"],
    "prompt_names": ["dog", "nihongo", "bold"],
    "backbone": {"source": "ViT-B-16/openai", "quick_gelu": True, "sha256": "0af9" * 16},
    "photo": {"image_size": 224, "mean": [0.5, 0.25, 0], "std": [1, 0.5, 0.25]},
    "dim": 7,
    "text_width": 11,
}


def test_a_model_configuration_survives_json() -> None:
    config = ModelConfig.from_dict(MODEL)
    assert config.labels == ("dog", "日本語", "<b>")
    assert config.photo == PhotoConfig(image_size=224, mean=(0.5, 0.25, 0.0), std=(1.0, 0.5, 0.25))
    assert config.matching == MatchingConfig()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_setting_survives_json_when_it_is_not_the_default() -> None:
    settings = {
        "matching.way": "text-image",
        "matching.context_init": "a photo of",
        "matching.region_mlp": False,
        "training.epochs": 3,
        "training.features": "augmented",
        "loss.clip": 0.0,
        "pseudo_labels.relations": "intra",
        "image_size": 448,
    }
    config = FinetuneConfig().changed(settings)
    assert config.matching.way == "text-image"
    assert config.image_size == 448
    assert FinetuneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingConfig().epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_a_whole_number_may_stand_for_a_float_and_becomes_one() -> None:
    value = LossConfig.from_dict({"gamma_positive": 2}).gamma_positive
    assert value == 2.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": {"epoch": 3}}, r"setting training\.epoch\. Did you mean 'epochs'\?"),
        (
            {"trainng": {}},
            r"setting trainng\. Did you mean 'training'\? Known: matching, training, ",
        ),
        ({"training": {"qqqq": 3}}, r"setting training\.qqqq\. Known: epochs, .* in all\)"),
        ({"training": 5}, "training must be a table of settings, got int"),
        ([], "FinetuneConfig must be a table of settings, got list"),
        (None, "FinetuneConfig must be a table of settings, got NoneType"),
    ],
)
def test_a_setting_that_does_not_exist_is_answered_with_those_that_do(
    values: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig.from_dict(values)


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        ("training", "epochs", True, r"training\.epochs must be of type int, got True"),
        ("training", "epochs", 3.0, r"training\.epochs must be of type int, got 3\.0"),
        ("training", "epochs", None, "must be of type int, got None"),
        ("training", "learning_rate", "0.1", "learning_rate must be of type float, got '0.1'"),
        ("training", "learning_rate", False, "learning_rate must be of type float, got False"),
        ("training", "learning_rate", [0.1], r"must be of type float, got \[0\.1\]"),
        ("training", "learning_rate", float("inf"), "must be a finite number, got inf"),
        ("training", "weight_decay", float("nan"), "must be a finite number, got nan"),
        pytest.param(
            *("training", "cache_gb", 10**400, "must be a finite number, got 1000"), id="huge"
        ),
        ("training", "train_prompts", 1, "train_prompts must be of type bool, got 1"),
        ("training", "views", "flip", "must be one of plain, plain\\+flip; got 'flip'"),
        ("training", "views", ["plain"], r"must be one of .* got \['plain'\]"),
        ("matching", "context_init", 5, r"matching\.context_init must be of type str, got 5"),
    ],
)
def test_a_value_of_another_type_is_refused(
    group: str, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig.from_dict({group: {name: value}})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", "dog", "labels must be a list, got 'dog'"),
        ("labels", ["dog", 5], r"labels\[1\] must be of type str, got 5"),
        ("labels", ["a", "b", "a"], r"must be all different, got \['a'\]"),
        ("labels", ["a", " ", "b"], "labels must be not blank"),
        ("labels", [], "must be 1 to 100000 names, got 0"),
        ("labels", ["a"] * 100_001, "has 100001 items; the most is 100000"),
        ("prompt_names", ["a"], r"as many as labels \(3\), got 1"),
        ("dim", 0, r"dim must be in \[1, 16384\], got 0"),
        ("text_width", 16385, r"text_width must be in \[1, 16384\], got 16385"),
        ("backbone", "ViT-B-16", "backbone must be a table of settings, got str"),
        ("matching", {"num_head": 2}, r"setting matching\.num_head\. Did you mean 'num_heads'"),
    ],
)
def test_a_model_configuration_that_does_not_fit_together_is_refused(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(MODEL | {name: value})


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        ("photo", "mean", [0.5, 0.5], r"photo\.mean must have 3 items, got 2"),
        ("photo", "std", [0.5, "1", 1], r"photo\.std\[1\] must be of type float, got '1'"),
        ("photo", "std", [0.5, 0, 1], "std must be positive"),
        ("photo", "mean", [0.5, float("nan"), 1], r"photo\.mean\[1\] must be a finite number"),
        ("photo", "image_size", 15, r"photo\.image_size must be in \[16, 2048\], got 15"),
        ("backbone", "sha256", "0AF9" * 16, r"backbone\.sha256 must be 64 hexadecimal digits"),
        ("backbone", "sha256", "0af9" * 15, r"backbone\.sha256 must be 64 hexadecimal digits"),
    ],
)
def test_a_group_of_a_model_configuration_is_checked_too(
    group: str, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(MODEL | {group: MODEL[group] | {name: value}})


def test_a_missing_setting_is_named_with_its_group() -> None:
    backbone = {"source": "ViT-B-16/openai", "quick_gelu": True}
    with pytest.raises(ConfigError, match=r"Missing setting backbone\.sha256"):
        ModelConfig.from_dict(MODEL | {"backbone": backbone})


@pytest.mark.parametrize(
    ("group", "name", "values"),
    [
        (MatchingConfig, "num_context_tokens", (0, 65)),
        (MatchingConfig, "num_heads", (0, 65)),
        (MatchingConfig, "logit_scale", (0.9, 100.1)),
        (TrainingConfig, "epochs", (0,)),
        (TrainingConfig, "batch_size", (0,)),
        (TrainingConfig, "learning_rate", (0.0,)),
        (TrainingConfig, "prompt_learning_rate", (-1.0,)),
        (TrainingConfig, "weight_decay", (-0.1,)),
        (TrainingConfig, "cache_gb", (-0.1,)),
        (TrainingConfig, "num_workers", (-1,)),
        (TrainingConfig, "seed", (-1, 2**32)),
        (TrainingConfig, "ema_decay", (-0.1, 1.0)),
        (TrainingConfig, "val_fraction", (0.0, 1.0)),
        (LossConfig, "gamma_negative", (-0.1,)),
        (LossConfig, "contrastive", (-0.1,)),
        (LossConfig, "assumed_negative", (-0.1,)),
        (LossConfig, "clip", (-0.1, 1.0)),
        (PseudoLabelConfig, "positive_threshold", (1.1,)),
        (PseudoLabelConfig, "negative_threshold", (-0.1, 0.97)),
        (PseudoLabelConfig, "weight", (-0.1,)),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(
    group: type, name: str, values: tuple[float, ...]
) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"{name} must be .*, got {value}"):
            group(**{name: value})


def test_a_range_says_which_of_its_ends_belong_to_it() -> None:
    half_open = Interval(0, 1, "[)")
    assert [value in half_open for value in (-0.1, 0, 0.5, 1)] == [False, True, True, False]
    assert str(half_open) == "in [0, 1)"
    assert (str(at_least(1)), str(above(0))) == ("at least 1", "above 0")
    assert [value in above(0) for value in (0, 1e-9, 1e99)] == [False, True, True]


def test_a_recipe_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    text = '\ufeffimage_size = 96\n[training]\nepochs = 3\n[matching]\nway = "text-pixel"\n'
    recipe.write_text(text, encoding="utf-8")
    assert FinetuneConfig.from_toml(recipe) == FinetuneConfig(
        image_size=96,
        training=TrainingConfig(epochs=3),
        matching=MatchingConfig(way="text-pixel"),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[training]\nepochs = x\n", r"r\.toml is not valid TOML: .*line 2"),
        (b"name = '\xe4'", r"r\.toml is not valid TOML: 'utf-8' codec"),
        (b"[training]\nepochs = 'three'", r"r\.toml: training\.epochs must be of type int"),
        (b"[loss]\nclip = nan", r"r\.toml: loss\.clip must be a finite number, got nan"),
        (b"epochs = 3", r"r\.toml: Unknown setting epochs\. "),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "r.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig.from_toml(tmp_path / "r.toml")


def test_a_recipe_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the recipe .*r\.toml: No such file"):
        FinetuneConfig.from_toml(tmp_path / "r.toml")


def test_settings_change_by_dotted_name_in_a_copy() -> None:
    before = FinetuneConfig(training=TrainingConfig(epochs=3))
    after = before.changed({"training.epochs": 5, "loss.clip": 0, "image_size": None})
    assert before.training.epochs == 3
    assert after == FinetuneConfig(training=TrainingConfig(epochs=5), loss=LossConfig(clip=0.0))


def test_a_group_may_be_replaced_as_a_whole() -> None:
    before = FinetuneConfig(training=TrainingConfig(epochs=3))
    assert before.changed({"training": {"seed": 7}}).training == TrainingConfig(seed=7)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("training.epoch", 5, r"setting training\.epoch\. Did you mean 'training\.epochs'\?"),
        ("epochs", 5, r"setting epochs\. Did you mean 'training\.epochs'\?"),
        ("training.epochs.more", 5, r"Unknown setting training\.epochs\.more\."),
        ("no.such.thing", 5, r"Unknown setting no\.such\.thing\. .*Known: matching\.way"),
        ("", 5, r"Unknown setting \. Known"),
        ("training.epochs", 0, r"training\.epochs must be at least 1, got 0"),
        ("training.epochs", "5", r"training\.epochs must be of type int, got '5'"),
        ("training", 5, "training must be a table of settings, got int"),
    ],
)
def test_a_wrong_change_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig().changed({name: value})
