"""Safetensors files on file systems that cannot map them into memory."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from conftest import trained_like
from safetensors.torch import save_file

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.weights import open_tensors
from trmml.errors import ArtifactError
from trmml.zoo.loading import load_model


def unmapped(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def test_a_file_that_cannot_be_mapped_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
    save_file(tensors, tmp_path / "t.safetensors")
    monkeypatch.setattr("trmml.backbone.weights.safe_open", unmapped)
    with open_tensors(tmp_path / "t.safetensors") as file:
        assert file.shapes == {"a": (2, 3), "b": (4,)}
        for name, tensor in tensors.items():
            assert torch.equal(file.read(name), tensor)
    (tmp_path / "t.safetensors").write_bytes(b"\x08")
    with (
        pytest.raises(ArtifactError, match=r"t\.safetensors is damaged"),
        open_tensors(tmp_path / "t.safetensors"),
    ):
        pass


def test_a_model_whose_files_cannot_be_mapped_is_the_same(
    backbone: FrozenCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trmml.save_model(trained_like(backbone), tmp_path / "model")
    before = load_model(folder).learned_state()
    monkeypatch.setattr("trmml.backbone.weights.safe_open", unmapped)
    after = load_model(folder).learned_state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="a file of Linux that has no map")
@pytest.mark.parametrize("target", ["/proc/version", "/proc/self/mem"])
def test_a_link_to_a_file_of_the_system_is_one_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "t.safetensors").symlink_to(target)
    with (
        pytest.raises(ArtifactError, match=r"t\.safetensors (is damaged|cannot be read)"),
        open_tensors(tmp_path / "t.safetensors"),
    ):
        pass
