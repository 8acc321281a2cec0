import dataclasses
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import skimage.data
import torch
from conftest import CATEGORIES, trained_like
from hub_server import HubServer

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.config.groups import MatchingConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError, ModelNotFoundError, OfflineError
from trmml.files import BUNDLED, write_json
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prompts import COMMON_NAMES, FEW_NAMES, relative_text
from trmml.matcher.thresholds import Calibration
from trmml.tasks.exporting import export
from trmml.zoo.catalog import list_models, verify_model
from trmml.zoo.folder import add_metrics, save_model
from trmml.zoo.loading import load_for_training, load_model, make_config

Maker = Callable[..., MultiLabelDataset]

NEW = ("traffic_light", "dog")


TEST_METRICS = {
    "images": 2,
    "mAP": 0.25,
    "at_thresholds": {"label_f1": 0.5, "overall_f1": 0.5},
    "per_label": {},
}


def photos() -> torch.Tensor:
    return torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def scores(model: TextRegionMatcher) -> torch.Tensor:
    with torch.no_grad():
        return model(photos()).logits


def assert_same_scores(found: torch.Tensor, expected: torch.Tensor) -> None:
    # Not bit for bit: how a matrix product rounds depends on the number of its rows.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


WAYS = pytest.mark.parametrize("matching", ["text-region", "text-pixel", "text-image"])
CONTEXTS = pytest.mark.parametrize("label_specific_context", [True, False])
NEGATIVES = pytest.mark.parametrize("negative_prompt", [True, False])


@pytest.mark.parametrize("templates", [["a {}"], ["an aerial view of a {}", "the {} from above"]])
def test_zero_shot_compares_photo_and_best_patches_with_hand_written_prompts(
    backbone: FrozenCLIP, backbone_source: str, templates: list[str]
) -> None:
    labels = ["hot dog", "traffic_light", "sea"]
    model = load_model(
        "zero-shot", labels=labels, backbone=backbone_source, templates=templates, device="cpu"
    )
    assert model.labels == tuple(labels)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    clip: Any = open_clip.create_model(backbone_source).eval()
    names = (*labels, *COMMON_NAMES)
    prompts = [
        f"{template.format(name.replace('_', ' '))}." for template in templates for name in names
    ]
    with torch.no_grad():
        text = clip.encode_text(open_clip.tokenize(prompts), normalize=True)
        text = text.unflatten(0, (len(templates), -1)).mean(dim=0)
        text = text / text.norm(dim=-1, keepdim=True)
        text = text[:3] - text.mean(dim=0)
        products = clip.encode_image(photos(), normalize=True) @ text.T
        patches = backbone(photos()).patch_features
        patches = patches / patches.norm(dim=-1, keepdim=True)
        best = (patches @ text.T).amax(dim=1)
        best = best - best.mean(dim=1, keepdim=True)
        expected = clip.logit_scale.exp() * (products + best / 2) / 1.5
    torch.testing.assert_close(scores(model), expected, rtol=1e-4, atol=1e-4)


def test_zero_shot_takes_photos_of_another_size(backbone_source: str) -> None:
    model = load_model("zero-shot", labels=CATEGORIES, backbone=backbone_source, image_size=96)
    assert model.config.photo.image_size == 96
    assert model.backbone.num_patches == 36


def test_zero_shot_needs_labels(backbone_source: str) -> None:
    with pytest.raises(ConfigError, match="Zero-shot needs labels"):
        load_model("zero-shot", backbone=backbone_source)


def test_zero_shot_compares_few_labels_with_common_things(backbone: FrozenCLIP) -> None:
    tower, many = backbone.text_tower, tuple(f"thing {i}" for i in range(FEW_NAMES))
    assert tower is not None
    text = tower.encode_names(many, ("a {}",))
    torch.testing.assert_close(relative_text(tower, many, ("a {}",)), text - text.mean(dim=0))
    common = tower.encode_names(COMMON_NAMES, ("a {}",))
    for few in (1, 2, FEW_NAMES - 1):
        mean = torch.cat([text[:few], common]).mean(dim=0)
        torch.testing.assert_close(relative_text(tower, many[:few], ("a {}",)), text[:few] - mean)


def test_one_label_is_enough(backbone_source: str, make_dataset: Maker) -> None:
    data = make_dataset(30).with_labels(("red",))
    alone = load_model("zero-shot", labels=["dog"], backbone=backbone_source)
    scores = [one.scores[0] for one in alone.predict_many(data.photos)]
    assert len(set(scores)) > 20  # which differ by photo
    quick = {"training.epochs": 1, "matching.num_context_tokens": 2, "matching.num_heads": 2}
    model = trmml.finetune(data, val=data, backbone=backbone_source, config=quick)
    assert model.report is not None
    assert set(model.report["finetune"]["compared_with"]) == {"zero-shot", "linear probe"}


def test_labels_are_names_and_no_text(backbone_source: str) -> None:
    with pytest.raises(ConfigError, match="must be a list of names, got the text 'dog'"):
        load_model("zero-shot", labels="dog", backbone=backbone_source)


def test_a_template_says_where_the_label_goes(backbone_source: str, tmp_path: Path) -> None:
    arguments = {"labels": ["dog", "cat"], "backbone": backbone_source}
    for wrong in ("a photo", "{} or {}", "a {label}"):
        with pytest.raises(ConfigError, match="where the label goes"):
            load_model("zero-shot", templates=["a {}", wrong], **arguments)
    with pytest.raises(ConfigError, match="must be a list of texts, got the text"):
        load_model("zero-shot", templates="a {}", **arguments)
    with pytest.raises(ConfigError, match="a trained model has learned its prompts"):
        load_model(templates=["a {}"])


def test_labels_that_repeat_or_are_blank_are_refused(backbone_source: str) -> None:
    with pytest.raises(ConfigError, match=r"all different, got \['dog'\]"):
        load_model("zero-shot", labels=["dog", "cat", "dog"], backbone=backbone_source)
    with pytest.raises(ConfigError, match="not blank"):
        load_model("zero-shot", labels=["dog", " "], backbone=backbone_source)


def test_an_unknown_name_brings_the_nearest_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"'zero-shoot'. Did you mean 'zero-shot'.*finetune"
    ):
        load_model("zero-shoot")
    with pytest.raises(ModelNotFoundError, match="small-clip is a CLIP and knows no labels"):
        load_model("small-clip")
    with pytest.raises(ModelNotFoundError, match=r"No model .*elsewhere"):
        load_model(tmp_path / "elsewhere")


def test_a_label_that_was_not_learned_is_named(
    backbone: FrozenCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = MatchingConfig(num_heads=2, num_context_tokens=2)
    model = TextRegionMatcher(make_config(backbone, CATEGORIES, settings), backbone)
    model.start_from_text()
    save_model(model, tmp_path / "m")
    load_model(tmp_path / "m", labels=["red", "gren"])
    assert "'gren' was not learned, and is scored by its name alone. Did you mean 'green'?" in (
        caplog.text
    )
    assert "'red'" not in caplog.text.partition("Known")[0]


def test_a_name_may_be_too_long_for_a_folder() -> None:
    with pytest.raises(ModelNotFoundError, match="No model 'aaa"):
        load_model("a" * 300)


def test_zero_shot_is_made_anew_for_other_labels(backbone_source: str, tmp_path: Path) -> None:
    model = load_model("zero-shot", labels=["dog", "cat", "car"], backbone=backbone_source)
    save_model(model, tmp_path / "zero")
    assert load_model(tmp_path / "zero").labels == ("dog", "cat", "car")
    with pytest.raises(ConfigError, match=r"each label is compared with all the others; make one"):
        load_model(tmp_path / "zero", labels=["dog", "cat", "bus"])


def test_a_name_with_an_unknown_user_is_a_name_like_any_other() -> None:
    with pytest.raises(ModelNotFoundError, match=r"No model '~nobody-here/runs/shop'"):
        load_model("~nobody-here/runs/shop")
    with pytest.raises(ConfigError, match="'~nobody-here/shop' is no name on the Hugging Face Hub"):
        load_model("~nobody-here/shop")


@pytest.fixture
def bundled(
    backbone: FrozenCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TextRegionMatcher:
    """A model that comes with the package under two names: shop, and garden with more facts."""
    monkeypatch.setattr("trmml.zoo.catalog.BUNDLED", tmp_path / "weights")
    assert list_models() == []
    model = trained_like(backbone)
    for name in ("shop", "garden"):
        save_model(model, tmp_path / "weights" / name)
    about = {"summary": "Things in a garden.", "license": "mit"}
    write_json(tmp_path / "weights" / "garden" / "about.json", about)
    add_metrics(tmp_path / "weights" / "garden", "test", TEST_METRICS)
    return model


def test_bundled_models_are_listed_with_their_facts(bundled: TextRegionMatcher) -> None:
    garden, shop = list_models()
    assert (garden.name, shop.name) == ("garden", "shop")
    assert (garden.summary, garden.license) == ("Things in a garden.", "mit")
    assert (garden.test_map, shop.test_map) == (0.25, None)
    assert garden.labels == bundled.labels
    assert garden.to_dict()["backbone"] == bundled.config.backbone.source


def test_a_bundled_model_is_loaded_by_its_name(bundled: TextRegionMatcher) -> None:
    loaded = load_model("shop", device="cpu")
    assert loaded.source == "shop"
    assert torch.equal(scores(loaded), scores(bundled))


def test_a_mistyped_name_of_a_bundled_model_brings_the_nearest(bundled: TextRegionMatcher) -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean 'shop'"):
        load_model("shp")


def test_a_trained_model_has_its_own_photo_size(backbone: FrozenCLIP, tmp_path: Path) -> None:
    folder = save_model(trained_like(backbone), tmp_path / "model")
    with pytest.raises(ConfigError, match="image_size is for zero-shot"):
        load_model(folder, image_size=96)


def test_a_folder_with_other_labels_keeps_the_scores_of_the_known_ones(
    backbone: FrozenCLIP, tmp_path: Path
) -> None:
    model = trained_like(backbone)
    folder = save_model(model, tmp_path / "model")
    changed = load_model(folder, labels=["blue", *NEW, "red"], device="cpu")
    assert_same_scores(scores(changed)[:, [3, 0]], scores(model)[:, [0, 2]])


@WAYS
@CONTEXTS
@NEGATIVES
def test_new_labels_leave_the_known_ones_as_they_are(
    backbone: FrozenCLIP, matching: str, label_specific_context: bool, negative_prompt: bool
) -> None:
    model = trained_like(
        backbone,
        way=matching,
        label_specific_context=label_specific_context,
        negative_prompt=negative_prompt,
    )
    changed = model.relabelled([NEW[0], *CATEGORIES, NEW[1]])
    assert changed.labels == (NEW[0], *CATEGORIES, NEW[1])
    assert_same_scores(scores(changed)[:, 1:4], scores(model))
    before, after = model.learned_state(), changed.learned_state()
    assert set(before) == set(after)
    for name, tensor in before.items():
        kept = after[name] if after[name].shape == tensor.shape else after[name][1:4]
        assert torch.equal(kept, tensor), name


@NEGATIVES
def test_new_labels_are_scored_by_the_text_that_is_stored_for_them(
    backbone: FrozenCLIP, negative_prompt: bool
) -> None:
    changed = trained_like(backbone, negative_prompt=negative_prompt).relabelled(NEW)
    assert scores(changed).isfinite().all()
    assert scores(changed).std(dim=0).min() > 0
    text = changed.encode_text()
    torch.testing.assert_close(text.present, changed.present.text_features)
    assert (text.absent is None) == (changed.absent is None) == (not negative_prompt)
    if text.absent is not None:
        torch.testing.assert_close(text.absent, changed.absent.text_features)


@CONTEXTS
def test_new_labels_start_from_text_and_what_all_have_learned(
    backbone: FrozenCLIP, label_specific_context: bool
) -> None:
    model = trained_like(backbone, label_specific_context=label_specific_context)
    changed = model.relabelled([*CATEGORIES, *NEW])
    torch.testing.assert_close(changed.logit_bias[3:], model.logit_bias.mean().expand(2))
    if label_specific_context:
        mean = model.present.prompts.context.mean(dim=0)
        torch.testing.assert_close(changed.present.prompts.context[3:], mean.expand(2, -1, -1))
    by_hand = changed.hand_written_text()[3:]
    torch.testing.assert_close(changed.matching.regions.queries[3:], by_hand)
    text = changed.encode_text()
    for prototypes, expected in (
        (changed.present.prototypes, text.present),
        (changed.absent.prototypes, text.absent),
    ):
        torch.testing.assert_close(prototypes.text[3:], expected[3:])
        torch.testing.assert_close(prototypes.visual[3:], expected[3:])
    torch.testing.assert_close(changed.present.text_features.norm(dim=1)[3:], torch.ones(2))
    assert changed.config.prompt_names[3:] == ("traffic light", "dog")


def test_thresholds_move_with_their_labels_and_new_ones_get_the_global_one(
    backbone: FrozenCLIP,
) -> None:
    model = trained_like(backbone)
    calibration = model.relabelled(["blue", "dog", "red"]).calibration
    assert calibration.thresholds == (0.6, 0.3, 0.2)
    assert calibration.known_positives == (7, 0, 5)
    assert (calibration.global_threshold, calibration.method) == (0.3, "test")
    model.calibration = Calibration.uncalibrated(3)
    assert model.relabelled(["blue", "dog"]).calibration.thresholds == (0.5, 0.5)


@WAYS
@CONTEXTS
def test_reordered_labels_reorder_the_scores(
    backbone: FrozenCLIP, matching: str, label_specific_context: bool
) -> None:
    model = trained_like(backbone, way=matching, label_specific_context=label_specific_context)
    order = [2, 0, 1]
    changed = model.relabelled([CATEGORIES[i] for i in order])
    assert_same_scores(scores(changed), scores(model)[:, order])


def test_a_known_label_keeps_its_prompt_name(backbone: FrozenCLIP) -> None:
    model = trained_like(backbone)
    names = ("bright red", "green", "blue")
    model.config = dataclasses.replace(model.config, prompt_names=names)
    assert model.relabelled(["dog", "red"]).config.prompt_names == ("dog", "bright red")


def test_other_labels_need_the_text_tower(backbone_source: str, backbone: FrozenCLIP) -> None:
    model = trained_like(backbone)
    model.backbone = FrozenCLIP.load(backbone_source, text=False)
    with pytest.raises(ConfigError, match="text tower"):
        model.relabelled(NEW)


def test_a_model_for_training_has_its_text_tower(backbone: FrozenCLIP, tmp_path: Path) -> None:
    model = trained_like(backbone)
    copy = load_for_training(model)
    assert copy.backbone is model.backbone
    with torch.no_grad():
        copy.logit_bias += 1  # training a copy leaves the caller's model as it is
    assert not torch.equal(copy.logit_bias, model.logit_bias)
    folder = save_model(model, tmp_path / "model")
    for source in (folder, str(folder), load_model(folder, device="cpu")):
        again = load_for_training(source)
        torch.testing.assert_close(again.encode_text().present, model.present.text_features)
    model.backbone.text_tower = None
    with pytest.raises(ConfigError, match="has no text tower; save it"):
        load_for_training(model)


def test_the_words_that_start_a_context_fix_its_length(backbone: FrozenCLIP) -> None:
    matching = MatchingConfig(context_init="a photo of a small")
    assert make_config(backbone, CATEGORIES, matching).matching.num_context_tokens == 5


BUNDLED_MODELS = {"coco18-tiny": 18, "everyday-tiny": 209}


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_every_file_of_a_bundled_model_and_its_clip_is_as_published(name: str) -> None:
    checks = verify_model(name)
    assert {check.name for check in checks} >= {
        f"{name}/model.safetensors",
        f"{name}/README.md",
        "small-clip/open_clip_model.safetensors",
    }
    assert all(check.is_intact for check in checks)


def test_a_tagger_of_everyday_things_is_loaded_by_default() -> None:
    model = load_model()
    assert model.source == "everyday-tiny"
    assert model.backbone.num_patches == 49


def test_the_bundled_models_are_listed_with_their_labels() -> None:
    assert {info.name: len(info.labels) for info in list_models()} == BUNDLED_MODELS


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_a_bundled_model_tells_a_person_from_a_cat(name: str) -> None:
    model = load_model(name)
    cat = trmml.predict(skimage.data.chelsea(), model)
    person = trmml.predict(skimage.data.astronaut(), model)
    assert "person" in [tag.label for tag in person.positive]
    assert "cat" in [tag.label for tag in cat.positive]
    assert "person" not in [tag.label for tag in cat.positive]
    assert "cat" not in [tag.label for tag in person.positive]


def test_a_cup_of_coffee_is_nobody() -> None:
    prediction = trmml.predict(skimage.data.coffee())
    assert "cup" in [tag.label for tag in prediction.top(3)]
    assert not {"person", "man", "woman", "child"} & {tag.label for tag in prediction.positive}


def test_one_flipped_byte_of_the_bundled_model_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(BUNDLED, tmp_path / "weights")
    monkeypatch.setattr("trmml.zoo.catalog.BUNDLED", copied)
    path = copied / "coco18-tiny" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(bytes(content))
    damaged = [check.name for check in verify_model("coco18-tiny") if not check.is_intact]
    assert damaged == ["coco18-tiny/model.safetensors"]


def test_other_labels_on_the_bundled_clip_without_any_download() -> None:
    model = load_model("zero-shot", labels=["a cat", "an airplane", "a bus"])
    assert model.config.backbone.source == "small-clip"
    assert np.isfinite(trmml.predict(skimage.data.chelsea(), model).scores).all()
    carried = load_model(labels=["cat", "dog", "zebra"])
    assert carried.labels == ("cat", "dog", "zebra")
    scores = trmml.predict(skimage.data.chelsea(), carried)
    assert scores["cat"] == pytest.approx(trmml.predict(skimage.data.chelsea())["cat"], abs=1e-5)


@pytest.mark.parametrize(
    "name",
    ["ViT-B-16-quickgelu/openai", "RN50/file:a.safetensors", "hf-hub:acme/clip", "small-clip"],
)
def test_a_clip_in_place_of_a_model_is_named_as_one(hub: HubServer, name: str) -> None:
    with pytest.raises(
        ModelNotFoundError, match="is a CLIP and knows no labels; name it as the back"
    ):
        load_model(name)
    assert not hub.requests


def test_a_mistyped_folder_is_not_only_a_name_on_the_hub(hub: HubServer) -> None:
    with pytest.raises(
        ModelNotFoundError, match="There is no folder 'rnus/shop' here, and as a name"
    ):
        load_model("rnus/shop")
    with pytest.raises(OfflineError, match="There is no folder 'rnus/shop' here, and as a name"):
        load_model("rnus/shop", local_files_only=True)


@pytest.mark.parametrize("source", ["zero-shot", "coco18-tiny"])
def test_labels_are_names_and_all_different(source: str) -> None:
    with pytest.raises(ConfigError, match=r"labels must be all different, got \['dog'\]"):
        load_model(source, labels=["dog", "cat", "dog"])
    program = f"import trmml; trmml.load_model({source!r}, labels=['dog', 3])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ConfigError: labels must be names, got 3 (int)." in done.stderr


def test_a_model_in_bfloat16_says_nearly_the_same_and_neither_trains_nor_exports(
    tmp_path: Path,
) -> None:
    exact, rounded = (
        load_model("coco18-tiny", precision=p, device="cpu") for p in ("float32", "bfloat16")
    )
    photo = skimage.data.chelsea()
    scores = [model.predict(photo).scores for model in (exact, rounded)]
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.1
    with pytest.raises(ConfigError, match="to train is loaded with precision='float32'"):
        load_for_training(rounded)
    with pytest.raises(ConfigError, match="to export is loaded with precision='float32'"):
        export(rounded, tmp_path / "model.onnx")
    unchecked: Any = inspect.unwrap(load_model)  # as it is without the type checker of the tests
    with pytest.raises(ConfigError, match="precision is float32 or bfloat16, got 'float16'"):
        unchecked("coco18-tiny", precision="float16")
