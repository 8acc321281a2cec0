"""The benchmark of the methods, on toy photos: it chooses, runs, resumes and reports."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import colour_squares, load_example
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import POSITIVE, UNKNOWN
from trmml.training.probing import PENALTIES

Maker = Callable[..., MultiLabelDataset]


def write_splits(dataset: MultiLabelDataset) -> Path:
    """Write the table that the benchmarks read: 40 photos to train on, 16 for validation, the others."""
    folder = dataset.photos[0].parent
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "labels"])
        for i, (photo, row) in enumerate(zip(dataset.photos, dataset.states, strict=True)):
            names = [n for n, x in zip(dataset.labels, row, strict=True) if x == POSITIVE]
            split = "train" if i < 40 else "val" if i < 56 else "test"
            writer.writerow([photo.name, split, "|".join(names)])
    return folder


@pytest.fixture
def data(make_dataset: Maker) -> Path:
    return write_splits(make_dataset(72))


QUICK = {"training.epochs": 1, "matching.num_heads": 2, "matching.num_context_tokens": 2}
STILL = {**QUICK, "training.learning_rate": 1e-9, "training.prompt_learning_rate": 1e-9}
SHARPNESS = {"blunt": {"matching.spatial_scale": 1.0}, "sharp": {"matching.spatial_scale": 99.0}}


class Measured(NamedTuple):
    module: ModuleType
    path: Path
    results: Any
    runs: list[Any]
    arguments: tuple[Any, ...]


@pytest.fixture(scope="module")
def measured(
    clip_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Measured]:
    """Every method, chosen and run in two settings."""
    place = tmp_path_factory.mktemp("benchmark")
    source = f"local-dir:{clip_folders['vit']}"
    module = load_example("benchmarks/missing_labels.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRMML_CACHE", str(place / "cache"))
        patch.setattr(module, "matching_grid", lambda *rates: {"quick": QUICK, "still": STILL})
        heads = {"quick": {"rate": 1e-2, "decay": 0.1}, "still": {"rate": 1e-9, "decay": 0.1}}
        patch.setattr(module, "HEAD_GRID", heads)
        patch.setattr(module, "SHARPNESS", SHARPNESS)
        bench = (write_splits(colour_squares(place / "photos", 72)), source, None, QUICK)
        facts, path = {"backbone": source, "settings": QUICK}, place / "results.json"
        results = module.Results(path, facts, bench, 1)
        results.choose(module.METHODS)
        runs = [
            module.Run(method, setting, 0, results.chosen(method), "grid")
            for method in module.METHODS
            for setting in ("50 %", "single positive")
        ]
        results.add(runs)
        results.compare()
        yield Measured(module, path, results, runs, (facts, bench))


def test_what_is_chosen_is_best_on_validation_photos(measured: Measured) -> None:
    results = measured.results
    assert results.chosen("text-region-alone") in (QUICK, STILL)
    assert results.chosen("learned-queries")["rate"] == 1e-2
    assert results.chosen("linear-probe") == results.chosen("text-region") == {}
    assert len(results.content["chosen"]["text-pixel"]) == 2

    def val(name: str) -> float:
        keys = [f"text-pixel | {setting} | seed 0 | {name}" for setting in ("10 %", "50 %")]
        return sum(results.content["runs"][key]["val_mAP"] for key in keys)

    best = max(SHARPNESS, key=val)
    assert results.chosen("text-pixel")["matching.spatial_scale"] == {"blunt": 1, "sharp": 99}[best]


def test_every_method_runs_once(measured: Measured) -> None:
    found = json.loads(measured.path.read_text())
    # Chosen were settings of two heads and three matchings, and the sharpness of one.
    assert len(found["runs"]) == 6 * 4 + 2 * len(measured.module.METHODS)
    assert found["facts"]["images"] == {"train": 40, "val": 16, "test": 16}
    one = found["runs"]["text-region | 50 % | seed 0 | grid"]
    assert 0 < one["mAP"] <= 1
    assert len(one["epochs"]) == 1


def test_the_probe_alone_is_measured_beside_the_whole_model(
    data: Path, backbone_source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trmml.training.mixing.share_of_probe",
        lambda states, *_: torch.full((states.shape[1],), 0.9),
    )
    module = load_example("benchmarks/bench.py")
    bench = module.Bench(data, backbone_source, None)
    models = []
    learn = bench._finetune
    monkeypatch.setattr(bench, "_finetune", lambda *a: models.append(learn(*a)) or models[-1])
    found = bench.run(module.Run("text-region", "50 %", 0, QUICK, "grid"))
    model = models[0][0]
    features = next(iter(bench.features["test"].in_order(256)))
    alone = model.probe.logits(model.centered(features)).numpy()
    expected = mean_average_precision(alone, bench.test.states)
    assert found["probe_alone"]["mAP"] == pytest.approx(expected, abs=1e-6)
    # The whole model has logits of its own.
    assert np.abs(found["test_scores"] - 1 / (1 + np.exp(-alone))).max() > 0.01
    without = bench.run(module.Run("text-region-alone", "50 %", 0, QUICK, "grid"))
    assert "probe_alone" not in without


def test_what_was_measured_is_not_measured_again(measured: Measured) -> None:
    module, (facts, bench) = measured.module, measured.arguments
    before = measured.path.stat().st_mtime_ns
    module.Results(measured.path, facts, bench, 1).add(measured.runs)
    assert measured.path.stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="choose another output"):
        module.Results(measured.path, facts | {"settings": {"loss.clip": 0.1}}, bench, 1)


def test_the_gain_is_over_the_best_simple_method(measured: Measured) -> None:
    found = json.loads(measured.path.read_text())
    assert set(found["gains"]) == {"50 %", "single positive"}
    for setting, gain in found["gains"].items():
        maps = {
            method: found["runs"][f"{method} | {setting} | seed 0 | grid"]["mAP"]
            for method in measured.module.METHODS
        }
        best = maps[gain["best_simple"]]
        assert best == max(maps[method] for method in measured.module.SIMPLE)
        assert gain["gain"] == pytest.approx(maps["text-region"] - best, abs=1e-4)
        assert gain["low"] <= gain["gain"] <= gain["high"]


def test_two_processes_at_a_time_find_the_same(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, (facts, bench) = measured.module, measured.arguments
    monkeypatch.syspath_prepend(str(Path(module.__file__).parent))
    parallel = module.Results(tmp_path / "parallel.json", facts, bench, 2)
    chosen = [run for run in measured.runs if run.method in ("text-pixel", "linear-probe")]
    parallel.add(chosen)
    for run in chosen:
        alone, beside = (r.content["runs"][run.key] for r in (measured.results, parallel))
        assert beside["mAP"] == pytest.approx(alone["mAP"], abs=1e-6)


def test_runs_are_reported_as_a_table_and_a_picture(measured: Measured, tmp_path: Path) -> None:
    report = load_example("benchmarks/missing_labels_report.py")
    report.main(str(measured.path), str(tmp_path / "report"))
    one = measured.results.content["runs"]["text-region | 50 % | seed 0 | grid"]
    table = (tmp_path / "report.md").read_text()
    assert f"| text–region (trmml) | {100 * one['mAP']:.1f} |" in table
    probe = f"{100 * one['probe_alone']['mAP']:.1f}"
    assert f"| probe alone: zero-shot corrected by linear map and MLP | {probe} |" in table
    with Image.open(tmp_path / "report.png") as drawn:
        assert drawn.width > 500


def test_no_probe_was_chosen_at_an_end_of_its_grid() -> None:
    """There a stronger one would have been kept out, and the lead over it would not be one."""
    bench = load_example("benchmarks/bench.py")
    measured = Path(bench.__file__).parent / "measured" / "missing_labels.json"
    runs = json.loads(measured.read_text("utf-8"))["runs"].values()
    probes = [run for run in runs if run["method"] in bench.PROBES]
    assert probes
    for run in probes:
        assert run["penalty"] not in (PENALTIES[0], PENALTIES[-1])


def test_text_pixel_was_not_chosen_at_the_highest_rate() -> None:
    bench = load_example("benchmarks/bench.py")
    measured = Path(bench.__file__).parent / "measured" / "missing_labels.json"
    found = json.loads(measured.read_text("utf-8"))
    rates = [
        run["changes"]["training.learning_rate"]
        for run in found["runs"].values()
        if run["method"] == "text-pixel" and run["note"].startswith("rate ")
    ]
    assert found["chosen"]["text-pixel"][0].startswith("rate 0.03,")
    assert max(rates) > 0.03


def test_the_probe_is_a_logistic_regression(data: Path, backbone_source: str) -> None:
    module = load_example("benchmarks/bench.py")
    bench = module.Bench(data, backbone_source, None)
    found = bench.run(module.Run("linear-probe", "100 %", 0, {}, "grid"))

    def seen(part: str, data: MultiLabelDataset) -> np.ndarray:
        return bench._seen(part, data).pooled().double().cpu().numpy()

    features = seen("train", bench.train)
    scaler = StandardScaler().fit(features)
    columns = [
        LogisticRegression(C=1 / found["penalty"], max_iter=10_000, tol=1e-8)
        .fit(scaler.transform(features), column)
        .predict_proba(scaler.transform(seen("test", bench.test)))[:, 1]
        for column in bench.train.states.T
    ]
    scores = np.stack(columns, axis=1).astype(np.float32)
    assert found["mAP"] == pytest.approx(mean_average_precision(scores, bench.test.states))


def test_the_interval_covers_the_gain_where_seeds_differ_most() -> None:
    gains = load_example("benchmarks/gains.py")
    generator, covered = np.random.default_rng(0), {"seeds": 0, "both": 0}
    for _ in range(400):
        for name, of_photos in (("seeds", 1e-3), ("both", 0.01)):
            seeds = generator.normal(0.02, 0.01, size=3)
            photos = of_photos * generator.normal(size=201)  # the same draws for all seeds
            drawn = [0.3 + seed + photos[0] + np.array([0, *photos[1:]]) for seed in seeds]
            found = gains.gain_over_seeds(drawn, [np.full(201, 0.3)] * 3)
            covered[name] += found["low"] <= 0.02 <= found["high"]
    assert all(0.92 * 400 <= count <= 0.985 * 400 for count in covered.values()), covered
    one = gains.gain_over_seeds(drawn[:1], [np.full(201, 0.3)])
    reach = 1.96 * photos[1:].std(ddof=1)
    assert one["high"] - one["gain"] == pytest.approx(reach, abs=1e-4)


def test_the_summary_says_the_lead_and_what_is_kept() -> None:
    report = load_example("benchmarks/missing_labels_report.py")
    figures = {
        "zero-shot": ((0.1, 0.1), (0.1, 0.1)),
        "linear-probe": ((0.30, 0.32), (0.40, 0.40)),
        "learned-queries": ((0.20, 0.20), (0.42, 0.42)),
        "text-region-alone": ((0.32, 0.32), (0.41, 0.41)),
        "text-region": ((0.36, 0.36), (0.40, 0.45)),
    }
    runs = {
        f"{method}, {setting}, {seed}": {
            "method": method, "setting": setting, "seed": seed, "note": "grid", "mAP": found
        }
        for method, of_settings in figures.items()
        for setting, of_seeds in zip(("10 %", "100 %"), of_settings, strict=True)
        for seed, found in list(enumerate(of_seeds))[:: -1 if setting == "10 %" else 1]
    }  # fmt: skip
    gains = {
        "10 %": {"gain": 0.05, "low": 0.012, "high": 0.08, "best_simple": "linear-probe"},
        "100 %": {"gain": -0.004, "low": -0.01, "high": 0.002, "best_simple": "learned-queries"},
    }
    assert report.summary({"runs": runs, "gains": gains}) == (
        "trmml is -0.4 to 5.0 mAP (2.3 on average) above the best simple method of each of the 2 "
        "settings.\nText–region matching alone, without zero-shot and the maps beside it, is -1.0 to "
        "1.0 mAP (0.0 on average) above it.\nWith a tenth of the labels trmml keeps 85.0 ± 7.1 % of "
        "its mAP with all of them (linear probe 77.5 ± 3.5, learned queries 47.6 ± 0.0).\n"
    )
    assert report.gain_table(gains).splitlines()[2:] == [
        "| over the best simple one | +5.0 | -0.4 |",
        "| interval of 95 % | +1.2 to +8.0 | -1.0 to +0.2 |",
        "| which is | linear probe | learned queries |",
    ]


def test_prompts_learned_first_stay_while_the_rest_learns(
    data: Path, backbone_source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_module = load_example("benchmarks/bench.py")
    bench = bench_module.Bench(data, backbone_source, None)
    models = []
    finetune = bench._finetune

    def watched(*arguments: Any) -> Any:
        models.append(finetune(*arguments))
        return models[-1]

    monkeypatch.setattr(bench, "_finetune", watched)
    quick = {"training.batch_size": 8, "matching.num_heads": 2, "matching.num_context_tokens": 2}
    quick |= {"training.learning_rate": 3e-4, "training.prompt_learning_rate": 3e-3}
    bench.run(
        bench_module.Run(
            "text-region", "50 %", 0, quick | {bench_module.PROMPTS_FIRST: True}, "two steps"
        )
    )
    (first, _), (second, _) = models
    assert first.config.matching.way == "text-image"
    assert second.config.matching.way == "text-region"
    before, after = first.learned_state(), second.learned_state()
    prompts = [name for name in before if "context" in name]
    assert prompts
    for name in prompts:
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["logit_bias"], after["logit_bias"])


def test_tools_for_tables_are_measured_against_the_hidden_labels(
    data: Path, backbone_source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_example("benchmarks/label_tables.py")
    monkeypatch.setattr(module, "KNOWN", 0.8)
    monkeypatch.setattr(module, "FLIPPED", 0.2)
    bench = load_example("benchmarks/bench.py").Bench(data, backbone_source, None)
    quick = {"training.epochs": 1, "matching.num_heads": 2, "matching.num_context_tokens": 2}
    tables = module.Tables(bench, quick)
    done = tables.complete(0)
    assert done["blank"] == (bench.train.hide_labels(0.8, 0).states == UNKNOWN).sum()
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
    report = load_example("benchmarks/missing_labels_report.py")
    runs = [
        {"method": "text-region", "setting": "10 %", "note": "grid", "seed": seed, "mAP": value}
        for seed, value in enumerate((0.2, 0.3, 0.4))
    ]
    assert "| text–region (trmml) | 30.0 ± 10.0 |" in report.grid_table(runs)
    pixel = runs[0] | {"method": "text-pixel", "mAP": 0.1}
    less = [
        run | {"note": "ablation: x", "mAP": run["mAP"] - 0.01 * i} for i, run in enumerate(runs)
    ]
    table = report.ablation_table([*runs, pixel, *less])
    # Paired by seed: the differences are 0, -1 and -2.
    assert "| x | 29.0 ± 9.0 | -1.0 ± 1.0 |" in table
    assert "| trmml, all defaults | 30.0 ± 10.0 |  |" in table
    assert "| text–pixel, as in the grid | 10.0 | -10.0 |" in table


def test_what_was_tried_stands_beside_what_was_kept() -> None:
    report = load_example("benchmarks/missing_labels_report.py")
    runs = [
        {"method": "text-region", "setting": "10 %", "note": note, "seed": 0, "val_mAP": value}
        for note, value in (("grid", 0.4), ("tried: more", 0.35))
    ]
    table = report.tried_table(runs)
    assert "| as it is | 40.0 |" in table
    assert "| more | 35.0 |" in table


def test_the_tables_of_label_tables_are_means_over_the_seeds() -> None:
    report = load_example("benchmarks/label_tables_report.py")

    def complete(filled: int, right: float) -> dict[str, Any]:
        found = {"filled": filled, "precision": [right, 0.0, 1.0], "there": 100}
        nothing = {"filled": 0, "precision": [None, None, None], "there": 10}
        states = {"positive": found, "negative": found}
        labels = {"dog": states, "cat": {"positive": nothing, "negative": nothing}}
        return {"all": states, "labels": labels, "mAP": {"partial": 40.0, "completed": 41.0}}

    def thresholds(high: float) -> dict[str, Any]:
        labels = {"dog": [0.8, 0.7, high, 25]}
        side = {"CF1": 50.0, "precision": {"0.9": {"all": [0.8, 0.7, 0.9], "labels": labels}}}
        return {"partial": side, "full": side}

    results = {
        "complete | seed 0": complete(20, 0.5),
        "complete | seed 1": complete(60, 1.0),
        "thresholds | seed 0": thresholds(0.95),
        "thresholds | seed 1": thresholds(0.85),
    }
    # Of 100 there, 10 and 60 were rightly filled.
    assert "| positive cells | 75.0 ± 35.4 | 35.0 ± 35.4 |" in report.complete_table(results)
    assert "41.0 ± 0.0 mAP on the test photos" in report.complete_table(results)
    by_label = report.filled_by_label_table(results)
    assert "| dog | 40 | 87.5 | 40 | 87.5 |" in by_label
    assert "| cat | 0 | – | 0 | – |" in by_label
    # The interval of one of the two seeds reaches 0.9.
    assert "| 90 | 80.0 ± 0.0 | 80.0 ± 0.0 | 50.0 ± 70.7 |" in report.thresholds_table(results)
    assert "| dog | 80 (70 – 95), 25 | 80 (70 – 85), 25 |" in report.kept_by_label_table(results)


def test_the_figures_in_readme_and_manual_are_those_that_were_measured() -> None:
    readme = load_example("benchmarks/readme.py")
    text = "\n".join(path.read_text("utf-8") for path in readme.DOCUMENTS)
    assert set(re.findall("<!-- figures: (\\w+) -->", text)) == set(readme.figures())
    assert text.count("<!-- figures: ") == text.count("<!-- end -->")
    for path, made in readme.documents().items():
        assert path.read_text("utf-8") == made, f"{path.name}: run examples/benchmarks/readme.py"
    changed = text.replace("| chance |", "| luck |")
    assert changed != text
    assert readme.with_figures(changed) == text
