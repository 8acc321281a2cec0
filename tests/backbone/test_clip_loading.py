import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import DIM, TEXT, VISION, write_clip
from hub_server import HubServer
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import load_file, save_file

from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.loading import load_clip
from trmml.errors import (
    ArtifactError,
    ConfigError,
    ModelNotFoundError,
    OfflineError,
    UnsupportedBackboneError,
)
from trmml.hub.repository import Access

WEIGHTS = "open_clip_model.safetensors"
ARCHITECTURE = {"embed_dim": DIM, "vision_cfg": VISION["vit"], "text_cfg": TEXT}
BOTH = pytest.mark.parametrize("text", [True, False])


def photos(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path: Path, clip_folders: dict[str, Path]) -> Path:
    """A copy of the tiny ViT that a test may damage."""
    return shutil.copytree(clip_folders["vit"], tmp_path / "clip")


@pytest.fixture
def weights(clip_folders: dict[str, Path]) -> Path:
    return clip_folders["vit"] / WEIGHTS


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What open_clip knows about the tag `colours` of an architecture `Tiny`."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", ARCHITECTURE)
    values = {"hf_hub": "somebody/tiny/", "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear"}
    monkeypatch.setitem(_PRETRAINED, "Tiny", {"colours": values})
    return values


def change_architecture(folder: Path, **changes: Any) -> str:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"] |= changes
    path.write_text(json.dumps(config))
    return f"local-dir:{folder}"


def test_a_folder_says_how_photos_are_prepared_and_what_its_weights_are(folder: Path) -> None:
    clip = FrozenCLIP.load(f"local-dir:{folder}")
    assert clip.photo.to_dict() == {
        "image_size": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "interpolation": "bicubic",
    }
    assert clip.config.to_dict() == {
        "source": f"local-dir:{folder}",
        "quick_gelu": False,
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        **dict.fromkeys(("repository", "revision", "file", "license", "tokenizer_sha256")),
    }


@pytest.mark.parametrize("kind", VISION)
def test_without_the_text_tower_image_features_are_the_same(
    clip_folders: dict[str, Path], kind: str
) -> None:
    source = f"local-dir:{clip_folders[kind]}"
    whole, alone = FrozenCLIP.load(source), FrozenCLIP.load(source, text=False)
    assert alone.text_tower is None
    assert set(alone.state_dict()) < set(whole.state_dict())
    for feature, expected in zip(alone(photos()), whole(photos()), strict=True):
        assert torch.equal(feature, expected)


def test_a_weight_file_of_a_named_architecture_loads(published: dict, weights: Path) -> None:
    clip = FrozenCLIP.load(f"Tiny/file:{weights}")
    assert clip.photo.mean == open_clip.OPENAI_DATASET_MEAN
    expected = FrozenCLIP.load(f"local-dir:{weights.parent}")(photos())
    for feature, same in zip(clip(photos()), expected, strict=True):
        assert torch.equal(feature, same)


@BOTH
def test_weights_of_another_photo_size_get_their_positions_resized(
    tmp_path: Path, published: dict, text: bool
) -> None:
    larger = write_clip(tmp_path / "larger", VISION["vit"] | {"image_size": 96})
    clip = FrozenCLIP.load(f"Tiny/file:{larger / WEIGHTS}", text=text)
    same = FrozenCLIP.load(f"local-dir:{larger}", image_size=64)
    torch.testing.assert_close(clip(photos()).image_features, same(photos()).image_features)


def test_a_published_tag_is_fetched_and_its_commit_remembered(
    hub: HubServer, published: dict, weights: Path
) -> None:
    commit = hub.add("somebody/tiny", {WEIGHTS: weights.read_bytes()})
    clip = FrozenCLIP.load("Tiny/colours")
    assert (clip.photo.mean, clip.photo.interpolation) == ((0.1, 0.2, 0.3), "bilinear")
    assert clip.config.source == "Tiny/colours"
    expected = FrozenCLIP.load(f"local-dir:{weights.parent}")
    assert clip.config.sha256 == expected.config.sha256
    assert torch.equal(clip(photos()).image_features, expected(photos()).image_features)
    origin = (clip.config.repository, clip.config.revision, clip.config.file)
    assert origin == ("somebody/tiny", commit, WEIGHTS)
    hub.add("somebody/tiny", {WEIGHTS: b"others, later"})
    again = FrozenCLIP.load("Tiny/colours", expected=clip.config)
    assert again.config == clip.config


@BOTH
def test_a_folder_on_the_hub_is_fetched_whole(hub: HubServer, folder: Path, text: bool) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    commit = hub.add("acme/clip", files | {"README.md": b"---\nlicense: apache-2.0\n---\n# CLIP\n"})
    clip = FrozenCLIP.load("hf-hub:acme/clip", text=text)
    assert clip.config.license == "apache-2.0"
    expected = FrozenCLIP.load(f"local-dir:{folder}")
    assert torch.equal(clip(photos()).image_features, expected(photos()).image_features)
    assert clip.config.revision == commit
    assert clip.photo == expected.photo
    with pytest.raises(ModelNotFoundError, match="acme/clip has no revision 'v2'"):
        FrozenCLIP.load("hf-hub:acme/clip@v2")


def test_a_tag_that_is_not_in_the_cache_needs_the_network(hub: HubServer) -> None:
    with pytest.raises(OfflineError, match=r"openai is not in the cache and cannot be fetched"):
        load_clip("ViT-B-16-quickgelu/openai", access=Access(local_files_only=True))


def test_a_tag_with_the_other_activation_names_the_right_architecture(
    published: dict,
) -> None:
    with pytest.raises(ConfigError, match="use ViT-B-16-quickgelu/openai"):
        load_clip("ViT-B-16/openai")
    published["quick_gelu"] = True
    with pytest.raises(ConfigError, match="another activation than Tiny has"):
        load_clip("Tiny/colours")


def test_weights_published_without_safetensors_are_refused(published: dict) -> None:
    published["hf_hub"] = ""
    with pytest.raises(UnsupportedBackboneError, match="convert them once and use Tiny/file:"):
        load_clip("Tiny/colours")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("coca_ViT-B-32/laion2b_s13b_b90k", "captioning model.* works is ViT-B-32/laion2b_s34b"),
        ("roberta-ViT-B-32/laion2b_s12b_b32k", "Hugging Face text tower"),
        ("nllb-clip-base-siglip/mrl", "Hugging Face text tower.* works is ViT-B-16-SigLIP2-384/"),
    ],
)
def test_a_text_tower_of_others_is_refused_before_a_download(
    hub: HubServer, source: str, reason: str
) -> None:
    with pytest.raises(UnsupportedBackboneError, match=reason):
        load_clip(source)
    assert not hub.requests


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"multimodal_cfg": {}}, "captioning model"),
        ({"text_cfg": TEXT | {"hf_model_name": "roberta-base"}}, "Hugging Face text tower"),
        ({"text_cfg": TEXT | {"tokenizer_mode": "clips"}}, "tokenizer in a mode of its own"),
        ({"text_cfg": TEXT | {"tokenizer_kwargs": {"clean": "lower"}}}, "tokenizer with options"),
        (
            {
                "text_cfg": TEXT
                | {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"use_fast": False}}
            },
            "a tokenizer with use_fast='False'; supported are clean",
        ),
        ({"text_cfg": TEXT | {"pool_type": "first"}}, "reads out by 'first'"),
    ],
)
def test_a_folder_with_a_text_tower_of_others_is_refused(
    folder: Path, changes: dict, reason: str
) -> None:
    with pytest.raises(UnsupportedBackboneError, match=reason):
        FrozenCLIP.load(change_architecture(folder, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_cfg": "words"}, "not an open_clip configuration"),
        ({"vision_cfg": []}, "not an open_clip configuration"),
        ({"vision_cfg": VISION["vit"] | {"image_size": 5}}, "not an open_clip configuration"),
        ({"vision_cfg": VISION["vit"] | {"image_size": []}}, "not an open_clip configuration"),
        ({"vision_cfg": VISION["vit"] | {"colour": 5}}, "cannot be built: .*'colour'"),
        ({"vision_cfg": VISION["vit"] | {"width": -32}}, "cannot be built"),
        ({"vision_cfg": VISION["vit"] | {"pool_type": "best"}}, "cannot be built"),
        ({"vision_cfg": VISION["timm"] | {"timm_model_name": "rsnet"}}, "cannot be built: .*rsnet"),
        ({"text_cfg": TEXT | {"heads": 7}}, "cannot be built"),
        ({"embed_dim": 8}, "does not fit its architecture: .*size mismatch"),
        ({"text_cfg": TEXT | {"width": 32}}, "does not fit its architecture"),
        ({"text_cfg": TEXT | {"layers": 1}}, "does not fit its architecture: .*Unexpected key"),
    ],
)
def test_an_impossible_or_other_architecture_is_refused(
    folder: Path, changes: dict, reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        load_clip(change_architecture(folder, **changes))


@BOTH
@pytest.mark.parametrize("kind", ["resnet", "timm"])
def test_weights_of_another_kind_of_tower_are_refused(
    clip_folders: dict[str, Path], folder: Path, kind: str, text: bool
) -> None:
    shutil.copy(clip_folders[kind] / WEIGHTS, folder)
    with pytest.raises(ArtifactError, match=r"does not fit its architecture: .*Missing key"):
        load_clip(f"local-dir:{folder}", text=text)


@BOTH
@pytest.mark.parametrize("share", [0, 0.0001, 0.5])
def test_truncated_weights_are_refused(folder: Path, share: float, text: bool) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArtifactError, match=f"{WEIGHTS} is damaged"):
        load_clip(f"local-dir:{folder}", text=text)


@BOTH
def test_a_weight_file_without_tensors_or_with_one_more_is_refused(
    folder: Path, text: bool
) -> None:
    state = load_file(folder / WEIGHTS)
    for tensors in ({}, state | {"visual.more": torch.zeros(1)}):
        save_file(tensors, folder / WEIGHTS)
        with pytest.raises(ArtifactError, match="does not fit its architecture"):
            load_clip(f"local-dir:{folder}", text=text)


def test_other_weights_or_another_activation_than_expected_are_refused(folder: Path) -> None:
    source = f"local-dir:{folder}"
    config = load_clip(source, text=False).config
    other = dataclasses.replace(config, sha256="f" * 64)
    with pytest.raises(ArtifactError, match=f"sha256 {config.sha256[:12]}….* trained on ffffffff"):
        load_clip(source, expected=other)
    other = dataclasses.replace(config, quick_gelu=True)
    with pytest.raises(ArtifactError, match=r"trained with quick_gelu=True, .*quick_gelu=False"):
        load_clip(source, expected=other)


def test_missing_and_foreign_files_are_refused(
    tmp_path: Path, folder: Path, published: dict
) -> None:
    for suffix in (".bin", ".pt"):
        (tmp_path / f"clip{suffix}").write_bytes(b"pickle")
        with pytest.raises(ArtifactError, match=f"clip{suffix} is not a .safetensors file"):
            load_clip(f"Tiny/file:{tmp_path}/clip{suffix}")
    with pytest.raises(ModelNotFoundError, match="no weight file"):
        load_clip(f"Tiny/file:{tmp_path}/clip.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"no open_clip_config.json in .*elsewhere"):
        load_clip(f"local-dir:{tmp_path}/elsewhere")
    (folder / WEIGHTS).rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match=f"no {WEIGHTS}"):
        load_clip(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ViT-B-61/openai", "no architecture 'ViT-B-61'. Did you mean 'ViT-B-16'"),
        ("RN50/opneai", "RN50 has no pretrained tag 'opneai'. Did you mean 'openai'"),
        ("RN50", "'RN50' must have the form `<open_clip name>/<pretrained tag>`"),
        ("RN50/", "must have the form"),
        ("", "must have the form"),
    ],
)
def test_a_name_that_is_not_known_brings_the_nearest(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_clip(source)


def test_a_model_or_a_folder_in_place_of_a_backbone_says_what_to_write(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "config.json").touch()
    for source in ("coco18-tiny", f"{tmp_path}/shop"):
        with pytest.raises(
            ConfigError, match="is a trained model, which knows its CLIP; name it as"
        ):
            load_clip(source)
    with pytest.raises(ConfigError, match=f"as a backbone it is named local-dir:{folder}"):
        load_clip(str(folder))
    with pytest.raises(ConfigError, match="A repository is named hf-hub:<org/name>"):
        load_clip("acme/clip")
    # A folder that happens to have the name of a tag is none.
    (tmp_path / "RN50" / "opneai").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no pretrained tag 'opneai'"):
        load_clip("RN50/opneai")


def test_weights_published_as_pickles_are_converted_by_their_user(
    hub: HubServer, published: dict, weights: Path
) -> None:
    published["hf_hub"] = "somebody/tiny/pytorch_model.bin"
    hub.add("somebody/tiny", {"pytorch_model.bin": b"pickle"})
    with pytest.raises(
        UnsupportedBackboneError, match=r"as pytorch_model.bin in somebody/tiny\); con"
    ):
        load_clip("Tiny/colours")
    hub.add("somebody/tiny", {"pytorch_model.safetensors": weights.read_bytes()})
    assert load_clip("Tiny/colours").config.file == "pytorch_model.safetensors"
