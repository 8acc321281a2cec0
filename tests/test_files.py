import errno
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run_command, small_disk, trained_like

from trmml.backbone.clip import FrozenCLIP
from trmml.config.groups import FinetuneConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import write_dataset
from trmml.errors import ArtifactError, ImageError, OutputError
from trmml.files import (
    MAX_JSON_BYTES,
    read_bytes,
    read_json,
    sha256_of,
    write_atomically,
    write_json,
    write_text,
    writing_to,
)
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.thresholds import Calibration
from trmml.tasks.exporting import export
from trmml.training.features import compute_features
from trmml.training.run_folder import RunFolder
from trmml.zoo.folder import add_metrics, new_folder, replace_calibration, save_model

Maker = Callable[..., MultiLabelDataset]


@pytest.fixture
def model(backbone: FrozenCLIP) -> TextRegionMatcher:
    return trained_like(backbone)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with pytest.raises(OSError, match="no regular file"):
        write_text(place, "x")
    assert place.is_fifo()


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        seen.append((path.read_bytes(), temporary.parent == path.parent))

    write_atomically(path, write)
    assert seen == [(b"old", True)]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("what", ["fsync", "chmod"])
def test_a_file_system_that_cannot_sync_or_change_modes_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, what, refuse)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    with new_folder(tmp_path / "folder") as folder:
        write_text(folder / "b.txt", "whole")
    assert (tmp_path / "folder" / "b.txt").read_text() == "whole"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_while_it_syncs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        write_text(tmp_path / "a.txt", "whole")
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "card.md", "hello")
    assert (tmp_path / "a" / "b" / "card.md").read_text() == "hello"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_text_is_written_as_utf_8_with_its_own_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "t.txt", "日本\r\n語\n")
    assert (tmp_path / "t.txt").read_bytes() == b"\xe6\x97\xa5\xe6\x9c\xac\r\n\xe8\xaa\x9e\n"


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    no_utf_8 = b"caf\xe9.png".decode(errors="surrogateescape")
    value = {"names": ["日本語", "<b>", 'a "quote"', no_utf_8], "share": 0.1, "none": None}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json") == value
    assert "日本語" in (tmp_path / "v.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "v.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe\xfa", b"[" * 100_000])
def test_what_is_not_json_is_an_artifact_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"v\.json is not valid JSON"):
        read_json(tmp_path / "v.json")


def test_json_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "v.json") == {"a": 1}


def test_json_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.touch()
    os.truncate(path, MAX_JSON_BYTES + 1)
    with pytest.raises(ArtifactError, match="larger than 64 MiB"):
        read_json(path)


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(251)) * 1009
    (tmp_path / "w").write_bytes(data)
    assert sha256_of(tmp_path / "w") == hashlib.sha256(data).hexdigest()


def test_an_error_of_the_system_becomes_the_one_for_outputs(tmp_path: Path) -> None:
    message = rf"^Cannot write to {tmp_path}: No space left on device\. Make room\.$"
    with pytest.raises(OutputError, match=message), writing_to(tmp_path, "Make room."):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_without_advice_the_error_ends_at_its_reason(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r": odd\.$"), writing_to(tmp_path):
        raise OSError("odd.")


def test_an_error_that_says_already_what_happened_stays(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no photo"), writing_to(tmp_path):
        raise ImageError("no photo")


def test_what_is_no_error_of_the_system_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing_to(tmp_path):
        raise KeyError("a mistake in the code")


WRITERS: dict[str, Callable[[TextRegionMatcher, MultiLabelDataset, Path], object]] = {
    "model": lambda model, data, place: save_model(model, place / "out"),
    "table": lambda model, data, place: write_dataset(data, place / "out.csv"),
    "onnx": lambda model, data, place: export(model, place / "out.onnx"),
    "torch-export": lambda model, data, place: export(model, place / "out.pt2", "torch-export"),
    "features": lambda model, data, place: compute_features(
        data.photos, model.backbone, folder=place
    ),
    "heatmaps": lambda model, data, place: next(
        model.predict_many(data.photos[:1], heatmaps=True)
    ).save_heatmaps(place / "out"),
    "run": lambda model, data, place: RunFolder(place / "out", resume=False).begin(
        "", FinetuneConfig()
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_has_one_error_for_a_file_in_the_way(
    model: TextRegionMatcher, make_dataset: Maker, tmp_path: Path, writer: str
) -> None:
    data, blocked = make_dataset(4), tmp_path / "file"
    blocked.touch()
    with pytest.raises(OutputError, match=f"^Cannot write to {blocked}"):
        WRITERS[writer](model, data, blocked)
    assert blocked.read_bytes() == b""


@pytest.mark.parametrize("writer", sorted(WRITERS.keys() - {"run"}))
def test_every_writer_has_one_error_for_a_full_disk_and_leaves_nothing_behind(
    model: TextRegionMatcher, make_dataset: Maker, tmp_path: Path, writer: str
) -> None:
    data, place = make_dataset(90), tmp_path / "here"
    place.mkdir()
    with small_disk(), pytest.raises(OutputError, match=f"^Cannot write to {place}"):
        WRITERS[writer](model, data, place)
    assert [path for path in place.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: add_metrics(folder, "test", {"note": "x" * 5000}),
        lambda folder: replace_calibration(folder, Calibration(thresholds=(0.5, 0.5, 0.5))),
    ],
    ids=["metrics", "calibration"],
)
def test_a_model_that_cannot_be_changed_stays_as_it_was(
    model: TextRegionMatcher, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = save_model(model, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with small_disk(100), pytest.raises(OutputError, match=f"^Cannot write to {folder}: "):
        change(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


COMMANDS: dict[str, Callable[[Path, Path, Path], tuple[object, ...]]] = {
    "predict": lambda model, table, out: (
        *("predict", table.parent, "--model", model, "--heatmaps", out / "maps"),
    ),
    "convert": lambda model, table, out: ("data", "convert", table, out / "x.jsonl"),
    "check": lambda model, table, out: ("data", "check", table, "--html", out / "x.html"),
    "export": lambda model, table, out: ("export", model, "-o", out / "x.onnx"),
    "download": lambda model, table, out: ("models", "download", model, "--to", out / "copy"),
    "finetune": lambda model, table, out: ("finetune", table, "--model", model, "-o", out / "x"),
    "evaluate": lambda model, table, out: (
        *("evaluate", model, table, "--dump-scores", out / "x.csv"),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_has_one_exit_code_for_what_cannot_be_written(
    model: TextRegionMatcher,
    make_dataset: Maker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    command: str,
) -> None:
    data, blocked = make_dataset(24), tmp_path / "file"
    blocked.touch()
    table = data.photos[0].parent / "labels.csv"
    write_dataset(data, table)
    folder = save_model(model, tmp_path / "model")
    assert run_command(*COMMANDS[command](folder, table, blocked)) == 2
    assert f"trmml: Cannot write to {blocked}" in capsys.readouterr().err


def test_what_is_no_file_is_neither_waited_for_nor_read_without_end(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.csv")
    assert read_bytes(pipe) == b""  # nobody writes to it
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is a device and no file"):
        read_bytes(tmp_path / "endless.csv")
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


def test_a_file_larger_than_the_memory_is_one_error(tmp_path: Path) -> None:
    table = tmp_path / "huge.csv"
    with table.open("wb") as file:
        file.truncate(2**33)  # of zeros, which take no room on the disk
    assert read_bytes(table, 3) == b"\0\0\0"
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); "
    program += "from trmml.cli import main; main(['data', 'check', sys.argv[1]])"
    command = [sys.executable, "-c", program, str(table)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr == f"trmml: Cannot read the table {table}: it does not fit into memory.\n"


def test_a_pipe_that_somebody_writes_to_is_read_to_its_end() -> None:
    program = "import sys; from pathlib import Path; from trmml.files import read_bytes; "
    program += "print(len(read_bytes(Path('/dev/stdin'))))"
    content = b"image,dog\n" * 50_000  # more than a pipe holds
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True)
    assert done.stdout.split() == [b"500000"]


def test_a_checksum_of_what_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for name in ("zeros", "nowhere", "none", "."):
        with pytest.raises(ArtifactError, match="cannot be read: "):
            sha256_of(tmp_path / name)
    with pytest.raises(ArtifactError, match="it is a device"):
        read_json(tmp_path / "zeros")
