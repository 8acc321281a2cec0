import json
import os
import resource
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import CATEGORIES, trained_like
from PIL import Image
from safetensors.torch import load_file, save_file

from trmml.backbone.clip import FrozenCLIP
from trmml.config.groups import Way
from trmml.errors import ArtifactError, ConfigError, ModelNotFoundError, OutputError
from trmml.matcher.model import TextRegionMatcher
from trmml.zoo.catalog import model_info
from trmml.zoo.folder import load_folder, new_folder, read_config, read_facts, save_model

FILES = {"config.json", "model.safetensors", "calibration.json", "README.md"}


@pytest.fixture
def model(backbone: FrozenCLIP) -> TextRegionMatcher:
    return trained_like(backbone)


@pytest.fixture(scope="module")
def saved(backbone_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = trained_like(FrozenCLIP.load(backbone_source))
    folder = tmp_path_factory.mktemp("saved") / "model"
    return save_model(model, folder, facts={"finetune": {"seconds": 0.5}})


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A model on disk that a test may damage."""
    return shutil.copytree(saved, tmp_path / "model")


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("way", get_args(Way))
@pytest.mark.parametrize("negative_prompt", [True, False])
def test_a_model_comes_back_with_the_same_logits_and_without_its_text_tower(
    backbone: FrozenCLIP, tmp_path: Path, way: str, negative_prompt: bool
) -> None:
    model = trained_like(backbone, way=way, negative_prompt=negative_prompt)
    loaded = load_folder(save_model(model, tmp_path / "model"))
    assert loaded.backbone.text_tower is None
    assert (loaded.config, loaded.calibration) == (model.config, model.calibration)
    assert loaded.source == str(tmp_path / "model")
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    photos = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(photos).logits, model(photos).logits)


def test_with_its_text_tower_a_model_encodes_the_text_it_stores(
    model: TextRegionMatcher, folder: Path
) -> None:
    text = load_folder(folder, text=True).encode_text()
    torch.testing.assert_close(text.present, model.present.text_features)
    stored = None if model.absent is None else model.absent.text_features
    torch.testing.assert_close(text.absent, stored)


def test_the_files_hold_what_was_learned_and_nothing_of_the_backbone(
    model: TextRegionMatcher, folder: Path
) -> None:
    assert {path.name for path in folder.iterdir()} == FILES | {"finetune.json"}
    tensors = load_file(folder / "model.safetensors")
    learned = {n: t for n, t in model.state_dict().items() if not n.startswith("backbone.")}
    assert set(tensors) == set(learned)
    assert all(torch.equal(tensors[name], learned[name]) for name in learned)
    assert read_facts(folder, "finetune") == {"seconds": 0.5}
    assert read_facts(folder, "metrics") == {}
    assert json.loads((folder / "config.json").read_text())["format_version"] == 2


def test_the_files_are_as_readable_as_other_new_files(
    model: TextRegionMatcher, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        folder = save_model(model, tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("measured", [None, 0.5, {"mAP": "high"}])
def test_a_measurement_of_another_form_is_named(folder: Path, measured: Any) -> None:
    (folder / "metrics.json").write_text(json.dumps({"validation": measured}))
    with pytest.raises(ArtifactError, match=r"metrics\.json: 'validation' must hold an object"):
        model_info(folder)


def test_the_size_of_a_model_counts_the_files_that_are_there(
    backbone: FrozenCLIP, tmp_path: Path
) -> None:
    folder = save_model(trained_like(backbone), tmp_path / "model")
    before = model_info(folder).megabytes
    (folder / "old.bin").symlink_to(tmp_path / "gone")
    assert model_info(folder).megabytes == before > 0


def test_a_moved_backbone_is_named_and_must_be_the_same(
    folder: Path, clip_folders: dict[str, Path], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(clip_folders["vit"])
    backbone = json.loads((folder / "config.json").read_text())["backbone"]
    change_json(folder / "config.json", backbone=backbone | {"source": "local-dir:gone"})
    with pytest.raises(ModelNotFoundError, match="moved backbone is named with `backbone=`"):
        load_folder(folder)
    assert load_folder(folder, backbone=f"local-dir:{moved}").labels == CATEGORIES
    with pytest.raises(ArtifactError, match="the model was trained on"):
        load_folder(folder, backbone=f"local-dir:{clip_folders['resnet']}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("logit_bias"), r"missing tensors \['logit_bias'\], unexpected .* \[\]"),
        (lambda t: t.update(more=torch.zeros(1)), r"unexpected tensors \['more'\]"),
        (lambda t: t.update(logit_bias=torch.zeros(2)), r"shape \(2,\), config.json needs \(3,\)"),
        (lambda t: t["patch_center"][1:2].fill_(torch.nan), "patch_center .* no finite numbers"),
        (lambda t: t.update(logit_bias=torch.ones(3).int()), "logit_bias holds torch.int32"),
        (lambda t: t["patch_center"].fill_(3e38), "patch_center .* far too large"),
        (
            lambda t: t.update(logit_bias=t["logit_bias"].to(torch.float8_e4m3fn)),
            "logit_bias holds torch.float8",
        ),
    ],
)
def test_other_tensors_than_the_config_asks_for_are_refused(
    folder: Path, change: Callable, message: str
) -> None:
    change_tensors(folder, change)
    with pytest.raises(ArtifactError, match=message):
        load_folder(folder)


def ten_gigabytes() -> bytes:
    entry = {"dtype": "F32", "shape": [2_500_000_000], "data_offsets": [0, 10_000_000_000]}
    header = json.dumps({"text_features": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: b"",
        lambda old: b"no tensors",
        lambda old: old[:-4],
        lambda old: struct.pack("<Q", 10**10) + b"{}",
        lambda old: ten_gigabytes(),
    ],
    ids=["empty", "text", "truncated", "long header", "large tensor"],
)
def test_damaged_weights_are_refused(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"model.safetensors is damaged"):
        load_folder(folder)


def test_huge_weights_are_not_even_opened(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(4 * 2**30 + 1)  # a hole, which takes no space
    with pytest.raises(ArtifactError, match="larger than 4 GiB"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, r"has format version 3, this trmml reads 2; upgrade"),
        ({"format_version": None}, "format version None; expected 2"),
        ({"format_version": True}, "format version True"),
        ({"format_version": 0}, "format version 0"),
        ({"format_version": 1}, "format version 1; expected 2"),
        ({"colour": 1}, "Unknown setting colour"),
        ({"labels": 10**9}, "labels must be a list, got 1000000000"),
        ({"labels": ["red", 1, "blue"]}, r"labels\[1\] must be of type str"),
        ({"labels": ["red", "red", "blue"]}, "all different"),
        ({"labels": []}, "1 to 100000 names"),
        ({"prompt_names": ["red"]}, "prompt_names must be as many as labels"),
        ({"dim": -16}, r"dim must be in \[1, 16384\], got -16"),
        ({"dim": "16"}, "dim must be of type int"),
        ({"dim": 8}, "dim is 8, but the backbone's joint space has 16"),
        ({"text_width": 0}, r"text_width must be in \[1"),
        ({"text_width": 25}, r"prompts.context has the shape \(3, 24\)"),
        ({"matching": {"num_heads": 3}}, r"num_heads \(3\) must divide"),
        ({"matching": {"num_context_tokens": -1}}, r"num_context_tokens must be in \[1"),
        ({"backbone": None}, "backbone must be a table"),
        ({"photo": {"image_size": 10**9}}, "Missing setting photo.mean"),
    ],
)
def test_a_wrong_configuration_is_refused(folder: Path, changes: dict, message: str) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(ArtifactError, match=message):
        load_folder(folder)


def test_sizes_that_no_model_has_are_refused_before_they_are_allocated(folder: Path) -> None:
    names, path = [f"label {i}" for i in range(100_000)], folder / "config.json"
    change_json(path, labels=names, prompt_names=names)
    matching = {"num_context_tokens": 64, "label_specific_context": True}
    change_json(path, text_width=16384, matching=matching)
    with pytest.raises(ArtifactError, match="contexts of more than 4 GiB"):
        load_folder(folder)


def test_sizes_are_compared_with_the_weights_before_memory_is_taken(folder: Path) -> None:
    names = [f"label {i}" for i in range(60_000)]
    for matching in ({}, {"num_context_tokens": 64, "label_specific_context": True}):
        change_json(folder / "config.json", labels=names, prompt_names=names, matching=matching)
        before = resource.getrusage(resource.RUSAGE_SELF)
        with pytest.raises(ArtifactError, match=r"has the shape \(3.*, config.json needs \(60000"):
            load_folder(folder)
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert after.ru_maxrss - before.ru_maxrss < 200_000  # kilobytes
        assert after.ru_utime - before.ru_utime < 5


@pytest.mark.parametrize("way", ["text-region", "text-pixel"])
def test_a_model_without_finite_scores_is_refused(
    backbone: FrozenCLIP, tmp_path: Path, way: str
) -> None:
    model = trained_like(backbone, way=way)
    folder = save_model(model, tmp_path / "model")
    change_tensors(folder, lambda tensors: [t.fill_(9.9e5) for t in tensors.values()])
    with pytest.raises(ArtifactError, match="gives scores that are no finite numbers"):
        load_folder(folder)


def test_a_score_that_is_no_finite_number_is_no_prediction(model: TextRegionMatcher) -> None:
    photos = [Image.new("RGB", (9, 9), "red")]
    assert np.isfinite(next(model.predict_many(photos)).scores).all()
    model.present.text_features.fill_(torch.nan)
    with pytest.raises(ArtifactError, match="gives a score that is no finite number"):
        next(model.predict_many(photos))


@pytest.mark.parametrize("content", ["[]", "1", "{", "\udcff"])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=r"config.json (must hold an object|is not valid JSON)"):
        read_config(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelNotFoundError, match=f"There is no {name} in .*model"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": {"red": 0.5, "green": 0.5, "cyan": 0.5}}, "name the model's labels"),
        ({"thresholds": {"red": 0.5, "green": 0.5, "blue": 1.5}}, r"numbers in \[0, 1\]"),
        ({"thresholds": None}, "is not a calibration"),
        ({"global_threshold": "high"}, r"numbers in \[0, 1\]"),
    ],
)
def test_thresholds_of_another_model_are_refused(folder: Path, changes: dict, message: str) -> None:
    change_json(folder / "calibration.json", **changes)
    with pytest.raises(ArtifactError, match=message):
        load_folder(folder)


def test_facts_that_are_no_object_are_refused(folder: Path) -> None:
    (folder / "metrics.json").write_text("[1]")
    with pytest.raises(ArtifactError, match=r"metrics.json must hold an object"):
        read_facts(folder, "metrics")


def test_an_existing_folder_is_refused_and_left_as_it_is(
    model: TextRegionMatcher, tmp_path: Path
) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for taken in (folder, folder / "notes.txt"):
        with pytest.raises(ConfigError, match="exists already; choose another output"):
            save_model(model, taken)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_an_empty_folder_is_filled(model: TextRegionMatcher, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert {path.name for path in save_model(model, tmp_path / "empty").iterdir()} == FILES


def interrupted(folder: Path) -> None:
    with new_folder(folder) as part:
        (part / "file").write_text("half")
        raise KeyboardInterrupt


def test_a_failure_while_saving_leaves_nothing_behind(
    model: TextRegionMatcher, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_model(model, tmp_path / "model", facts={"metrics": {"mAP": float("nan")}})
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_output_error(
    model: TextRegionMatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "model", tmp_path / ("long" * 100)):
        with pytest.raises(
            OutputError, match=rf"Cannot write to {place}: .* Choose another output"
        ):
            save_model(model, place)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root could write anywhere
    with pytest.raises(OutputError, match=r"Permission denied\. Choose another output"):
        save_model(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
