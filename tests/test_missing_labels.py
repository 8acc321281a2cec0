"""The benchmark of the methods, on toy photos: it chooses, runs, resumes and reports."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import load_example
from PIL import Image

from trmml.data.dataset import MultiLabelDataset
from trmml.labels import POSITIVE, UNKNOWN

Maker = Callable[..., MultiLabelDataset]


@pytest.fixture
def data(make_dataset: Maker) -> Path:
    dataset = make_dataset(72)
    folder = dataset.photos[0].parent
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "labels"])
        for i, (photo, row) in enumerate(zip(dataset.photos, dataset.labels, strict=True)):
            names = [n for n, x in zip(dataset.category_names, row, strict=True) if x == POSITIVE]
            split = "train" if i < 40 else "val" if i < 56 else "test"
            writer.writerow([photo.name, split, "|".join(names)])
    return folder


def test_every_method_runs_once_and_is_reported(
    data: Path, backbone_source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_module, report = (
        load_example("benchmarks/missing_labels.py"),
        load_example("benchmarks/report.py"),
    )
    quick = {"training.epochs": 1, "model.num_heads": 2, "model.num_context_tokens": 2}
    slow = {**quick, "training.learning_rate": 1e-9, "training.prompt_learning_rate": 1e-9}
    monkeypatch.setattr(bench_module, "GRID", {"quick": quick, "still": slow})
    bench = bench_module.Bench(data, backbone_source, None, tmp_path)
    bench.choose(["text-region"])
    chosen = bench.results["chosen"]["text-region"]
    assert chosen in ("quick", "still")
    assert len(bench.results["runs"]) == 4
    for method in bench_module.METHODS:
        for setting in ("50 %", "single positive"):
            bench.run(method, setting, 0, quick if method.startswith("text") else {}, "grid")
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["runs"]) == 4 + 10
    assert results["facts"]["images"] == {"train": 40, "val": 16, "test": 16}
    run = results["runs"]["text-region | 50 % | seed 0 | grid"]
    assert 0 < run["mAP"] <= 1
    assert len(run["epochs"]) == 1
    assert not (tmp_path / "model").exists()

    again = bench_module.Bench(data, backbone_source, None, tmp_path)
    before = (tmp_path / "results.json").stat().st_mtime_ns
    again.run("text-region", "50 %", 0, quick, "grid")
    again.choose(["text-region"])
    assert (tmp_path / "results.json").stat().st_mtime_ns == before

    report.main(str(tmp_path / "results.json"), str(tmp_path / "report"))
    table = (tmp_path / "report.md").read_text()
    assert f"| text–region (TRM-ML) | {100 * run['mAP']:.1f} |" in table
    with Image.open(tmp_path / "report.png") as drawn:
        assert drawn.width > 500


def test_tools_for_tables_are_measured_against_the_hidden_labels(
    data: Path, backbone_source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_example("benchmarks/label_tables.py")
    monkeypatch.setattr(module, "KNOWN", 0.8)
    monkeypatch.setattr(module, "FLIPPED", 0.2)
    bench = load_example("benchmarks/missing_labels.py").Bench(
        data, backbone_source, None, tmp_path
    )
    quick = {"training.epochs": 1, "model.num_heads": 2, "model.num_context_tokens": 2}
    tables = module.Tables(bench, quick)
    done = tables.complete(0)
    assert done["blank"] == (bench.train.hide_labels(0.8, 0).labels == UNKNOWN).sum()
    for state in ("positive", "negative"):
        each = [label[state]["filled"] for label in done["labels"].values()]
        assert sum(each) == done["all"][state]["filled"]
    assert set(done["mAP"]) == {"partial", "completed"}
    flipped = tables.mistakes(0)
    assert flipped["known"] == 3 * 40 - done["blank"]
    assert 0.1 < flipped["chance"] < 0.3
    # Every known cell is in cleanlab's list, so the first 500 have all the flipped ones.
    assert flipped["cleanlab"]["adjusted"]["500"] == flipped["flipped"] / 500
    found = tables.thresholds(0)
    assert found["full"]["precision"]["0.8"]["found"] >= found["full"]["precision"]["0.95"]["found"]


def test_a_table_shows_the_mean_and_the_spread_of_the_seeds() -> None:
    report = load_example("benchmarks/report.py")
    runs = [
        {"method": "text-region", "setting": "10 %", "note": "grid", "seed": seed, "mAP": value}
        for seed, value in enumerate((0.2, 0.3, 0.4))
    ]
    assert "| text–region (TRM-ML) | 30.0 ± 10.0 |" in report.grid_table(runs)
    base = [run | {"note": "ablation: as chosen"} for run in runs]
    less = [
        run | {"note": "ablation: x", "mAP": run["mAP"] - 0.01 * i} for i, run in enumerate(runs)
    ]
    # Paired by seed: the differences are 0, -1 and -2.
    assert "| x | 29.0 ± 9.0 | -1.0 ± 1.0 |" in report.ablation_table(base + less)
