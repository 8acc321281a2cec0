import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import untrained
from families import DIM, NAMED, TOKENIZERS, VISION, random_clip, settings_of, write_family
from hub_server import HubServer
from open_clip.pretrained import _PRETRAINED
from tokenizers import processors
from torch import Tensor

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.loading import load_clip
from trmml.backbone.text_towers import CausalTextTower, WholeTextTower
from trmml.backbone.tokenizers import FileTokenizer
from trmml.backbone.towers import image_tower
from trmml.errors import (
    ArtifactError,
    ConfigError,
    DependencyError,
    ModelNotFoundError,
    UnsupportedBackboneError,
)
from trmml.files import sha256_of
from trmml.matcher.prompts import PromptLearner
from trmml.zoo.loading import zero_shot_model

FAMILIES = list(NAMED)
CAUSAL = {"PE-Core", "EVA01", "EVA02", "EVA02-E", "MobileCLIP-B", "ViTamin", "MetaCLIP 2"}
LABELS = ("dog", "a very long, winding name of a Thing", "two words", "Cat")
SIZE = 64


def photos() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of one folder for each family, written when it is asked for."""
    root = tmp_path_factory.mktemp("families")
    return lambda family: (
        root / family if (root / family).is_dir() else write_family(root / family, family)
    )


def ids_as_trained(family: str, texts: list[str]) -> Tensor:
    """What open_clip makes of texts; where it asks transformers, that library's way written out."""
    text: Any = settings_of(family)["text_cfg"]
    length = text["context_length"]
    if family not in TOKENIZERS:
        return open_clip.SimpleTokenizer(context_length=length)(texts)
    tokenizer, _ = TOKENIZERS[family]()
    if family == "SigLIP 2":  # as its settings say, whatever the file has
        ends = [("<eos>", tokenizer.token_to_id("<eos>"))]
        tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", None, ends)
    pad = {"CLIPA": 0, "SigLIP 2": 0}.get(family, 1)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=pad)
    if family.startswith("SigLIP"):
        texts = [text.replace(".", "").replace(",", "").lower() for text in texts]
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)])
    separator = tokenizer.token_to_id("[SEP]")
    return torch.where(ids == separator, 0, ids) if family == "CLIPA" else ids


@pytest.mark.parametrize("family", FAMILIES)
def test_text_features_are_those_of_open_clip(folders: Callable[[str], Path], family: str) -> None:
    clip = random_clip(settings_of(family))
    ids = ids_as_trained(family, [f"a photo of a {name}." for name in LABELS])
    expected = clip.encode_text(ids, normalize=True)
    tower = FrozenCLIP.load(f"local-dir:{folders(family)}").text_tower
    assert type(tower) is (CausalTextTower if family in CAUSAL else WholeTextTower)
    words = tower.embed("a photo of a")
    names, counts = tower.embed_names(LABELS, len(words))
    same = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(tower.encode_behind(words, names, counts), expected, **same)
    prompts = PromptLearner(words)(names, tower.num_start_tokens)
    torch.testing.assert_close(tower(prompts, counts + len(words)), expected, **same)
    # The same texts in one piece, as zero-shot has them.
    whole = tower.embed_names(tuple(f"a photo of a {name}" for name in LABELS), 0)
    torch.testing.assert_close(tower(*whole), expected, **same)
    # Whatever stands behind the end of a prompt.
    filler = torch.randn(len(LABELS), 2, tower.width)
    longer = torch.cat([prompts, filler], dim=1)[:, : tower.context_length]
    torch.testing.assert_close(tower(longer, counts + len(words)), expected, **same)
    assert (expected[0] - expected[1]).abs().max() > 0.05


@pytest.mark.parametrize("family", VISION)
def test_image_features_are_those_of_open_clip(folders: Callable[[str], Path], family: str) -> None:
    clip = random_clip(settings_of(family))
    expected = clip.encode_image(photos())
    _, pooled = image_tower(clip, SIZE)(photos())
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.02
    # Folded batch norms round differently.
    features = FrozenCLIP.load(f"local-dir:{folders(family)}", text=False)(photos())
    torch.testing.assert_close(features.image_features, expected, rtol=1e-5, atol=5e-5)
    assert features.patch_features.shape[::2] == (2, DIM)


@pytest.mark.parametrize("family", ["SigLIP", "PE-Core", "ViTamin"])
def test_a_patch_of_a_pool_is_what_a_constant_map_gives(family: str) -> None:
    clip = random_clip(settings_of(family))
    tower, trunk = image_tower(clip, SIZE), clip.visual.trunk
    cell = torch.randn(2, 1, trunk.num_features)
    trunk.norm.register_forward_hook(lambda _, __, tokens: cell.expand_as(tokens))
    patches, pooled = tower(photos())
    assert patches.shape == (2, 16, DIM)
    torch.testing.assert_close(patches, pooled[:, None].expand_as(patches), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["EVA01", "EVA02", "EVA02-E", "MobileCLIP-B", "MobileCLIP2-L"])
def test_a_patch_behind_a_class_token_is_what_the_last_block_gives_it_alone(family: str) -> None:
    """The reference is the attention of the whole sequence, all but the diagonal hidden from it."""
    clip = random_clip(settings_of(family))
    tower, trunk = image_tower(clip, SIZE), clip.visual.trunk
    last, inputs, read = trunk.blocks[-1], [], []
    hook = last.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    patches, _ = tower(photos())
    hook.remove()
    tokens = inputs[0]
    only_itself = torch.eye(tokens.shape[1], dtype=torch.bool)[None, None]
    before = tokens if family == "EVA02-E" else last.norm1(tokens)
    last.attn.register_forward_hook(lambda _, __, answer: read.append(answer))
    last.attn(before, attn_mask=only_itself.expand(2, -1, -1, -1))
    branch = read[0]
    if family == "EVA02-E":
        branch = last.norm1(branch)
    elif family.startswith("MobileCLIP"):
        branch = last.ls1(branch)
    elif last.gamma_1 is not None:
        branch = last.gamma_1 * branch
    expected = trunk.head(trunk.fc_norm(trunk.norm(branch)))[:, 1:]
    torch.testing.assert_close(patches, expected, rtol=0, atol=1e-5)


def test_the_mean_of_patches_of_a_convolutional_tower_is_the_image_feature() -> None:
    clip = random_clip(settings_of("MobileCLIP-S"))
    patches, pooled = image_tower(clip, SIZE)(photos())
    torch.testing.assert_close(patches.mean(dim=1), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["SigLIP", "PE-Core", "EVA02", "MobileCLIP-B", "ViTamin"])
def test_larger_photos_have_more_patches(folders: Callable[[str], Path], family: str) -> None:
    clip = FrozenCLIP.load(f"local-dir:{folders(family)}", image_size=96, text=False)
    assert clip.grid == (6, 6)
    assert clip(torch.randn(1, 3, 96, 96)).image_features.isfinite().all()


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B-16-SigLIP2",
        "PE-Core-B-16",
        "EVA02-B-16",
        "MobileCLIP-B",
        "MobileCLIP2-S0",
        "ViTamin-S",
    ],
)
def test_an_architecture_of_its_real_size_has_the_image_features_of_open_clip(name: str) -> None:
    settings: Any = open_clip.get_model_config(name)
    small = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    clip = open_clip.CustomTextCLIP(settings["embed_dim"], settings["vision_cfg"], small).eval()
    size = settings["vision_cfg"]["image_size"]
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = clip.encode_image(image)
        _, pooled = image_tower(clip, size)(image)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_trained_for_two_steps_saved_and_used_without_the_text_tower(
    folders: Callable[[str], Path], make_dataset: Callable, tmp_path: Path, family: str
) -> None:
    data, source = make_dataset(), f"local-dir:{folders(family)}"
    settings = {"training.epochs": 1, "training.batch_size": 4, "matching.num_context_tokens": 2}
    out = tmp_path / "out"
    model = trmml.finetune(data, val=data, backbone=source, config=settings, output=out)
    again = trmml.load_model(out, device="cpu")
    assert again.backbone.text_tower is None
    ours = [prediction.scores for prediction in model.predict_many(data.photos)]
    theirs = [prediction.scores for prediction in again.predict_many(data.photos)]
    np.testing.assert_allclose(np.stack(ours), np.stack(theirs), rtol=0, atol=1e-6)
    assert np.stack(ours).std(axis=0).min() > 0
    assert (model.config.backbone.tokenizer_sha256 is not None) == (family in TOKENIZERS)


@pytest.mark.parametrize("family", ["SigLIP 2", "MobileCLIP-S", "CLIPA"])
def test_learned_prompts_of_a_tower_that_is_not_causal_get_their_gradient(
    folders: Callable[[str], Path], family: str
) -> None:
    """Whether the context is one for all, or each label has its own."""
    backbone, features = FrozenCLIP.load(f"local-dir:{folders(family)}"), []
    for own in (False, True):
        model = untrained(backbone, LABELS[:3], label_specific_context=own, num_context_tokens=2)
        contexts = [side.prompts.context for side in model.sides]
        same = torch.randn(2, DIM, generator=torch.Generator().manual_seed(3))
        for context in contexts:
            context.data.copy_(same.expand_as(context))
        text = model.encode_text()
        text.present[:, :3].square().sum().backward()
        gradient = contexts[0].grad
        features.append((text.present.detach(), gradient.sum(dim=0) if own else gradient))
    torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-6)
    assert features[0][1].abs().max() > 1e-4


def test_hand_written_prompts_are_encoded_once(folders: Callable[[str], Path]) -> None:
    backbone = FrozenCLIP.load(f"local-dir:{folders('SigLIP 2')}")
    calls = []
    backbone.text_tower.ln_final.register_forward_hook(lambda *_: calls.append(1))
    model = zero_shot_model(backbone, LABELS)
    before = len(calls)
    for _ in range(2):
        model.predict(np.zeros((64, 64, 3), dtype=np.uint8))
    assert len(calls) == before


def uploaded(hub: HubServer, folder: Path, name: str) -> None:
    hub.add(name, {path.name: path.read_bytes() for path in folder.iterdir()})


@pytest.mark.parametrize("family", ["SigLIP 2", "CLIPA", "PE-Core", "MobileCLIP-S", "EVA02"])
def test_a_repository_on_the_hub_brings_its_own_tokenizer(
    hub: HubServer, folders: Callable[[str], Path], family: str
) -> None:
    folder = folders(family)
    uploaded(hub, folder, "acme/clip")
    found = FrozenCLIP.load("hf-hub:acme/clip")
    expected = FrozenCLIP.load(f"local-dir:{folder}")
    for clip in (found, expected):
        clip.names = clip.text_tower(*clip.text_tower.embed_names(LABELS, 0))
    assert torch.equal(found.names, expected.names)
    assert found.config.tokenizer_sha256 == expected.config.tokenizer_sha256
    # And no other repository, whatever its configuration names.
    asked = [request for request in hub.requests if "/resolve/" in request or "/api/" in request]
    assert {"acme/clip" in request for request in asked} == {True}
    hub.requests.clear()
    assert FrozenCLIP.load("hf-hub:acme/clip", text=False).text_tower is None
    assert not any("tokenizer" in request for request in hub.requests)


def test_a_repository_without_its_tokenizer_is_one_line(
    hub: HubServer, folders: Callable[[str], Path]
) -> None:
    files = {p.name: p.read_bytes() for p in folders("SigLIP").iterdir() if "token" not in p.name}
    hub.add("acme/clip", files)
    with pytest.raises(
        ModelNotFoundError, match=r"on the Hub has no file tokenizer\.json"
    ) as caught:
        FrozenCLIP.load("hf-hub:acme/clip")
    assert "\n" not in str(caught.value)


def test_a_listed_name_takes_the_tokenizer_that_open_clip_names(
    hub: HubServer, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = folders("SigLIP 2"), settings_of("SigLIP 2")
    settings["text_cfg"] = settings["text_cfg"] | {"hf_tokenizer_name": "acme/words"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", settings)
    monkeypatch.setitem(_PRETRAINED, "Tiny", {"colours": {"hf_hub": "acme/clip/"}})
    uploaded(hub, folder, "acme/clip")
    with pytest.raises(ModelNotFoundError, match="acme/words"):
        FrozenCLIP.load("Tiny/colours")
    words = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    hub.add("acme/words", {path.name: path.read_bytes() for path in words})
    clip = FrozenCLIP.load("Tiny/colours")
    assert clip.config.tokenizer_sha256 == sha256_of(words[0])
    # Another tokenizer than a model was trained with gives other texts.
    hub.add("acme/words", {"tokenizer.json": words[0].read_bytes() + b" "})
    with pytest.raises(ArtifactError, match=r"tokenizer .* but the model was trained with"):
        FrozenCLIP.load("Tiny/colours", expected=clip.config)
    FrozenCLIP.load("Tiny/colours", expected=clip.config, text=False)


def test_a_weight_file_has_its_tokenizer_beside_it(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: HubServer
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", settings_of("SigLIP"))
    file = folders("SigLIP") / "open_clip_model.safetensors"
    assert FrozenCLIP.load(f"Tiny/file:{file}").config.tokenizer_sha256
    alone = tmp_path / file.name
    alone.hardlink_to(file)
    with pytest.raises(ModelNotFoundError, match=f"no tokenizer.json in {tmp_path}; copy it there"):
        FrozenCLIP.load(f"Tiny/file:{alone}")
    assert not hub.requests


def test_the_library_is_asked_for_where_it_is_missing(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    source = f"local-dir:{folders('SigLIP')}"
    with pytest.raises(DependencyError, match=r"pip install trmml\[tokenizers\]"):
        load_clip(source)
    assert load_clip(source, text=False).tokenizer is None
    assert FrozenCLIP.load(f"local-dir:{folders('PE-Core')}").text_tower is not None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"model": {"type": "BPE"}}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="is no tokenizer of the library tokenizers") as caught:
        FileTokenizer(file, {})
    assert "\n" not in str(caught.value)


def test_what_a_tokenizer_says_of_itself_may_be_anything(tmp_path: Path) -> None:
    tokenizer, _ = TOKENIZERS["SigLIP"]()
    file, about = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    tokenizer.save(str(file))
    odd = {"pad_token": 5, "eos_token": {"content": []}, "tokenizer_class": ["Gemma"]}
    about.write_text(json.dumps(odd))
    assert FileTokenizer(file, {}).pad == 0
    about.write_text("[]")
    with pytest.raises(ArtifactError, match="is no table of settings"):
        FileTokenizer(file, {})
    about.write_text(json.dumps({"padding_side": "left"}))
    with pytest.raises(UnsupportedBackboneError, match="pads at the left"):
        FileTokenizer(file, {})


def test_a_token_without_an_embedding_is_named(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders("SigLIP"), tmp_path / "clip")
    tokenizer, _ = TOKENIZERS["SigLIP"]()
    tokenizer.add_tokens([f"w{i}" for i in range(99)])
    tokenizer.save(str(folder / "tokenizer.json"))
    tower = FrozenCLIP.load(f"local-dir:{folder}").text_tower
    tower.embed_names(("dog",), 0)
    with pytest.raises(UnsupportedBackboneError, match=r"token \d+ for .*knows only 100"):
        tower.embed_names(("w98",), 0)


def test_a_name_that_does_not_fit_is_named(folders: Callable[[str], Path]) -> None:
    tower = FrozenCLIP.load(f"local-dir:{folders('SigLIP')}").text_tower
    fits = " ".join(["dog"] * 61)  # of 64: two of context and the end; a full stop is no token here
    _, counts = tower.embed_names((fits,), 2)
    assert counts.tolist() == [62]
    with pytest.raises(ConfigError, match=r"has 62 tokens; behind 2 context tokens .* at most 61"):
        tower.embed_names((f"{fits} dog",), 2)
