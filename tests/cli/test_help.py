"""What `--help` says: every command, and every example as it stands there."""

import doctest
import inspect
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import colour_squares
from conftest import run_command as run
from hub_server import TOKEN, HubServer
from typer.main import get_command

import trmml
from trmml.cli import app, options
from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.data.writing import write_dataset
from trmml.labels import POSITIVE
from trmml.zoo.loading import DEFAULT_MODEL


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, by the words that call it."""
    for word, found in getattr(command, "commands", {}).items():
        yield from commands(found, f"{name} {word}".strip())
    if not hasattr(command, "commands"):
        yield name, command


COMMANDS = dict(commands(get_command(app)))


def example_of(name: str) -> str:
    (example,) = re.findall(r"Example:\n(.*)", inspect.cleandoc(COMMANDS[name].help))
    return example


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    def shown(name: str, width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        assert run(*name.split(), "--help") == 0
        return capsys.readouterr().out

    return shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_there_once_with_its_default(name: str, shown: Callable[..., str]) -> None:
    lines = shown(name, 160).splitlines()
    for option in COMMANDS[name].params:
        if not option.opts[0].startswith("--"):
            continue
        assert option.help, option.name
        # Those that are spoken of elsewhere are not in the first column.
        rows = [line for line in lines if line.strip("│* ").startswith(option.opts[0] + " ")]
        assert len(rows) == 1, option.opts
        is_flag = option.default is False and not option.secondary_opts
        if option.default not in (None, ()) and not is_flag and option.name != "help":
            assert "[default: " in "\n".join(lines[lines.index(rows[0]) :])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_narrow_terminal(name: str, shown: Callable[..., str]) -> None:
    text = shown(name, 80)
    assert max(map(len, text.splitlines())) <= 80
    # What a docstring says is shown line by line, and an example in one line can be copied.
    for line in inspect.cleandoc(COMMANDS[name].help).splitlines()[1:]:
        assert line in text
    assert example_of(name).startswith(f"trmml {name}")


def test_the_commands_are_in_groups(shown: Callable[..., str]) -> None:
    text = shown("", 100)
    assert [text.count(f"─ {panel} ─") for panel in ("Use a model", "Learn and measure")] == [1, 1]
    for name in {name.split()[0] for name in COMMANDS}:
        assert f"│ {name} " in text


def test_a_wrong_option_is_told_in_plain_lines(capsys: pytest.CaptureFixture) -> None:
    assert run("predict", "a.jpg", "--bogus") == 2
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == "Error: No such option: --bogus"
    assert run("data") == 2
    assert "─ Commands ─" in "".join(capsys.readouterr())


def test_what_help_calls_the_default_model_is_it() -> None:
    assert options.DEFAULT_MODEL == DEFAULT_MODEL


def test_every_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setattr("trmml.app.serving.serve", lambda *_: None)  # until somebody ends it
    data = colour_squares(tmp_path / "photos", 48)
    shutil.copytree("photos", "holiday", ignore=shutil.ignore_patterns("0[1-9]*", "00[3-9]*"))
    Path("coco.json").write_text(json.dumps(_coco(data)))
    _run_example("data convert", capsys)
    assert read_dataset("labels.csv").states.tolist() == data.states.tolist()
    for table, first, last in (
        ("labels", 0, 20),
        ("val", 20, 44),
        ("calib", 20, 44),
        ("test", 44, 48),
    ):
        write_dataset(data.subset(np.arange(first, last)), f"{table}.csv", images="photos")
    order = ["data check", "finetune", "evaluate", "calibrate", "complete", "predict", "tag"]
    order += ["export", "push"]  # before what is pushed is fetched
    for name in [*order, *(name for name in COMMANDS if name not in (*order, "data convert"))]:
        _run_example(name, capsys)
    made = ("check.html", "filled.csv", "shop.onnx", "models/shop")
    assert [place for place in made if not Path(place).exists()] == []
    assert trmml.load_model("models/shop").labels == data.labels
    Path("runs/shop").rename("runs/before")
    shutil.copy("photos/000.png", "photos/new.jpg")
    _run_docstrings(["read_dataset", "finetune"])  # the others need what this makes
    _run_docstrings([name for name in trmml.__all__ if name not in ("read_dataset", "finetune")])
    with Path("scores.csv").open() as file:
        assert file.readline().startswith("image,")


def _run_example(name: str, capsys: pytest.CaptureFixture) -> None:
    words = shlex.split(example_of(name).partition(" > ")[0])
    assert run(*words[1:]) == 0, f"{name}: {capsys.readouterr().err}"


def _run_docstrings(names: list[str]) -> None:
    """Run the examples of public functions; what they print is of no matter."""
    for name in names:
        examples = doctest.DocTestParser().get_examples(getattr(trmml, name).__doc__ or "")
        known = {"trmml": trmml}
        for example in examples:
            exec(example.source, known)


def _coco(data: MultiLabelDataset) -> dict[str, Any]:
    pairs = np.argwhere(data.states == POSITIVE).tolist()
    return {
        "images": [{"id": i, "file_name": f"photos/{p.name}"} for i, p in enumerate(data.photos)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": label}
            for i, (image, label) in enumerate(pairs)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(data.labels)],
    }
