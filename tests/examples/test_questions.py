"""The simulation of answers, on toy photos: it asks, answers, learns, resumes and reports."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import colour_squares, load_example
from PIL import Image

from trmml.labels import POSITIVE, UNKNOWN

ROUNDS = (30, 60)


@pytest.fixture(scope="module")
def questions() -> Any:
    return load_example("benchmarks/questions.py")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 photos to ask about and 16 to measure on; those of the test split are not even there."""
    dataset = colour_squares(tmp_path / "photos", 56)
    lines = ["image,split,labels"]
    for i, (photo, row) in enumerate(zip(dataset.photos, dataset.states, strict=True)):
        names = [n for n, x in zip(dataset.labels, row, strict=True) if x == POSITIVE]
        lines.append(f"{photo.name},{'train' if i < 40 else 'val'},{'|'.join(names)}")
    lines.append("gone.png,test,red")
    table = tmp_path / "photos" / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    return table.parent


@pytest.fixture
def measure(
    questions: Any, data: Path, clip_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    monkeypatch.setenv("TRMML_CACHE", str(data.parent / "cache"))
    output = data.parent / "questions.json"

    def run(*options: str) -> dict[str, Any]:
        fixed = [
            "--data",
            data,
            "--backbone",
            f"local-dir:{clip_folders['vit']}",
            "--output",
            output,
        ]
        sizes = ["--photos", 40, "--epochs", 1, "--seeds", 0, "--rounds", *ROUNDS]
        monkeypatch.setattr(sys, "argv", ["questions.py", *map(str, [*fixed, *sizes]), *options])
        questions.main()
        return json.loads(output.read_text())

    return run


def test_runs_are_kept_resumed_and_reported(
    questions: Any, measure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    orders = ("--orders", questions.RANDOM, questions.DEFAULT)
    first = measure("--learner", "probe", *orders)
    for run in first["runs"].values():
        assert run["answers"] == [0, 30, 60]
        assert run["positives"] == sorted(run["positives"])
        assert all(0 < value <= 1 for value in run["val_mAP"])
    starts = {run["val_mAP"][0] for run in first["runs"].values()}
    assert len(starts) == 1
    path = tmp_path / "questions.json"
    before = path.stat().st_mtime_ns
    assert measure("--learner", "probe", *orders) == first
    assert path.stat().st_mtime_ns == before
    both = measure(*orders)
    assert len(both["runs"]) == 4
    assert both["runs"].items() > first["runs"].items()
    with pytest.raises(SystemExit, match="choose another output"):
        measure("--epochs", "2")
    report = load_example("benchmarks/questions_report.py")
    report.main(str(path), str(tmp_path / "report"))
    text = (tmp_path / "report.md").read_text()
    assert text.count("| what teaches most |") == 4  # two tables for each learner
    with Image.open(tmp_path / "report.png") as drawn:
        assert drawn.width > 800


def test_what_is_answered_is_the_truth_and_a_tenth_is_drawn(
    questions: Any, data: Path, clip_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRMML_CACHE", str(data.parent / "cache"))
    photos = questions.Photos(data, f"local-dir:{clip_folders['vit']}", 40, 0)
    seen: list[np.ndarray] = []

    def learner(states: np.ndarray, before: Any) -> Any:
        seen.append(states.copy())
        return before

    for name, order in questions.ORDERS.items():
        seen.clear()
        run = questions.simulate(photos, learner, order, 0, ROUNDS)
        for states, count in zip(seen, ROUNDS, strict=True):
            known = states != UNKNOWN
            np.testing.assert_array_equal(states[known], photos.truth.states[known])
            assert known.sum() == count
            assert known[photos.validates].sum() == count // 10, name
        assert run["positives"][-1] == (seen[-1] == POSITIVE).sum()
        assert len(set(run["val_mAP"])) == 1


def test_the_report_by_hand() -> None:
    report = load_example("benchmarks/questions_report.py")

    def runs(*found: float) -> list[dict[str, Any]]:
        return [{"answers": [0, 100, 300], "val_mAP": list(found)}]

    random, better = runs(0.2, 0.3, 0.4), runs(0.2, 0.5, 0.6)
    assert report.area(random[0]) == pytest.approx((100 * 25 + 200 * 35) / 300)
    assert report.answers_for(better, 0.4) == pytest.approx(200 / 3)
    assert report.answers_for(random, 0.4) == pytest.approx(300)
    assert report.answers_for(random, 0.2) == 0
    assert report.answers_for(random, 0.5) == float("inf")
    reached = report.reached_table({report.RANDOM: random, report.DEFAULT: better}).splitlines()
    assert reached[0] == "| at random | 100 | 300 |"
    assert reached[2] == "| what teaches most | 33 | 67 |"
    lines = report.table({report.RANDOM: random, "better": better}).splitlines()
    assert lines[0] == "| answers | 100 | 300 | mean | more than at random | answers for 40.0 |"
    assert lines[2] == "| better | 50.0 | 60.0 | 48.3 | 16.7 | 67 |"
    assert lines[3] == "| at random | 30.0 | 40.0 | 31.7 | 0.0 | 300 |"


def test_the_default_order_needs_at_most_half_of_the_answers() -> None:
    """What was measured, and what the page's default rests on."""
    report = load_example("benchmarks/questions_report.py")
    path = Path(report.__file__).parent / "measured" / "questions.json"
    results = json.loads(path.read_text("utf-8"))
    for learner in ("page", "probe"):
        runs = report.runs_of(results, learner)
        default, random = runs[report.DEFAULT], runs[report.RANDOM]
        assert len(default) == len(random) == 3
        for one, other in zip(default, random, strict=True):
            assert one["seed"] == other["seed"]
            assert report.area(one) > report.area(other)
        goal = float(np.mean([run["val_mAP"][-1] for run in random]))
        assert report.answers_for(default, goal) <= random[0]["answers"][-1] / 2
