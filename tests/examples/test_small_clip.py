"""The recipe of the small CLIP, run on a few photos that the test makes."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import load_example
from PIL import Image
from safetensors.torch import load_file

from trmml.backbone.clip import FrozenCLIP

FOLDER = Path(__file__).parents[2] / "examples" / "small_clip"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}
RECIPE = """
seed = 3
store_size = 32
batch_size = 8
learning_rate = 1e-3
warmup_steps = 2
weight_decay = 0.05
ema_decay = 0.9
num_words = 5
caption_tokens = 12
[model]
embed_dim = 8
[model.vision_cfg]
timm_model_name = "resnet10t"
timm_model_pretrained = false
timm_pool = "avg"
timm_proj = "linear"
image_size = 64
[model.text_cfg]
context_length = 12
vocab_size = 49408
width = 8
heads = 2
layers = 1
[[stages]]
name = "small"
size = 32
epochs = 2
smallest_crop = 0.5
tiny_imagenet = true
words = 1.0
contrast = 0.0
[[stages]]
name = "larger"
size = 48
epochs = 2
smallest_crop = 0.5
tiny_imagenet = false
words = 1.0
contrast = 0.3
"""


@pytest.fixture(scope="module")
def data() -> ModuleType:
    return load_example("small_clip/data.py")


@pytest.fixture(scope="module")
def train(data: ModuleType) -> ModuleType:
    return load_example("small_clip/train.py")


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    names, generator = list(COLOURS), np.random.default_rng(0)
    tables = {"captions": [], "labels": [], "classes": []}
    for kind, count in (("captions", 40), ("classes", 16)):
        (root / kind).mkdir()
        for i in range(count):
            noise = generator.integers(-25, 25, (64, 64, 3)) + COLOURS[names[i % 3]]
            photo = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            photo.save(root / kind / f"{i}.png")
            split = ("train", "unlabeled", "val", "test")[i % 4]
            row = {"image": f"{i}.png", "split": split}
            text = f"Two {names[i % 3]} walls."
            if kind == "classes":
                tables[kind].append({"image": f"{i}.png", "wnid": f"n{i % 3}", "name": text})
                continue
            tables["labels"].append(row | {"labels": names[i % 3]})
            if split != "test":
                tables["captions"].append(row | {"caption": text})
    write_table(root / "captions" / "captions.csv", tables["captions"])
    write_table(root / "captions" / "labels.csv", tables["labels"])
    write_table(root / "classes" / "labels.csv", tables["classes"])
    (root / "recipe.toml").write_text(RECIPE)
    return root


def command(folders: Path, output: Path) -> list[str]:
    places = ["--captions", folders / "captions", "--classes", folders / "classes"]
    rest = ["--recipe", folders / "recipe.toml", "--output", output, "--device", "cpu"]
    return [sys.executable, str(FOLDER / "train.py"), *map(str, places + rest)]


def log_of(output: Path) -> list[dict]:
    path = output / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_words_leave_out_function_words_and_plurals(data: ModuleType) -> None:
    text = "Two dogs and a glass on the bus, with her DOG"
    assert data.words_of(text) == {"dog", "glass", "bus"}
    words = data.vocabulary(["a dog", "dogs run", "the cat"], 2)
    assert words[0] == "dog"
    targets = data.word_targets(["cat and dogs", "a wall"], ["dog", "cat"])
    assert targets.tolist() == [[True, True], [False, False]]


def test_batches_are_the_same_for_the_same_epoch_and_can_begin_anywhere(data: ModuleType) -> None:
    generator = np.random.default_rng(1)
    sets = [
        data.Photos(generator.integers(0, 255, (n, 3, side, side), dtype=np.uint8), [""] * n)
        for n, side in ((11, 20), (6, 13))
    ]
    batches = data.Batches(sets, 16, 5, 0.3, seed=2)
    first, again = list(batches.epoch(4)), list(batches.epoch(4, first=1))
    assert len(first) == len(batches) == 3
    rows = torch.cat([batch.rows for batch in first])
    assert len(rows.unique()) == 15
    for batch, same in zip(first[1:], again, strict=True):
        assert torch.equal(batch.images, same.images)
        assert torch.equal(batch.rows, same.rows)
    assert not torch.equal(first[0].rows, next(iter(batches.epoch(5))).rows)
    assert first[0].images.shape == (5, 3, 16, 16)


def test_losses_equal_those_of_torch(train: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, generator=generator)
    targets = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).bool()
    shares = targets[[0, 2]] / targets[[0, 2]].sum(dim=1, keepdim=True)
    expected = F.cross_entropy(logits[[0, 2]], shares)
    torch.testing.assert_close(train.words_loss(logits, targets), expected)
    assert train.words_loss(logits, torch.zeros_like(targets)) == 0
    texts = F.normalize(torch.randn(4, 6, generator=generator), dim=1)
    images = texts * 3
    cosines = texts @ texts.T * 2
    both = (
        F.cross_entropy(cosines, torch.arange(4)) + F.cross_entropy(cosines.T, torch.arange(4))
    ) / 2
    found = train.contrastive_loss(images, texts, torch.tensor(2.0).log())
    torch.testing.assert_close(found, both)


def test_a_killed_run_goes_on_to_the_same_clip(
    train: ModuleType, folders: Path, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    subprocess.run(command(folders, straight), check=True, capture_output=True)
    process = subprocess.Popen(command(folders, killed), stderr=subprocess.DEVNULL)
    while len(log_of(killed)) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command(folders, killed), check=True, capture_output=True)
    weights = "clip/open_clip_model.safetensors"
    assert (straight / weights).read_bytes() == (killed / weights).read_bytes()
    lines = log_of(straight)
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        (stage, epoch) for stage in ("small", "larger") for epoch in (1, 2)
    ]
    assert lines[-1]["steps"] == 2 * ((20 + 16) // 8) + 2 * (20 // 8)
    assert "contrast" in lines[-1]
    values = [value for line in lines for value in line.values() if not isinstance(value, str)]
    assert np.isfinite(values).all()
    assert "contrast" not in lines[0]

    clip = FrozenCLIP.load(f"local-dir:{straight / 'clip'}")
    assert clip.photo.image_size == 64
    table = load_file(straight / weights)["token_embedding.weight"]
    assert table.dtype == torch.float16
    seen = train.tokenize(
        ["Two red walls.", "Two green walls.", "Two blue walls."], 12
    ).ids.unique()
    assert table.any(dim=1).nonzero().flatten().tolist() == seen[seen >= 0].tolist()

    picture = tmp_path / "curves.png"
    plot = [sys.executable, str(FOLDER / "plot.py"), str(straight / "log.jsonl"), str(picture)]
    subprocess.run(plot, check=True)
    with Image.open(picture) as drawn:
        assert drawn.width > 800
    measure = [sys.executable, str(FOLDER / "measure.py"), str(straight / "clip"), "--data"]
    measure += [str(folders / "captions"), "--output", str(tmp_path / "measured.json")]
    subprocess.run(measure, check=True, capture_output=True)
    facts = json.loads((tmp_path / "measured.json").read_text())
    assert facts["images"] == 10
    assert facts["class_prior"]["mAP"] == pytest.approx(np.mean([3, 3, 4]) / 10)
    # Colours are told apart by the mean of the pixels; any trained or random tower keeps that.
    assert facts["linear_probe"]["mAP"] > facts["class_prior"]["mAP"]
