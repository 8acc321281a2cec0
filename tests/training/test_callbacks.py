import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_command
from PIL import Image

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import write_dataset
from trmml.errors import ConfigError, DependencyError
from trmml.reports.curves import WIDTH
from trmml.training.callbacks import EpochEnd, curves_of, say_epoch, say_kept

Maker = Callable[..., MultiLabelDataset]

QUICK = {"training.epochs": 3, "training.batch_size": 8, "matching.num_heads": 2}


def record(val_map: float | None, seconds: float, **loss: float) -> dict[str, Any]:
    return {"val_mAP": val_map, "seconds": seconds, "loss": loss}


def test_a_line_says_epoch_loss_map_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    history = [
        record(0.5, 20.0, classification=0.75, distillation=0.125),
        record(0.6125, 40.0, classification=0.5, distillation=0.125),
        record(None, 30.0, classification=0.25),
    ]
    say_epoch(EpochEnd(history[:1], 6, None, 0.55))  # what training started from is better
    say_epoch(EpochEnd(history[:2], 6, 1, 0.55))
    say_epoch(EpochEnd(history, 3, 1, None))
    say_epoch(EpochEnd(history[:2], 2, 1, None, chooses=False))
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/6: loss 0.875, validation mAP 50.00, 1:40 min left",
        "epoch 2/6: loss 0.625, validation mAP 61.25 (best so far), 2:00 min left",
        "epoch 3/3: loss 0.25, validation mAP not measurable",
        "epoch 2/2: loss 0.625, validation mAP 61.25",
    ]


def test_a_line_says_what_is_kept_and_what_the_probe_made_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for figures in ((4, 0.7266, 0.7444), (4, 0.7266, 0.7266), (None, 0.5, 0.6), (1, None, None)):
        say_kept(*figures)
    assert capsys.readouterr().err.splitlines() == [
        "Kept: epoch 5, validation mAP 72.66; with zero-shot and a probe mixed in 74.44.",
        "Kept: epoch 5, validation mAP 72.66.",
        "Kept: the model to start from, validation mAP 50.00; with zero-shot and a probe mixed in "
        "60.00.",
        "Kept: epoch 2; the validation mAP is not measurable.",
    ]


def test_the_command_says_how_a_run_goes_where_there_is_no_terminal(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(make_dataset(24), tmp_path / "labels.csv")
    command = ["finetune", tmp_path / "labels.csv", "--backbone", backbone_source, "-o"]
    settings = [text for name, value in QUICK.items() for text in ("--set", f"{name}={value}")]
    assert run_command(*command, tmp_path / "out", *settings) == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith(("epoch", "Training on"))]
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert f"3 epochs; the figures of each are in {tmp_path / 'out.run' / 'log.jsonl'}" in lines[0]
    assert " left" in lines[1]
    assert " left" not in lines[3]
    assert "\r" not in said.err
    assert "Kept: epoch " in said.err.splitlines()[-1]
    assert said.out.startswith(f"{tmp_path / 'out'}: 3 labels, validation mAP")
    assert run_command(*command, tmp_path / "out", *settings, "--resume") == 0
    assert "was finished before; nothing is left to train" in capsys.readouterr().err
    assert run_command(*command, tmp_path / "quiet", *settings, "--quiet") == 0
    assert "epoch" not in capsys.readouterr().err


def test_the_curves_of_a_run_are_those_of_its_log(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    trmml.finetune(make_dataset(24), backbone=backbone_source, config=QUICK, output=out)
    history = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    best = json.loads((out / "finetune.json").read_text())["best_epoch"]
    with Image.open(out / "curves.png") as picture:
        assert picture.width == 2 * WIDTH
        expected = curves_of(EpochEnd(history, 3, best, None))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))
    other = np.asarray(curves_of(EpochEnd(history, 3, (best + 1) % 3, None)))
    assert (other != np.asarray(expected)).any()


def stopped_after(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run stop in the epoch after so many, as Ctrl-C would."""
    from trmml.training.trainer import Trainer

    run_epoch = Trainer._epoch

    def epoch(self: Trainer, epoch: int, progress: bool) -> dict[str, Any]:
        if epoch == number:
            raise KeyboardInterrupt
        return run_epoch(self, epoch, progress)

    monkeypatch.setattr(Trainer, "_epoch", epoch)


def test_a_resumed_run_restores_the_log_and_says_from_where_it_goes_on(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = {"backbone": backbone_source, "config": QUICK, "output": tmp_path / "out"}
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            trmml.finetune(make_dataset(24), **arguments)
    # As if killed between the checkpoint and the rest.
    (tmp_path / "out.run" / "log.jsonl").unlink()
    (tmp_path / "out.run" / "curves.png").unlink()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            trmml.finetune(make_dataset(24), **arguments, resume=True)
    assert len((tmp_path / "out.run" / "log.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "out.run" / "curves.png").is_file()
    assert "going on after epoch 2 of 3" in capsys.readouterr().err
    trmml.finetune(make_dataset(24), **arguments, resume=True, progress=False)
    assert capsys.readouterr().err == ""


def test_tensorboard_has_each_epoch_once_even_of_a_resumed_run(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    arguments = {"backbone": backbone_source, "config": QUICK, "output": out}
    with monkeypatch.context() as patch:
        stopped_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            trmml.finetune(make_dataset(24), **arguments, log_to="tensorboard")
    trmml.finetune(make_dataset(24), **arguments, log_to="tensorboard", resume=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    shown = EventAccumulator(str(out / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in shown.Scalars("validation/mAP")]
    expected = [(i + 1, r["val_mAP"]) for i, r in enumerate(history)]
    assert [step for step, _ in found] == [1, 2, 3]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        [event.value for event in shown.Scalars("loss")],
        [sum(r["loss"].values()) for r in history],
        rtol=1e-6,
    )


@pytest.mark.parametrize("program", ["tensorboard", "trackio"])
def test_a_program_that_is_not_installed_is_named_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    for name in ("torch.utils.tensorboard.writer", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=f"pip install {program}"):
        trmml.finetune(tmp_path / "none.csv", output=tmp_path / "out", log_to=program)
    assert not list(tmp_path.iterdir())


def test_log_to_is_checked(tmp_path: Path) -> None:
    from trmml.training.callbacks import require_writer

    with pytest.raises(ConfigError, match=r"cannot be 'tensorbord'. Did you mean 'tensorboard'"):
        require_writer("tensorbord", has_output=True)
    with pytest.raises(ConfigError, match="needs a folder for the run"):
        trmml.finetune(tmp_path / "none.csv", log_to="tensorboard")
