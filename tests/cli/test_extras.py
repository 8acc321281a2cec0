"""The base install: what works without any extra, and what each extra is called where it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import colour_squares

from trmml.data.writing import write_dataset

EXTRAS = (
    *("starlette", "uvicorn", "openpyxl", "pyarrow", "pandas", "onnx", "onnxruntime", "onnxscript"),
    *("ray", "tensorboard", "trackio", "sklearn", "skimage", "matplotlib", "scipy"),
)
# As if they were not installed: the search finds nothing, which torch asks for by itself, too.
WITHOUT_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: (
    None if name.partition(".")[0] in {EXTRAS!r} else find(name, path, target)
)
from trmml.cli import main

main(sys.argv[1:])
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    data = colour_squares(tmp_path / "photos", 12).hide_labels(0.5)
    write_dataset(data, tmp_path / "photos" / "labels.csv")
    for name in ("labels.xlsx", "labels.parquet"):
        (tmp_path / "photos" / name).write_bytes(b"PK\x03\x04")
    return tmp_path / "photos" / "labels.csv"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_EXTRAS, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "install"),
    [
        (("label", "labels.csv", "--no-open"), "pip install 'trmml[app]'"),
        (("demo", "--no-open"), "pip install 'trmml[app]'"),
        (("data", "check", "labels.xlsx"), "pip install 'trmml[tables]'"),
        (("data", "check", "labels.parquet"), "pip install 'trmml[tables]'"),
        (("export", "everyday-tiny", "-o", "out.onnx"), "pip install 'trmml[onnx]'"),
        (
            ("finetune", "labels.csv", "-o", "out", "--log-to", "tensorboard"),
            "pip install tensorboard",
        ),
        (("finetune", "labels.csv", "-o", "out", "--log-to", "trackio"), "pip install trackio"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    table: Path, arguments: tuple[str, ...], install: str
) -> None:
    before = sorted(table.parent.iterdir())
    ended = run(table.parent, *arguments)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode in (3, 4), ended.stderr
    assert last.startswith("trmml: ")
    assert install in last
    assert "Traceback" not in ended.stderr
    assert sorted(table.parent.iterdir()) == before


def test_training_and_tagging_need_no_extra(table: Path) -> None:
    for arguments in (
        ("finetune", "labels.csv", "-o", "out", "--set", "training.epochs=1"),
        ("predict", "000.png", "--model", "out"),
        ("evaluate", "out", "labels.csv"),
        ("calibrate", "out", "labels.csv", "--plot", "reliability.png"),
        ("tag", "000.png", "--model", "out", "--dry-run"),
    ):
        ended = run(table.parent, *arguments)
        assert ended.returncode == 0, ended.stderr
