import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import write_dataset
from trmml.training import distributed
from trmml.zoo.loading import load_model

Maker = Callable[..., MultiLabelDataset]

# 11 photos in batches of 4: the last batch has 3, so one of two shares is filled up.
SETTINGS = {
    "training.epochs": 17,
    "training.batch_size": 4,
    "training.learning_rate": 3e-3,
    "matching.num_context_tokens": 2,
    "matching.num_heads": 2,
    "loss.distillation": 0.1,
    "loss.contrastive": 0.1,
    "pseudo_labels.enabled": True,
    "pseudo_labels.positive_budget": 1.0,
    "pseudo_labels.positive_threshold": 0.6,
    "pseudo_labels.negative_threshold": 0.4,
}


# Dropout is the one thing that several processes draw otherwise; and estimates begin late, when it
# is seen whether they are the same.
CHANGED = {
    "trmml.matcher.matching.ATTENTION_DROPOUT": 0.0,
    "trmml.training.objective.START_EPOCH": 8,
}
COMMAND = f"""
import importlib
from trmml.cli import main
for name, value in {CHANGED}.items():
    module, constant = name.rsplit(".", 1)
    setattr(importlib.import_module(module), constant, value)
main()
"""


def start(table: Path, val: Path, backbone: str, output: Path, *more: str) -> subprocess.Popen[str]:
    """Fine-tune in two processes on this machine."""
    settings = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = output.parent / "command.py"
    script.write_text(COMMAND)
    command = [script, "finetune", table, "--val", val, "--backbone", backbone, "-o", output]
    return subprocess.Popen(
        [str(part) for part in (*launcher, *command, *settings, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def test_two_processes_train_what_one_does_and_go_on_after_a_kill(
    backbone_source: str, make_dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CHANGED.items():
        monkeypatch.setattr(name, value)
    data, val = make_dataset(11).hide_labels(0.8), make_dataset(7, seed=1)
    tables = [tmp_path / "train.csv", tmp_path / "val.csv"]
    for dataset, table in zip((data, val), tables, strict=True):
        write_dataset(dataset, table)
    alone = trmml.finetune(
        tables[0], val=tables[1], backbone=backbone_source, config=SETTINGS, output=tmp_path / "one"
    )
    printed = finish(start(*tables, backbone_source, tmp_path / "two"))
    assert printed.count("3 labels, validation mAP") == 1
    for epoch in range(1, SETTINGS["training.epochs"] + 1):  # of two processes, one says it
        assert printed.count(f"epoch {epoch}/{SETTINGS['training.epochs']}: ") == 1
    one, two = (json.loads((tmp_path / n / "finetune.json").read_text()) for n in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    steps = 3 * SETTINGS["training.epochs"]
    assert steps > 50
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["pseudo_labels"] == theirs["pseudo_labels"]
        assert ours["val_mAP"] == theirs["val_mAP"]
    assert one["history"][-1]["pseudo_labels"]["positive"] > 0
    together = load_model(tmp_path / "two", device="cpu")
    theirs = together.learned_state()
    for name, tensor in alone.learned_state().items():
        if "prototypes" in name or "text_features" in name:
            torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=0)
    scores = [np.stack([p.scores for p in m.predict_many(val.photos)]) for m in (alone, together)]
    np.testing.assert_allclose(*scores, atol=1e-4)

    process = start(*tables, backbone_source, tmp_path / "killed")
    log = tmp_path / "killed.run" / "log.jsonl"
    while not log.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.terminate()  # the launcher passes it on to the processes
    process.communicate(timeout=300)
    assert not (tmp_path / "killed").exists()
    assert len(log.read_text().splitlines()) < SETTINGS["training.epochs"]
    finish(start(*tables, backbone_source, tmp_path / "killed", "--resume"))
    names = ("two", "killed")
    whole, resumed = ((tmp_path / n / "model.safetensors").read_bytes() for n in names)
    assert whole == resumed


def test_alone_the_shard_is_everything() -> None:
    rows = np.array([3, 1, 2])
    np.testing.assert_array_equal(distributed.own_rows(rows), rows)
    tensor = torch.ones(3, 2)
    assert distributed.gather(tensor, 3) is tensor
    assert (distributed.count(), distributed.rank(), distributed.is_first()) == (1, 0, True)


def test_a_group_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        assert distributed.count() == 1
        with distributed.joined():
            assert distributed.is_first()
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
