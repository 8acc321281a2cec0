import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import VISION, run_command, trained_like, write_clip

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.data.photos import load_photo
from trmml.data.tensors import photo_tensor
from trmml.errors import ArtifactError, ConfigError, DependencyError, OutputError
from trmml.matcher.model import TextRegionMatcher
from trmml.tasks.exporting import Exported, export, load_exported

Maker = Callable[..., MultiLabelDataset]
LABELS = ("red", "green", "日本語")


def model_of(backbone: FrozenCLIP, matching: Any = "text-region") -> TextRegionMatcher:
    return trained_like(backbone, LABELS, way=matching, num_heads=2)


def assert_says_what_the_model_says(
    exported: Exported, model: TextRegionMatcher, photos: tuple[Path, ...]
) -> None:
    with torch.inference_mode():
        tensors = [photo_tensor(load_photo(p), model.config.photo) for p in photos]
        features = model.backbone(torch.stack(tensors))
        logits = model.match(features, model.stored_text()).logits
        expected = model.evidence(features, model.stored_text())
    scores, evidence = exported(np.stack([exported.prepare(photo) for photo in photos]))
    np.testing.assert_allclose(scores, logits.sigmoid().numpy(), atol=1e-4)
    if expected is None:
        assert evidence.shape == (len(photos), len(LABELS), 0)
    else:
        np.testing.assert_allclose(evidence, expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize(
    ("tower", "matching"),
    [
        ("vit", "text-region"),
        ("resnet", "text-region"),
        ("timm", "text-region"),
        ("timm", "text-pixel"),
        ("vit", "text-image"),
        ("resnet", "zero-shot"),
    ],
)
def test_a_file_says_what_its_model_says_whatever_the_batch(
    clip_folders: dict[str, Path],
    make_dataset: Maker,
    tmp_path: Path,
    format: Any,
    tower: str,
    matching: str,
) -> None:
    model = model_of(FrozenCLIP.load(f"local-dir:{clip_folders[tower]}"), matching)
    exported = load_exported(export(model, tmp_path / "model.file", format))
    assert exported.description.labels == LABELS
    assert exported.description.thresholds == model.calibration.thresholds
    for num_photos in (1, 7):
        photos = make_dataset(num_photos, seed=num_photos).photos
        assert_says_what_the_model_says(exported, model, photos)


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_no_photo_or_one_of_another_form_is_an_error_and_no_crash(
    backbone: FrozenCLIP, tmp_path: Path, format: Any
) -> None:
    exported = load_exported(export(model_of(backbone), tmp_path / "model.file", format))
    for shape, kind in [
        ((0, 3, 64, 64), np.uint8),
        ((0,), np.uint8),
        ((), np.uint8),
        ((3, 64, 64), np.uint8),
        ((1, 64, 64, 3), np.uint8),
        ((1, 3, 32, 64), np.uint8),
        ((1, 3, 64, 64), np.float32),
    ]:
        got = rf"\(1 or more, 3, 64, 64\), got {np.dtype(kind)} {re.escape(str(shape))}"
        with pytest.raises(ConfigError, match=got):
            exported(np.zeros(shape, kind))


def test_a_tower_at_another_size_than_its_own(tmp_path: Path, make_dataset: Maker) -> None:
    folder = write_clip(tmp_path / "clip", VISION["resnet"])
    model = model_of(FrozenCLIP.load(f"local-dir:{folder}", image_size=96))
    exported = load_exported(export(model, tmp_path / "model.onnx"))
    assert_says_what_the_model_says(exported, model, make_dataset(3).photos)


def test_the_command_writes_a_file_that_needs_nothing_of_this_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_dataset: Maker
) -> None:
    path = tmp_path / "tiny.onnx"
    assert run_command("export", "coco18-tiny", "-o", path) == 0
    assert "same scores as coco18-tiny" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(path)
    description = json.loads(session.get_modelmeta().custom_metadata_map["trmml.json"])
    photo = make_dataset(1).photos[0]
    size = description["image_size"]
    from PIL import Image

    square = Image.open(photo).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(square).transpose(2, 0, 1)[None]
    scores, _ = session.run(None, {"photos": pixels})
    np.testing.assert_allclose(scores[0], trmml.predict(photo, "coco18-tiny").scores, atol=1e-4)


def test_a_file_that_answers_otherwise_is_refused(
    clip_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = model_of(FrozenCLIP.load(f"local-dir:{clip_folders['timm']}"))
    with torch.no_grad():
        model.log_scale.zero_()  # no score is so near to 0 or 1 that a bias would not move it
    path = export(model, tmp_path / "model.onnx")
    program = onnx.load(path)
    for tensor in program.graph.initializer:
        if tensor.name.endswith("logit_bias"):
            values = onnx.numpy_helper.to_array(tensor) + 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(program, tmp_path / "changed.onnx")
    with pytest.raises(ArtifactError, match="does not say what its model says"):
        load_exported(tmp_path / "changed.onnx")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x08\x07 no model"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is no"):
        load_exported(path)


def test_an_onnx_file_of_something_else_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    program = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    program.ir_version = 10
    onnx.save(program, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match="was not written by trmml export"):
        load_exported(tmp_path / "other.onnx")


def test_errors_leave_no_file(
    clip_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(FrozenCLIP.load(f"local-dir:{clip_folders['timm']}"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write to"):
        export(model, tmp_path / "file" / "model.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(DependencyError, match=r"pip install 'trmml\[onnx\]'"):
        export(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_model_stays_as_it_was_and_its_text_tower_is_left_out(
    clip_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = model_of(FrozenCLIP.load(f"local-dir:{clip_folders['timm']}"))
    path = export(model, tmp_path / "model.pt2", "torch-export")
    assert model.backbone.text_tower is not None
    assert not any("text_tower" in name for name in torch.export.load(path).state_dict)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_an_empty_batch_is_an_error_of_the_runtime_and_not_its_end(
    clip_folders: dict[str, Path], tmp_path: Path, tower: str
) -> None:
    model = model_of(FrozenCLIP.load(f"local-dir:{clip_folders[tower]}"))
    export(model, tmp_path / "model.onnx")
    program = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for number in (0, 3, 0):
    try:
        scores, _ = session.run(None, {"photos": np.zeros((number, 3, 64, 64), np.uint8)})
        print(scores.shape)
    except Exception as error:
        print(type(error).__name__)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["InvalidArgument", "(3, 3)", "InvalidArgument"]
    export(model, tmp_path / "model.pt2", "torch-export")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    with pytest.raises((RuntimeError, IndexError)):
        loaded(torch.zeros(0, 3, 64, 64, dtype=torch.uint8))
