"""CLIP folders of strangers: whatever stands in them, one line says so, and nothing else happens."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import DIM, TEXT, VISION
from hub_server import HubServer
from safetensors.torch import load_file, save_file

from trmml.backbone import weights
from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.loading import load_clip
from trmml.backbone.settings import check_is_supported, check_settings
from trmml.errors import (
    ArtifactError,
    ConfigError,
    ModelNotFoundError,
    UnsupportedBackboneError,
)

WEIGHTS = "open_clip_model.safetensors"
VIT, TIMM = VISION["vit"], VISION["timm"]


@pytest.fixture
def changed(tmp_path: Path, clip_folders: dict[str, Path]) -> Callable[..., str]:
    """Return a maker of copies of the tiny ViT whose configuration says something else."""

    def change(prepared: dict[str, Any] | None = None, **architecture: Any) -> str:
        number = len(list(tmp_path.glob("clip-*")))
        folder = shutil.copytree(clip_folders["vit"], tmp_path / f"clip-{number}")
        path = folder / "open_clip_config.json"
        config = json.loads(path.read_text())
        config["model_cfg"] |= architecture
        config["preprocess_cfg"] |= prepared or {}
        path.write_text(json.dumps(config))
        return f"local-dir:{folder}"

    return change


def change_weights(source: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = Path(source.removeprefix("local-dir:")) / WEIGHTS
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:acme/tower",
        "hf_hub:acme/tower",
        "HF-HUB:acme/tower@v1",
        "local-dir:{folder}",
        "{folder}",
        "acme/tower",
        "../tower",
        "resnet10t.no_such_tag",
        "resnet10",
    ],
)
@pytest.mark.parametrize("text", [True, False])
def test_a_tower_is_one_of_timms_own_list_and_nothing_is_fetched_or_opened(
    hub: HubServer, changed: Callable[..., str], tmp_path: Path, name: str, text: bool
) -> None:
    name = name.format(folder=tmp_path / "tower")
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text('{"architecture": "resnet10t"}')
    hub.add("acme/tower", {"config.json": b'{"architecture": "resnet10t"}'})
    source = changed(vision_cfg=TIMM | {"timm_model_name": name, "timm_model_pretrained": True})
    with pytest.raises(ArtifactError, match="cannot be built: timm has no architecture") as caught:
        load_clip(source, text=text)
    assert "\n" not in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize(
    "name", ["acme/words", "hf-hub:acme/words", "bert-base-uncased", "{folder}"]
)
def test_no_text_tower_or_tokenizer_is_looked_up(
    hub: HubServer, changed: Callable[..., str], tmp_path: Path, name: str
) -> None:
    """By its name in the file of a folder, that is; a tokenizer may lie in the folder."""
    hub.add("acme/words", {"tokenizer.json": b"{}"})
    (tmp_path / "tokenizer.json").write_text("{}")
    name = name.format(folder=tmp_path)
    with pytest.raises(UnsupportedBackboneError, match="Hugging Face text tower"):
        load_clip(changed(text_cfg=TEXT | {"hf_model_name": name}), text=False)
    source = changed(text_cfg=TEXT | {"hf_tokenizer_name": name})
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer.json in .*clip-1; copy"):
        load_clip(source)
    assert load_clip(source, text=False).tokenizer is None
    assert not hub.requests


@pytest.mark.parametrize("source", ["HF-HUB:acme/clip", " hf-hub:acme/clip", "hf-hub/acme"])
def test_a_backbone_of_another_form_is_no_repository(hub: HubServer, source: str) -> None:
    with pytest.raises(ConfigError, match="open_clip has no architecture"):
        load_clip(source)
    assert not hub.requests


def test_every_architecture_of_open_clip_passes() -> None:
    passed = 0
    for name in open_clip.list_models():
        settings = open_clip.get_model_config(name)
        try:
            check_is_supported(settings, name)
        except UnsupportedBackboneError:
            continue
        check_settings(settings, name)
        passed += 1
    assert passed > 120


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"vision_cfg": VIT | {"pool_type": 5}},
            "vision_cfg.pool_type has a value of the wrong type",
        ),
        ({"vision_cfg": VIT | {"layers": 0}}, r"vision_cfg.layers must be in \[1, .*, got 0"),
        (
            {"vision_cfg": VIT | {"layers": [1, 1]}},
            "vision_cfg.layers has a value of the wrong type",
        ),
        ({"vision_cfg": VIT | {"layers": True}}, "vision_cfg.layers has a value of the wrong type"),
        ({"vision_cfg": VIT | {"head_width": 0}}, "vision_cfg.head_width must be in"),
        ({"vision_cfg": VIT | {"head_width": 64}}, "cannot be built"),
        ({"vision_cfg": VIT | {"mlp_ratio": float("nan")}}, "vision_cfg.mlp_ratio has a value"),
        ({"vision_cfg": VIT | {"mlp_ratio": float("inf")}}, "vision_cfg.mlp_ratio has a value"),
        ({"vision_cfg": VIT | {"mlp_ratio": -1}}, "cannot be built"),
        ({"vision_cfg": VIT | {"act_kwargs": "tanh"}}, "vision_cfg.act_kwargs has a value"),
        ({"vision_cfg": VIT | {"patch_size": 128}}, "cannot be built|does not fit"),
        ({"vision_cfg": VIT | {"image_size": 2048, "patch_size": 1}}, "into 4194304 patches"),
        ({"vision_cfg": VISION["resnet"] | {"layers": [1, 1, 1, 0]}}, "vision_cfg.layers must be"),
        ({"vision_cfg": TIMM | {"timm_model_name": 5}}, "timm_model_name has a value of the wrong"),
        ({"vision_cfg": TIMM | {"timm_pool": 5}}, "timm_pool has a value of the wrong type"),
        ({"vision_cfg": TIMM | {"timm_proj": "x"}}, "cannot be built"),
        ({"text_cfg": TEXT | {"layers": 0}}, "text_cfg.layers must be in"),
        (
            {"text_cfg": TEXT | {"width": "24"}},
            "text_cfg.width has a value of the wrong type, '24'",
        ),
        ({"text_cfg": TEXT | {"context_length": 10**6}}, r"context_length must be in \[4, 4096\]"),
        ({"custom_text": 1}, "custom_text has a value of the wrong type, 1"),
        ({"init_logit_bias": "x"}, "init_logit_bias has a value of the wrong type"),
        ({"text_cfg": TEXT | {"hf_tokenizer_name": 5}}, "hf_tokenizer_name has a value of the"),
        ({"quick_gelu": "no"}, "quick_gelu has a value of the wrong type, 'no'"),
        ({"embed_dim": None}, "embed_dim has a value of the wrong type, None"),
        ({"embed_dim": 10**30}, "embed_dim must be in"),
    ],
)
def test_a_wrong_type_or_size_is_one_line(
    changed: Callable[..., str], changes: dict, reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason) as caught:
        FrozenCLIP.load(changed(**changes))
    assert "\n" not in str(caught.value)


HUGE = [
    {"embed_dim": 1_000_000},
    {"vision_cfg": VIT | {"width": 2**16, "head_width": 64}},
    {"vision_cfg": VIT | {"layers": 100_000}},
    {"vision_cfg": VISION["resnet"] | {"layers": [3, 4, 10**6, 3]}},
    {"vision_cfg": VIT | {"mlp_ratio": 1e6}},
    {"vision_cfg": TIMM | {"timm_model_name": "vit_7b_patch16_dinov3"}},
    {"text_cfg": TEXT | {"vocab_size": 2**24, "width": 4096}},
    {"text_cfg": TEXT | {"layers": 100_000}},
    {"custom_text": True, "text_cfg": TEXT | {"vocab_size": 2**24, "width": 4096}},
    {"custom_text": True, "vision_cfg": TIMM | {"timm_model_name": "eva02_enormous_patch14_clip_224",
                                                "timm_pool": "token"}},
]  # fmt: skip


def test_sizes_are_compared_with_the_weights_before_memory_is_taken(
    changed: Callable[..., str],
) -> None:
    pytest.importorskip("resource")
    program = """
import json, resource, sys
from trmml.backbone.loading import load_clip
from trmml.errors import ArtifactError
for source in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        load_clip(source)
    except ArtifactError as error:
        after = resource.getrusage(resource.RUSAGE_SELF)
        megabytes = (after.ru_maxrss - before.ru_maxrss) / 1024
        print(json.dumps([str(error), megabytes, after.ru_utime - before.ru_utime]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *(changed(**changes) for changes in HUGE)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(HUGE)
    for message, megabytes, seconds in results:
        assert "does not fit its architecture" in message
        assert megabytes < 300, message
        assert seconds < 8, message  # of the processor, whatever else the machine does


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["visual.proj"][:1].fill_(torch.nan),
        lambda t: t["visual.ln_post.bias"][:1].fill_(-torch.inf),
        lambda t: t["text_projection"][:1].fill_(torch.inf),
        lambda t: t.update({"logit_scale": torch.tensor(torch.nan)}),
        lambda t: t.update({"visual.proj": torch.full((32, DIM), 1e300, dtype=torch.float64)}),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(
    changed: Callable[..., str], change: Callable
) -> None:
    source = changed()
    change_weights(source, change)
    with pytest.raises(ArtifactError, match="holds values that are no finite numbers"):
        load_clip(source)


def test_a_text_tower_that_is_not_wanted_is_not_looked_at(changed: Callable[..., str]) -> None:
    source = changed()
    change_weights(source, lambda t: t["text_projection"].fill_(torch.nan))
    assert load_clip(source, text=False).config.source == source


@pytest.mark.parametrize(
    ("name", "what"), [("visual.proj", "photo"), ("visual.conv1.weight", "photo")]
)
def test_finite_weights_that_answer_nan_are_refused(
    changed: Callable[..., str], name: str, what: str
) -> None:
    source = changed()
    change_weights(source, lambda t: t[name].fill_(3e38))
    with pytest.raises(
        ArtifactError, match=f"answers a plain {what} with what is no finite number"
    ):
        FrozenCLIP.load(source)


def test_a_text_tower_that_answers_nan_is_refused(changed: Callable[..., str]) -> None:
    source = changed()
    change_weights(source, lambda t: t["token_embedding.weight"].fill_(3e38))
    with pytest.raises(ArtifactError, match="answers a plain text with what is no finite number"):
        FrozenCLIP.load(source)
    FrozenCLIP.load(source, text=False)


def test_photos_that_normalization_makes_infinite_are_refused(changed: Callable[..., str]) -> None:
    source = changed({"std": [1e-30] * 3})
    with pytest.raises(ArtifactError, match="or mean and std of its photos"):
        FrozenCLIP.load(source)


def test_weights_of_a_custom_text_tower_may_have_the_names_of_a_plain_one(
    changed: Callable[..., str],
) -> None:
    plain = FrozenCLIP.load(changed()).text_tower
    custom = FrozenCLIP.load(changed(custom_text=True)).text_tower
    assert plain is not None
    assert custom is not None
    texts = plain.embed_names(("dog", "cat"), 0)
    assert torch.equal(plain(*texts), custom(*texts))


def test_a_text_tower_with_fewer_tokens_than_the_tokenizer_is_refused(
    changed: Callable[..., str],
) -> None:
    source = changed(text_cfg=TEXT | {"vocab_size": 100})
    change_weights(source, lambda t: t.update({"token_embedding.weight": torch.ones(100, 24)}))
    with pytest.raises(UnsupportedBackboneError, match=r"knows 100 tokens, .* tokenizer has 49408"):
        FrozenCLIP.load(source)


def test_weights_are_read_where_a_file_cannot_be_mapped(
    changed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = changed()
    expected = FrozenCLIP.load(source).state_dict()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(weights, "safe_open", refuse)
    found = FrozenCLIP.load(source).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    Path(source.removeprefix("local-dir:"), WEIGHTS).write_bytes(b"no tensors at all")
    with pytest.raises(ArtifactError, match=f"{WEIGHTS} is damaged"):
        FrozenCLIP.load(source)


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="Linux has files that cannot be read"
)
def test_weights_that_cannot_be_read_are_one_line(changed: Callable[..., str]) -> None:
    source = changed()
    path = Path(source.removeprefix("local-dir:")) / WEIGHTS
    path.unlink()
    path.symlink_to("/proc/self/mem")
    with pytest.raises(ArtifactError, match=f"{WEIGHTS} cannot be read: Input/output error"):
        load_clip(source)
