import socket
import sys
from pathlib import Path

import pytest
from conftest import colour_squares, trained_like
from conftest import run_command as run

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.writing import write_dataset
from trmml.labels import UNKNOWN


@pytest.fixture
def table(tmp_path: Path) -> Path:
    data = colour_squares(tmp_path / "photos", 6).hide_labels(0.5)
    write_dataset(data, tmp_path / "photos" / "labels.csv")
    return tmp_path / "photos" / "labels.csv"


def test_the_table_itself_is_never_the_output(table: Path, capsys: pytest.CaptureFixture) -> None:
    before = table.read_bytes()
    for option in ("--output", "--journal"):
        assert run("label", table, "--no-open", option, table, "--replace") == 2
        assert "is a table that this command reads" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_file_that_another_program_wrote_is_not_replaced(
    table: Path, capsys: pytest.CaptureFixture
) -> None:
    other = table.with_name("labels.answered.csv")
    other.write_text("mine")
    assert run("label", table, "--no-open") == 2
    assert "exists already" in capsys.readouterr().err
    assert other.read_text() == "mine"
    assert not table.with_name("labels.answers.jsonl").exists()


def test_without_the_packages_the_extra_is_named(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for command in (("label", table), ("demo",)):
        assert run(*command, "--no-open") == 3
        assert "pip install 'trmml[app]'" in capsys.readouterr().err


def test_a_port_that_is_taken(table: Path, capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("demo", "--no-open", "--port", port) == 2
        assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.fixture
def model(tmp_path: Path, backbone: FrozenCLIP) -> Path:
    return trmml.save_model(trained_like(backbone, num_heads=2), tmp_path / "model")


def label_and_end(*arguments: object) -> int:
    """Run the command up to the point where it would serve the page."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return run("label", *arguments, "--no-open", "--port", taken.getsockname()[1])


@pytest.mark.parametrize("form", ["names", "file"])
def test_photos_without_a_table(
    tmp_path: Path, model: Path, form: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    photos = colour_squares(tmp_path / "mine" / "2019", 5).photos
    (tmp_path / "labels.txt").write_text("\ufeffred\n\n blue \n", encoding="utf-8")
    labels = "red,blue" if form == "names" else tmp_path / "labels.txt"
    assert label_and_end(tmp_path / "mine", "--labels", labels, "--model", model) == 2
    assert "Cannot listen" in capsys.readouterr().err
    # Beside the folder, where nothing takes them for photos.
    assert (tmp_path / "mine.answers.jsonl").exists()
    read = trmml.read_dataset(tmp_path / "mine.answered.csv", images=tmp_path / "mine")
    assert read.labels == ("red", "blue")
    assert read.photos == photos
    assert (read.states == UNKNOWN).all()
    # What is there is gone on with, and is no reason to refuse.
    assert label_and_end(tmp_path / "mine", "--labels", labels, "--model", model) == 2
    assert "Cannot listen" in capsys.readouterr().err


def test_a_folder_that_says_more_is_read_as_before(
    tmp_path: Path, model: Path, table: Path, capsys: pytest.CaptureFixture
) -> None:
    assert label_and_end(table.parent, "--labels", "red", "--model", model) == 4
    assert f"it holds the table labels.csv; pass {table}" in capsys.readouterr().err
    (tmp_path / "by-name" / "red").mkdir(parents=True)
    colour_squares(tmp_path / "by-name" / "red", 2)
    assert label_and_end(tmp_path / "by-name", "--labels", "red", "--model", model) == 4
    assert "lists positive labels only" in capsys.readouterr().err
    colour_squares(tmp_path / "flat", 2)
    assert label_and_end(tmp_path / "flat", "--model", model) == 4
    assert "'photos' with labels (--labels)" in capsys.readouterr().err


def test_a_file_of_labels_that_is_none(table: Path, capsys: pytest.CaptureFixture) -> None:
    gone = table.with_name("gone.txt")
    assert run("label", table, "--no-open", "--labels", gone) == 2
    assert f"Cannot read the labels in {gone}: No such file" in capsys.readouterr().err
    gone.write_bytes(b"caf\xe9")
    assert run("label", table, "--no-open", "--labels", gone) == 2
    assert "is not UTF-8" in capsys.readouterr().err
