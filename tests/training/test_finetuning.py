import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_command, untrained

import trmml
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.config.groups import FinetuneConfig
from trmml.data.checks import Rule
from trmml.data.dataset import MultiLabelDataset
from trmml.data.splits import split_dataset
from trmml.data.writing import write_dataset
from trmml.errors import ArtifactError, ConfigError, DataError, OutputError
from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.reports.numbers import signed_per_cent
from trmml.training.batches import CachedFeatures
from trmml.training.features import compute_features
from trmml.training.optimization import (
    AveragedWeights,
    effective_batch_size,
    make_optimizer,
    make_schedule,
)
from trmml.training.photos import known_log_odds
from trmml.training.run_folder import RunFolder
from trmml.training.trainer import CHECKPOINT
from trmml.training.validation import Validation
from trmml.zoo.loading import load_model

Maker = Callable[..., MultiLabelDataset]


@pytest.fixture(autouse=True)
def _estimates_begin_in_the_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trmml.training.objective.START_EPOCH", 1)


QUICK = {
    "training.epochs": 3,
    "training.batch_size": 5,
    "training.val_fraction": 0.3,
    "matching.num_context_tokens": 2,
    "matching.num_heads": 2,
    "pseudo_labels.enabled": True,
    "pseudo_labels.positive_threshold": 0.6,
    "pseudo_labels.negative_threshold": 0.4,
}


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def log_of(folder: Path) -> list[str]:
    return (folder / "log.jsonl").read_text().splitlines()


def test_eight_photos_can_be_learned_by_heart(backbone_source: str, make_dataset: Maker) -> None:
    data = make_dataset(8)
    settings = QUICK | {
        "training.epochs": 30,
        "training.batch_size": 8,
        "training.learning_rate": 1e-2,
        "training.ema_decay": 0.5,
        "pseudo_labels.enabled": False,
    }
    model = trmml.finetune(data, backbone=backbone_source, val=data, config=settings)
    scores = np.stack([p.scores for p in model.predict_many(data.photos)])
    assert mean_average_precision(scores, data.states) == 1.0


@pytest.mark.parametrize("matching", ["text-region", "text-pixel", "text-image"])
@pytest.mark.parametrize("negative_prompt", [True, False])
def test_every_way_of_matching_trains_and_comes_back_the_same(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, matching: str, negative_prompt: bool
) -> None:
    data = make_dataset(12).hide_labels(0.7)
    settings = QUICK | {"matching.way": matching, "matching.negative_prompt": negative_prompt}
    settings |= {"loss.distillation": 0.1, "loss.contrastive": 0.1}
    model = trmml.finetune(data, backbone=backbone_source, config=settings, output=tmp_path / "out")
    again = load_model(tmp_path / "out", device=model.device)
    ours = np.stack([p.scores for p in model.predict_many(data.photos)])
    theirs = np.stack([p.scores for p in again.predict_many(data.photos)])
    np.testing.assert_array_equal(ours, theirs)
    assert model.calibration == again.calibration
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert not again.training


def test_the_folder_says_how_the_model_was_made(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(12).hide_labels(0.7)
    out = tmp_path / "out"
    config = QUICK | {"matching.linear_probe": False}  # which adds to the last epoch
    trmml.finetune(data, backbone=backbone_source, config=config, output=out)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "README.md",
        "calibration.json",
        "config.json",
        "curves.png",
        "finetune.json",
        "log.jsonl",
        "metrics.json",
        "model.safetensors",
    }
    assert not (tmp_path / "out.run").exists()
    facts = json.loads((out / "finetune.json").read_text())
    assert facts["settings"]["training"]["epochs"] == 3
    assert facts["data"]["images"] + facts["validation"]["images"] == 12
    log = [json.loads(line) for line in log_of(out)]
    assert [record["epoch"] for record in log] == [0, 1, 2]
    # Four photos are too few to choose an epoch.
    assert facts["best_epoch"] == 2
    measured = json.loads((out / "metrics.json").read_text())["validation"]["mAP"]
    assert measured == pytest.approx(log[2]["val_mAP"], abs=1e-6)
    assert facts["effective_batch_size"] == 5


def test_the_epoch_is_chosen_where_enough_is_known_and_else_the_last(
    backbone_source: str,
    make_dataset: Maker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = make_dataset(24)
    few = replace(data, states=np.where(np.arange(24)[:, None] < 5, data.states, UNKNOWN))
    enough = [(data.states == state).sum(axis=0).min() for state in (NEGATIVE, POSITIVE)]
    assert min(enough) >= 5 > (few.states == POSITIVE).sum(axis=0).max()
    config = QUICK | {"matching.linear_probe": False}
    for val, kept, said in ((data, 0, ""), (few, 2, "the last epoch is taken")):
        falling = chain((0.9, 0.8, 0.7), repeat(0.6))
        monkeypatch.setattr(Validation, "map_of", lambda *_, maps=falling: next(maps))
        model = trmml.finetune(data, val=val, backbone=backbone_source, config=config)
        assert model.report is not None
        assert model.report["finetune"]["best_epoch"] == kept
        assert said in caplog.text


def test_the_clip_alone_is_measured_on_the_same_photos(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data, out = make_dataset(24), tmp_path / "out"
    trained = trmml.finetune(data, val=data, backbone=backbone_source, config=QUICK, output=out)
    alone = trmml.load_model("zero-shot", labels=data.labels, backbone=backbone_source)
    alone.image_center.copy_(trained.image_center)
    alone.patch_center.copy_(trained.patch_center)
    # As they were kept, since a difference by rounding may change the order of two photos.
    features = CachedFeatures(compute_features(data.photos, alone.backbone), np.arange(24))
    with torch.no_grad():
        seen = ImageFeatures(
            *(torch.cat(parts) for parts in zip(*features.in_order(8), strict=True))
        )
        scores = alone.match(seen, alone.stored_text()).scores.numpy()
    compared = json.loads((out / "finetune.json").read_text())["compared_with"]
    assert set(compared) == {"zero-shot", "linear probe"}
    found = compared["zero-shot"]
    assert found["mAP"] == pytest.approx(mean_average_precision(scores, data.states), abs=1e-4)
    own = json.loads((out / "metrics.json").read_text())["validation"]["mAP"]
    assert found["gain"] == pytest.approx(own - found["mAP"], abs=1e-4)
    assert found["low"] <= found["gain"] <= found["high"]


def test_figures_of_the_photos_learned_from_are_called_too_good(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, other = make_dataset(30).hide_labels(0.7), make_dataset(30, seed=1).hide_labels(0.7)
    trmml.finetune(data, backbone=backbone_source, config=QUICK, output=tmp_path / "run")
    model = trmml.load_model(tmp_path / "run")

    def warns(table: MultiLabelDataset) -> bool:
        caplog.clear()
        trmml.evaluate(model, table)
        return "If it is the same table, these figures are too good" in caplog.text

    assert warns(data)
    assert warns(data.with_labels(data.labels[:2]))
    learned, validated = split_dataset(data, 0.3, 0)
    assert warns(learned)
    assert warns(validated)
    assert "the validation photos that chose the model's best epoch" in caplog.text
    assert not warns(other)
    assert not warns(data.subset(np.arange(29)))
    for report in (None, {}, {"finetune": {"data": []}}, {"finetune": {"data": {"labels": 3}}}):
        model.report = report
        assert not warns(data)


def test_zero_shot_is_not_trained(backbone_source: str, make_dataset: Maker) -> None:
    data = make_dataset(8)
    model = trmml.load_model("zero-shot", labels=data.labels, backbone=backbone_source)
    with pytest.raises(
        ConfigError, match=r"nothing to learn. Name its CLIP \(backbone=, --backbone"
    ):
        trmml.finetune(data, model=model, config=QUICK)
    with pytest.raises(ConfigError, match=r"leave matching\.way as it is"):
        trmml.finetune(data, backbone=backbone_source, config=QUICK | {"matching.way": "zero-shot"})


@pytest.mark.parametrize("share", [0.2, 1])
def test_a_number_for_the_validation_photos_says_where_it_goes(
    backbone_source: str, make_dataset: Maker, share: float
) -> None:
    with pytest.raises(
        DataError, match=rf"pass config={{'training\.val_fraction': {share}}} and no"
    ):
        trmml.finetune(make_dataset(4), val=share, backbone=backbone_source)


def test_a_list_of_dicts_can_be_learned(backbone_source: str, make_dataset: Maker) -> None:
    data = make_dataset(12)
    records = [
        {"image": str(photo), **dict(zip(data.labels, row.tolist(), strict=True))}
        for photo, row in zip(data.photos, data.states, strict=True)
    ]
    models = [trmml.finetune(d, backbone=backbone_source, config=QUICK) for d in (data, records)]
    assert torch.equal(*(model.logit_scale for model in models))
    assert models[0].labels == models[1].labels


def test_a_training_without_gain_is_called_so(
    backbone_source: str, make_dataset: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    still = {"training.learning_rate": 1e-9, "training.prompt_learning_rate": 1e-9}
    config = QUICK | still | {"matching.linear_probe": False}
    data = make_dataset(24)
    model = trmml.finetune(data, val=data, backbone=backbone_source, config=config)
    assert model.report is not None
    gain = model.report["finetune"]["compared_with"]["zero-shot"]
    assert gain["low"] <= 0
    assert (
        "do not show that the model is better than its CLIP alone (zero-shot): mAP differs by "
        f"{signed_per_cent(gain['gain'])}, 95 % interval {signed_per_cent(gain['low'])} to"
        in caplog.text
    )


def test_rules_stay_and_labels_that_are_left_behind_are_named(
    backbone_source: str, make_dataset: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_dataset(12)
    start = trmml.finetune(data, backbone=backbone_source, config=QUICK)
    rules = Rule("red", "implies", "green"), Rule("red", "excludes", "blue")
    start.calibration = replace(start.calibration, rules=rules)
    model = trmml.finetune(data, model=start, config=QUICK)
    assert model.calibration.rules == rules
    assert "not in the table" not in caplog.text
    few = trmml.finetune(data.with_labels(["red", "green"]), model=start, config=QUICK)
    assert few.calibration.rules == rules[:1]
    assert "not in the table, and so not in the new model: blue." in caplog.text


def test_a_trained_model_is_taught_by_itself(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(12)
    learned = QUICK | {"training.epochs": 20, "training.learning_rate": 1e-2}
    learned |= {"matching.linear_probe": False}  # which steps do not change
    start = trmml.finetune(data, backbone=backbone_source, config=learned)
    losses = {}
    for own in (True, False):
        out = tmp_path / f"own {own}"
        once = QUICK | {"training.epochs": 1, "loss.self_distillation": own}
        trmml.finetune(data, model=start, config=once, output=out)
        facts = json.loads((out / "finetune.json").read_text())
        losses[own] = facts["history"][0]["loss"]["distillation"]
    # It agrees with itself to begin with, and with the CLIP no more.
    assert 0 < losses[True] < losses[False] / 2


def test_a_model_that_training_does_not_improve_is_kept(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, out = make_dataset(24), tmp_path / "out"
    learned = QUICK | {"training.epochs": 20, "training.learning_rate": 1e-2}
    learned |= {"matching.linear_probe": False}
    start = trmml.finetune(data, val=data, backbone=backbone_source, config=learned)
    spoilt = QUICK | {"training.learning_rate": 0.5, "training.prompt_learning_rate": 0.5}
    model = trmml.finetune(data, val=data, model=start, config=spoilt, output=out)
    assert "No epoch was better on the validation photos" in caplog.text
    for name, tensor in start.learned_state().items():
        np.testing.assert_allclose(model.learned_state()[name], tensor, atol=1e-6, err_msg=name)
    facts = json.loads((out / "finetune.json").read_text())
    assert facts["best_epoch"] is None
    assert facts["start_validation_mAP"] > max(e["val_mAP"] for e in facts["history"])
    measured = json.loads((out / "metrics.json").read_text())["validation"]["mAP"]
    assert measured == pytest.approx(facts["start_validation_mAP"], abs=1e-5)


def test_a_full_disk_is_one_error(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")  # what torch.save says then

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OutputError, match=r"the checkpoint breaks off.*--resume"):
            trmml.finetune(
                make_dataset(12), backbone=backbone_source, config=QUICK, output=tmp_path / "out"
            )


@pytest.mark.parametrize("content", [{}, [1, 2]])
def test_a_file_that_is_no_checkpoint_is_refused(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, content: Any
) -> None:
    (tmp_path / "out.run").mkdir()
    torch.save(content, tmp_path / "out.run" / CHECKPOINT)
    with pytest.raises(ArtifactError, match=r"is no checkpoint\. Remove it"):
        trmml.finetune(
            make_dataset(12), backbone=backbone_source, config=QUICK, output=tmp_path / "out",
            resume=True,
        )  # fmt: skip


def test_an_output_that_cannot_be_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for output in (tmp_path / ("a" * 252), tmp_path / "loop" / "out"):
        with pytest.raises(ConfigError, match="cannot be: "):
            RunFolder(output, resume=False)


def test_the_log_rates_pseudo_labels_where_the_truth_is_hidden(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(12)
    for name, dataset in (("hidden", data.hide_labels(0.5)), ("blank", data.hide_labels(0.5))):
        if name == "blank":
            dataset = replace(dataset, hidden_states=None)
        trmml.finetune(
            dataset, backbone=backbone_source, val=data, config=QUICK, output=tmp_path / name
        )
    hidden, blank = (
        [json.loads(line)["pseudo_labels"] for line in log_of(tmp_path / name)]
        for name in ("hidden", "blank")
    )
    unknown = int((data.hide_labels(0.5).states == UNKNOWN).sum())
    assert [record["unknown"] for record in hidden] == [unknown] * 3
    assert hidden[0]["positive"] == hidden[0]["negative"] == 0  # they start in the second epoch
    assert hidden[2]["positive"] + hidden[2]["negative"] > 0
    assert "negative_precision" in hidden[2]
    assert "negative_precision" not in blank[2]
    # The hidden truth rates the pseudo labels and does nothing else.
    assert weights_of(tmp_path / "hidden") == weights_of(tmp_path / "blank")


KILLED_RUN = """
import json, sys, trmml, trmml.training.objective
trmml.training.objective.START_EPOCH = 1
table, backbone, out, config = sys.argv[1:5]
trmml.finetune(table, backbone=backbone, config=json.loads(config), output=out, resume=True)
"""


def write_table(data: MultiLabelDataset, path: Path) -> Path:
    rows = [",".join(["image", *data.labels])]
    for photo, labels in zip(data.photos, data.states, strict=True):
        cells = ["" if label == UNKNOWN else str(label) for label in labels]
        rows.append(",".join([str(photo), *cells]))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_killed_run_ends_with_the_same_bytes(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    table = write_table(make_dataset(24).hide_labels(0.7), tmp_path / "labels.csv")
    settings = QUICK | {"training.epochs": 12}
    trmml.finetune(table, backbone=backbone_source, config=settings, output=tmp_path / "straight")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_RUN, str(table), backbone_source, str(out)]
    command.append(json.dumps(settings))
    environment = os.environ | {"TRMML_CACHE": str(tmp_path / "other-cache")}
    kills = 0
    checkpoint = tmp_path / "killed.run" / CHECKPOINT
    for _ in range(20):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen(command, env=environment)
        if kills < 3:
            # Wait for progress, then strike at a moment that nothing has chosen.
            while process.poll() is None and (
                not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before
            ):
                time.sleep(0.002)
            time.sleep(0.03 * kills)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            break
    assert kills == 3
    assert weights_of(out) == weights_of(tmp_path / "straight")
    log = log_of(out)
    assert [json.loads(line)["epoch"] for line in log] == list(range(12))


def test_resuming_a_finished_run_returns_its_model(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data, out = make_dataset(12), tmp_path / "out"
    first = trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out)
    written = weights_of(out)
    again = trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out, resume=True)
    assert weights_of(out) == written
    assert torch.equal(first.present.text_features, again.present.text_features)
    with pytest.raises(ConfigError, match="other data or settings"):
        trmml.finetune(
            data.hide_labels(0.5), backbone=backbone_source, config=QUICK, output=out, resume=True
        )


def test_nothing_is_overwritten(backbone_source: str, make_dataset: Maker, tmp_path: Path) -> None:
    data = make_dataset(12)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        trmml.finetune(data, backbone=backbone_source, config=QUICK, output=tmp_path / "taken")
    (tmp_path / "begun.run").mkdir()
    with pytest.raises(ConfigError, match="holds an unfinished run; resume it"):
        trmml.finetune(data, backbone=backbone_source, config=QUICK, output=tmp_path / "begun")
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"


def test_of_two_runs_that_begin_at_once_one_goes_on(tmp_path: Path) -> None:
    first, second = (
        RunFolder(tmp_path / "out", resume=False),
        RunFolder(tmp_path / "out", resume=False),
    )
    assert first.begin("a", FinetuneConfig()) is None
    with pytest.raises(ConfigError, match="holds an unfinished run; resume it"):
        second.begin("b", FinetuneConfig())


def test_a_run_that_fails_before_its_first_epoch_leaves_nothing(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data, out = make_dataset(12), tmp_path / "out"
    whole = data.photos[3].read_bytes()
    data.photos[3].write_bytes(whole[:50])
    with pytest.raises(DataError, match="1 of 12 photos cannot be read; mend them"):
        trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out)
    data.photos[3].write_bytes(whole)
    trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out)
    assert out.is_dir()


def test_a_run_goes_on_with_other_threads_and_workers(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out, threads = make_dataset(12), tmp_path / "out", torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(
            "trmml.training.run_folder.RunFolder.finish",
            lambda *_: (_ for _ in ()).throw(SystemExit),
        )
        with pytest.raises(SystemExit):
            trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out)
    torch.set_num_threads(threads + 1)  # the last bits of what a CPU computes depend on it
    try:
        less = QUICK | {"training.num_workers": 0, "training.cache_gb": 1.0}
        model = trmml.finetune(data, backbone=backbone_source, config=less, output=out, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert model.source == str(out)


def test_what_the_machine_decides_is_written_down(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    trmml.finetune(make_dataset(12), backbone=backbone_source, config=QUICK, output=out)
    training = json.loads((out / "finetune.json").read_text())["settings"]["training"]
    on_gpu = torch.cuda.is_available()
    assert training["features"] == ("augmented" if on_gpu else "cached")
    assert training["precision"] == ("bfloat16" if on_gpu else "float32")


def test_a_loaded_clip_has_its_own_size(backbone: FrozenCLIP, make_dataset: Maker) -> None:
    other = backbone.photo.image_size * 2
    with pytest.raises(ConfigError, match=rf"image_size is {other}, but the CLIP was loaded for"):
        trmml.finetune(make_dataset(12), backbone=backbone, config=QUICK | {"image_size": other})


def test_labels_that_validation_photos_lack_are_unknown_there(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(12)
    table = write_table(data, tmp_path / "labels.csv")
    val = write_table(data.with_labels(("blue", "red")), tmp_path / "val.csv")
    model = trmml.finetune(
        table, val=val, labels=["red", "green"], backbone=backbone_source, config=QUICK
    )
    assert model.labels == ("red", "green")
    positives = int((data.with_labels(("red",)).states == POSITIVE).sum())
    assert model.calibration.known_positives == (positives, 0)
    with pytest.raises(DataError, match="has no label 'gren'"):
        trmml.finetune(table, labels=["red", "gren"], backbone=backbone_source, config=QUICK)


def test_a_checkpoint_of_another_run_is_refused(
    backbone_source: str,
    make_dataset: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, out = make_dataset(12), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(
            "trmml.training.run_folder.RunFolder.finish",
            lambda *_: (_ for _ in ()).throw(SystemExit),
        )
        with pytest.raises(SystemExit):
            trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out)
    checkpoint = tmp_path / "out.run" / CHECKPOINT
    kept = checkpoint.read_bytes()
    state = torch.load(checkpoint, weights_only=True)
    renamed = {f"old_{name}": tensor for name, tensor in state["learned"].items()}
    less = {name: value for name, value in state.items() if name != "schedule"}
    for changed in (state | {"learned": renamed}, state | {"learned": []}, less):
        torch.save(changed, checkpoint)
        with pytest.raises(ArtifactError, match="of another version of trmml; resume with it"):
            trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out, resume=True)
    checkpoint.write_bytes(kept)
    other = QUICK | {"training.learning_rate": 5e-4}
    was = r"other data or settings \(training\.learning_rate was .*, is 0\.0005\); resume with"
    with pytest.raises(ConfigError, match=was):
        trmml.finetune(data, backbone=backbone_source, config=other, output=out, resume=True)
    rows = data.subset(np.arange(11))
    with pytest.raises(ConfigError, match="of a run with other data or settings; resume with"):
        trmml.finetune(rows, backbone=backbone_source, config=QUICK, output=out, resume=True)
    trmml.finetune(data, backbone=backbone_source, config=QUICK, output=out, resume=True)
    assert out.is_dir()
    with pytest.raises(ConfigError, match=r"holds a model of .* \(training\.learning_rate was"):
        trmml.finetune(data, backbone=backbone_source, config=other, output=out, resume=True)


@pytest.mark.parametrize("features", ["cached", "augmented"])
def test_seeds_decide_the_result(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, features: str
) -> None:
    data = make_dataset(12)
    texts = []
    for seed in (0, 0, 1):
        settings = QUICK | {"training.seed": seed, "training.features": features}
        settings |= {"training.epochs": 1, "training.num_workers": 0}
        torch.manual_seed(len(texts))  # the caller's own randomness has no part in it
        before = torch.get_rng_state()
        model = trmml.finetune(data, backbone=backbone_source, val=data, config=settings)
        assert torch.equal(torch.get_rng_state(), before)
        texts.append(model.present.text_features)
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_training_goes_on_from_a_trained_model(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(12)
    trmml.finetune(data, backbone=backbone_source, config=QUICK, output=tmp_path / "first")
    fewer = data.with_labels(("blue", "red"))
    model = trmml.finetune(fewer, model=tmp_path / "first", config={"training.epochs": 1})
    assert model.labels == ("blue", "red")
    assert model.config.matching.num_context_tokens == 2


def test_a_model_whose_clip_has_moved_can_be_used_everywhere(
    clip_folders: dict[str, Path], make_dataset: Maker, tmp_path: Path, backbone: FrozenCLIP
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(clip_folders["vit"], before)
    data, folder = make_dataset(12), tmp_path / "model"
    trmml.finetune(data, backbone=f"local-dir:{before}", config=QUICK, output=folder)
    before.rename(after)
    moved, once = f"local-dir:{after}", {"training.epochs": 1}
    named = trmml.finetune(data, model=folder, backbone=moved, config=once)
    # A loaded model knows where it found its CLIP.
    loaded = trmml.load_model(folder, backbone=moved)
    known = trmml.finetune(data, model=loaded, config=once)
    for name, tensor in named.learned_state().items():
        assert torch.equal(tensor, known.learned_state()[name])
    assert known.config.backbone.source == moved
    table = data.photos[0].parent / "labels.csv"
    write_dataset(data, table)
    for command in ("calibrate", "complete", "export"):
        target = () if command == "calibrate" else ("-o", tmp_path / f"{command}.csv")
        first = ("--model", folder, table) if command == "complete" else (folder,)
        last = (table,) if command == "calibrate" else ()
        kind = ("--format", "torch-export") if command == "export" else ()
        arguments = (command, *first, *last, *target, *kind)
        assert run_command(*arguments) == 3
        assert run_command(*arguments, "--backbone", moved) == 0
    with pytest.raises(ConfigError, match="`backbone` can only say where that is now"):
        trmml.finetune(data, model=folder, backbone=backbone)


def test_single_positives_can_be_trained_on(backbone_source: str, make_dataset: Maker) -> None:
    data = make_dataset(12)
    model = trmml.finetune(
        data.keep_single_positive(), backbone=backbone_source, val=data, config=QUICK
    )
    scores = np.stack([p.scores for p in model.predict_many(data.photos)])
    assert np.isfinite(scores).all()


def test_log_odds_by_hand(make_dataset: Maker) -> None:
    labels = np.array([[1, 1], [0, -1], [0, -1], [-1, -1]], dtype=np.int8)
    data = MultiLabelDataset(make_dataset(4).photos, labels, ("a", "b"))
    odds = known_log_odds(data, FinetuneConfig().changed({"loss.assumed_negative": 0.1}))
    np.testing.assert_allclose(odds, np.log([2 / 3, 2 / (0.3 + 1)]), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"model": "coco18-tiny", "backbone": None, "config": {"image_size": 448}},
            ConfigError,
            "image_size is 448, but the model to start from sees photos of 224 px",
        ),
        ({"config": {"training.epoch": 1}}, ConfigError, "Did you mean 'training.epochs'"),
        ({"labels": ["pink"]}, DataError, "no label 'pink'"),
        (
            {"config": QUICK | {"training.features": "cached", "training.cache_gb": 0.0}},
            ConfigError,
            "training.cache_gb is 0; raise it",
        ),
    ],
)
def test_wrong_arguments_say_what_to_do(
    backbone_source: str, make_dataset: Maker, arguments: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        trmml.finetune(make_dataset(12), **({"backbone": backbone_source} | arguments))


def test_validation_photos_with_another_label_are_refused(
    backbone_source: str, make_dataset: Maker
) -> None:
    data = make_dataset(12)
    val = replace(data, labels=("Red", *data.labels[1:]))
    with pytest.raises(DataError, match=r"'Red', which .* does not know. Did you mean 'red'"):
        trmml.finetune(data, val=val, backbone=backbone_source, config=QUICK)


def test_validation_photos_that_say_little_are_named(
    backbone_source: str, make_dataset: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data, plenty = make_dataset(24), make_dataset(24)
    few = plenty.subset(np.arange(24))
    positives = np.flatnonzero(few.states[:, 1] == POSITIVE)
    few.states[positives[2:], 1] = UNKNOWN
    assert (plenty.states == POSITIVE).sum(axis=0).min() >= 5
    for val, said in ((plenty, ""), (few, "among the 24 validation photos (green 2)")):
        caplog.clear()
        trmml.finetune(data, val=val, backbone=backbone_source, config=QUICK)
        assert said in caplog.text
        assert ("Few known positives" in caplog.text) == bool(said)


def test_a_label_without_known_positive_is_named(backbone_source: str, make_dataset: Maker) -> None:
    data = make_dataset(12)
    data.states[:, 1] = NEGATIVE
    with pytest.raises(DataError, match="no known positive photo to train on for green"):
        trmml.finetune(data, backbone=backbone_source, config=QUICK)


def test_the_rate_rises_to_its_peak_in_a_fifth_and_falls_to_almost_nothing(
    backbone: FrozenCLIP,
) -> None:
    training = FinetuneConfig().training
    optimizer = make_optimizer(untrained(backbone), training)
    steps = make_schedule(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        steps.step() if len(rates) < 100 else None
    assert max(rates) == pytest.approx(training.learning_rate, rel=1e-3)
    assert 18 <= int(np.argmax(rates)) <= 21
    assert rates[0] < 0.1 * training.learning_rate
    assert rates[-1] < 0.01 * training.learning_rate


def test_the_shortest_trainings_have_rates_that_teach(backbone: FrozenCLIP) -> None:
    training = FinetuneConfig().training
    for num_steps in range(1, 12):
        optimizer = make_optimizer(untrained(backbone), training)
        steps = make_schedule(optimizer, num_steps)
        rates = []
        for _ in range(num_steps):
            rates.append(optimizer.param_groups[1]["lr"])
            optimizer.step()
            steps.step()
        assert max(rates) >= 0.01 * training.learning_rate


@pytest.mark.parametrize(
    ("num_photos", "batch_size", "expected"),
    [(22_500, 256, 256), (4_095, 256, 255), (1_000, 256, 62), (200, 256, 16), (9, 256, 16), (200, 8, 8)],
)  # fmt: skip
def test_few_photos_make_small_steps(num_photos: int, batch_size: int, expected: int) -> None:
    training = FinetuneConfig().changed({"training.batch_size": batch_size}).training
    assert effective_batch_size(num_photos, training) == expected


def test_frozen_prompts_are_left_out_of_the_optimizer(backbone: FrozenCLIP) -> None:
    training = FinetuneConfig().changed({"training.train_prompts": False}).training
    model = untrained(backbone)
    optimizer = make_optimizer(model, training)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in trained}
    assert "matching.regions.queries" in names
    assert not [name for name in names if "prompts" in name or "backbone" in name]


def test_averaged_weights_follow_and_swap_back() -> None:
    layer = torch.nn.Linear(3, 2)
    average = AveragedWeights(layer, decay=0.9)
    start, plain = layer.weight.detach().clone(), layer.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            layer.weight.add_(1.0)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        plain = decay * plain + (1 - decay) * (start + step + 1)
    torch.testing.assert_close(average.averages["weight"], plain)
    average.swap()
    torch.testing.assert_close(layer.weight, plain)
    average.swap()
    torch.testing.assert_close(layer.weight, start + 30)


def test_a_bad_photo_is_named_before_the_first_epoch_of_augmented_photos(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(12)
    data.photos[2].write_bytes(b"no photo")
    data.photos[7].write_bytes(b"")
    settings = QUICK | {"training.features": "augmented"}
    with pytest.raises(DataError, match=r"2 of \d+ photos cannot be read.*002.png.*007.png"):
        trmml.finetune(data, val=make_dataset(4, seed=1), backbone=backbone_source, config=settings)


def test_what_validation_photos_do_not_tell_is_said_before_the_training(
    backbone_source: str, make_dataset: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data, val = make_dataset(24), make_dataset(12, seed=1)
    one = QUICK | {"training.epochs": 1}
    val.states[:, 1] = UNKNOWN
    trmml.finetune(data, val=val, backbone=backbone_source, config=one)
    assert "say nothing of 'green', not even that it is absent; is it named" in caplog.text
    caplog.clear()
    val.states[:] = NEGATIVE
    model = trmml.finetune(data, val=val, backbone=backbone_source, config=one)
    assert "No positive is known among the 12 validation photos" in caplog.text
    assert model.calibration.thresholds == (0.5, 0.5, 0.5)
    more = replace(val, labels=("red", "grean", "bleu"), source="val.csv")
    with pytest.raises(
        DataError, match=r"val\.csv has the labels 'grean', 'bleu', which .* Did you"
    ):
        trmml.finetune(data, val=more, backbone=backbone_source, config=one)
