import sys
from pathlib import Path

import pytest
from conftest import colour_squares
from conftest import run_command as run

from trmml.data.writing import write_dataset


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
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("demo", "--no-open", "--port", port) == 2
        assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
