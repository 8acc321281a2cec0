"""The recipe of the small CLIP, run on a few photos and a tower with random weights."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import load_example
from PIL import Image
from safetensors.torch import load_file

from trmml.backbone.clip import FrozenCLIP

FOLDER = Path(__file__).parents[2] / "examples" / "small_clip"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}
TOWER = "tf_efficientnet_lite0"
RECIPE = f"""
seed = 3
epochs = 3
batch_size = 10
captions_a_step = 6
learning_rate = 1e-3
warmup_steps = 2
weight_decay = 0.1
ema_decay = 0.9
feature_dropout = 0.1
caption_tokens = 12
num_words = 5
words_a_step = 3
names_a_step = 7
definition_share = 0.2
row_noise = 0.5
[tuning]
epochs = 3
batch_size = 10
learning_rate = 1e-3
warmup_steps = 2
weight_decay = 0.05
ema_decay = 0.9
first_block = 5
[tuning.weights]
contrast = 1.0
words = 1.0
names = 1.0
keep = 1.0
[weights]
contrast = 1.0
words = 1.0
names = 1.0
rows = 0.5
[model]
embed_dim = 8
[model.vision_cfg]
timm_model_name = "{TOWER}"
timm_model_pretrained = false
timm_pool = "avg"
timm_proj = "linear"
timm_proj_bias = true
image_size = 64
[model.text_cfg]
context_length = 24
vocab_size = 49408
width = 8
heads = 2
layers = 1
"""


@pytest.fixture(scope="module")
def data() -> ModuleType:
    return load_example("small_clip/data.py")


@pytest.fixture(scope="module")
def tower() -> ModuleType:
    return load_example("small_clip/tower.py")


@pytest.fixture(scope="module")
def losses() -> ModuleType:
    return load_example("small_clip/losses.py")


@pytest.fixture(scope="module")
def train() -> ModuleType:
    return load_example("small_clip/train.py")


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def tower_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the tower's tensors, in their order but under other names."""
    torch.manual_seed(5)
    state = timm.create_model(TOWER, pretrained=False).state_dict()
    path = tmp_path_factory.mktemp("tower") / "tower.pth"
    torch.save({f"_{i}": tensor for i, tensor in enumerate(state.values())}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    names, generator = list(COLOURS), np.random.default_rng(0)
    captions, labels = [], []
    for i in range(48):
        noise = generator.integers(-25, 25, (64, 64, 3)) + COLOURS[names[i % 3]]
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / f"{i}.png")
        row = {"image": f"{i}.png", "split": ("train", "unlabeled", "val", "test")[i // 3 % 4]}
        labels.append(row | {"labels": names[i % 3]})
        if row["split"] != "test":
            captions.append(row | {"caption": f"Two walls, and a {names[i % 3]}."})
    write_table(root / "captions.csv", captions)
    write_table(root / "labels.csv", labels)
    (root / "recipe.toml").write_text(RECIPE)
    return root


def command(
    folder: Path, tower_file: Path, output: Path, *rest: object, script: str = "train.py"
) -> list[str]:
    places = ["--data", folder, "--tower", tower_file, "--recipe", folder / "recipe.toml"]
    return [sys.executable, str(FOLDER / script), *map(str, [*places, "--output", output, *rest])]


def run_and_kill(command: list[str], output: Path, epochs: int = 1) -> None:
    """Stop a command the hard way once its log has so many lines, and run it again."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(log_of(output)) < epochs and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, capture_output=True)


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


def test_nouns_are_told_from_what_stands_around_them(data: ModuleType) -> None:
    captions = [
        "A red bus.",
        "The red bus parked",
        "A group of men riding the bus",
        "A red group of men",
    ]
    assert data.nouns(captions, 5) == ["bus"]


def test_classes_of_imagenet_have_their_names_and_definition(data: ModuleType) -> None:
    classes = data.imagenet_classes()
    assert len(classes) == 1000
    assert classes[281].lemmas == ["tabby", "tabby cat"]
    assert classes[281].definition.startswith("a cat with")


def test_texts_number_only_the_tokens_that_occur(data: ModuleType) -> None:
    texts = data.Texts(["a dog.", "a cat on a dog on a cat"], 8)
    assert texts.lengths.tolist() == [5, 8]
    assert texts.ids.max() == len(texts.tokens) - 1
    known = open_clip.SimpleTokenizer(context_length=8)(["a dog.", "a cat on a dog on a cat"])
    assert torch.equal(texts.tokens[texts.ids], known)


def test_tower_takes_the_tensors_of_a_file_by_their_order(
    tower: ModuleType, tower_file: Path, tmp_path: Path
) -> None:
    trunk, classifier = tower.load_tower(TOWER, tower_file)
    given = list(torch.load(tower_file, weights_only=True).values())
    whole = timm.create_model(TOWER, pretrained=False).eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), given, strict=True)))
    photos = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(classifier(trunk(photos)), whole(photos))
    assert not any(parameter.requires_grad for parameter in trunk.parameters())

    swapped = tmp_path / "swapped.pth"
    torch.save({f"_{i}": t for i, t in enumerate([given[-1], *given[1:-1], given[0]])}, swapped)
    with pytest.raises(ValueError, match=r"_0 has the shape \(1000,\), but conv_stem.weight"):
        tower.load_tower(TOWER, swapped)
    torch.save({f"_{i}": t for i, t in enumerate(given[1:])}, swapped)
    with pytest.raises(ValueError, match="has 295 tensors"):
        tower.load_tower(TOWER, swapped)


def test_losses_equal_those_of_torch(losses: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(4, 4, generator=generator)
    both = (
        F.cross_entropy(square, torch.arange(4)) + F.cross_entropy(square.T, torch.arange(4))
    ) / 2
    torch.testing.assert_close(losses.contrastive_loss(square), both)

    logits = torch.randn(3, 5, generator=generator)
    targets = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]]).bool()
    rows = F.cross_entropy(logits[[0, 2]], targets[[0, 2]] / 2)
    shares = targets.T[:3] / targets.T[:3].sum(dim=1, keepdim=True)
    columns = F.cross_entropy(logits.T[:3], shares)
    torch.testing.assert_close(losses.words_loss(logits, targets), (rows + columns) / 2)
    assert losses.words_loss(logits, torch.zeros_like(targets)) == 0

    teacher = torch.randn(3, 5, generator=generator)
    expected = F.cross_entropy(logits, teacher.softmax(dim=1))
    expected = expected - F.cross_entropy(teacher, teacher.softmax(dim=1))
    torch.testing.assert_close(losses.distillation_loss(logits, teacher), expected)
    assert losses.distillation_loss(teacher, teacher) == pytest.approx(0, abs=1e-6)


def test_ideal_photos_are_the_means_of_classes_that_a_discriminant_tells_apart(
    train: ModuleType, tower: ModuleType
) -> None:
    generator = np.random.default_rng(2)
    means = np.array([[2.0, 0, 0, 0], [-1, 1, 0, 0], [-1, -1, 0, 0]])
    within = np.diag([1.0, 4, 9, 0.25])
    features = generator.multivariate_normal(np.zeros(4), within, 4000)
    rows = torch.from_numpy(means @ np.linalg.inv(within)).float()
    ideal = train.ideal_photos(features, tower.Classifier(rows, torch.zeros(3)))
    torch.testing.assert_close(ideal, torch.from_numpy(means).float(), atol=0.15, rtol=0)


def test_features_are_kept_in_shards(
    folder: Path,
    tower: ModuleType,
    tower_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = load_example("small_clip/features.py")
    monkeypatch.setattr(features, "PHOTOS_PER_SHARD", 4)
    trunk, _ = tower.load_tower(TOWER, tower_file)
    paths = [folder / f"{i}.png" for i in range(6)]
    first = features.pooled_features(trunk, paths, 64, tmp_path)
    assert first.shape == (6, 1280)
    with torch.no_grad():
        alone = trunk(features.read_photo(paths[5], 64)[None])
    np.testing.assert_allclose(first[5], alone[0].numpy(), atol=0.05 * float(alone.abs().max()))
    (tmp_path / "000004.npy").unlink()
    np.save(tmp_path / "000000.npy", np.zeros((4, 1280), dtype=np.float16))
    again = features.pooled_features(trunk, paths, 64, tmp_path)
    assert not again[:4].any()
    assert np.array_equal(again[4:], first[4:])


def test_a_killed_run_goes_on_to_the_same_clip(
    train: ModuleType, folder: Path, tower_file: Path, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    on_cpu = ("--device", "cpu")
    whole = command(folder, tower_file, straight, *on_cpu)
    subprocess.run(whole, check=True, capture_output=True)
    run_and_kill(command(folder, tower_file, killed, *on_cpu), killed)
    weights = "clip/open_clip_model.safetensors"
    assert (straight / weights).read_bytes() == (killed / weights).read_bytes()
    lines = log_of(straight)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["steps"] == 3 * (24 // 10)
    assert np.isfinite([list(line.values()) for line in lines]).all()

    table = load_file(straight / weights)["token_embedding.weight"]
    assert table.dtype == torch.float16
    # The labels that zero-shot is measured on are no part of what is learned from.
    captions = [f"Two walls, and a {colour}." for colour in COLOURS]
    corpus = train.Corpus(captions, ["wall", *COLOURS], ["quaternion"], 12)
    learned = corpus.texts.tokens[corpus.learned_ids]
    assert table.any(dim=1).nonzero().flatten().tolist() == learned.tolist()

    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{straight / 'clip'}")
    trunk, _ = load_example("small_clip/tower.py").load_tower(TOWER, tower_file)
    photo = load_example("small_clip/features.py").read_photo(folder / "0.png", 64)[None]
    with torch.no_grad():
        pooled, joint = trunk(photo), clip.eval().encode_image(photo)
    state = torch.load(straight / "checkpoint.pt", weights_only=True)["ema"]
    mean, spread = state["module.mean"], state["module.spread"]
    proj = state["module.clip.visual.weight"], state["module.clip.visual.bias"]
    expected = F.linear((pooled - mean) / spread, *proj)
    torch.testing.assert_close(joint, expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    assert FrozenCLIP.load(f"local-dir:{straight / 'clip'}").photo.image_size == 64

    picture = tmp_path / "curves.png"
    plot = [sys.executable, str(FOLDER / "plot.py"), str(straight / "log.jsonl"), str(picture)]
    subprocess.run(plot, check=True)
    with Image.open(picture) as drawn:
        assert drawn.width > 800
    measure = [sys.executable, str(FOLDER / "measure.py"), str(straight / "clip"), "--data"]
    measure += [str(folder), "--output", str(tmp_path / "measured.json")]
    subprocess.run(measure, check=True, capture_output=True)
    facts = json.loads((tmp_path / "measured.json").read_text())
    assert facts["images"] == 12
    assert facts["class_prior"]["mAP"] == pytest.approx(1 / 3)
    # Colours are told apart by the mean of the pixels; any trained or random tower keeps that.
    assert facts["linear_probe_100_percent"]["mAP"] > facts["class_prior"]["mAP"]
    assert facts["linear_probe_10_percent"]["mAP"] > 0
    assert 0 <= facts["naming_val"]["share_found"] <= 1


def test_the_tower_is_tuned_in_its_last_blocks_alone(
    train: ModuleType, folder: Path, tower_file: Path, tmp_path: Path
) -> None:
    first = tmp_path / "clip"
    subprocess.run(command(folder, tower_file, first), check=True, capture_output=True)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = ("--clip", first / "clip")
    whole = command(folder, tower_file, straight, *options, script="tune.py")
    subprocess.run(whole, check=True, capture_output=True)
    run_and_kill(command(folder, tower_file, killed, *options, script="tune.py"), killed)
    weights = "clip/open_clip_model.safetensors"
    assert (straight / weights).read_bytes() == (killed / weights).read_bytes()
    assert log_of(straight) == log_of(killed)

    before, after = load_file(first / weights), load_file(straight / weights)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {name.rpartition(".")[0] for name in moved} >= {"visual.head.proj", "visual.trunk.bn2"}
    starts = ("visual.head.", "visual.trunk.bn2.", "visual.trunk.conv_head.")
    blocks = ("visual.trunk.blocks.5.", "visual.trunk.blocks.6.")
    assert all(name.startswith(starts + blocks) for name in moved)
    assert not any("running" in name for name in moved)
    assert {name: t.dtype for name, t in before.items()} == {n: t.dtype for n, t in after.items()}

    maps = load_example("small_clip/features.py").KeptMaps
    trunk, _ = load_example("small_clip/tower.py").load_tower(TOWER, tower_file)
    paths = [folder / f"{i}.png" for i in range(5)]
    plain = maps(trunk, 5, paths, 64, tmp_path / "plain")
    mirrored = maps(trunk, 5, paths, 64, tmp_path / "mirrored", mirrored=True)
    rows = np.array([3, 1])
    assert plain[rows].shape == (2, 112, 4, 4)
    photo = load_example("small_clip/features.py").read_photo(paths[3], 64)[None]
    with torch.no_grad():
        for kept, photos in ((plain, photo), (mirrored, photo.flip(-1))):
            alone = trunk.blocks[:5](trunk.bn1(trunk.conv_stem(photos)))[0]
            found = kept[rows][0]
            torch.testing.assert_close(found, alone, atol=0.05 * float(alone.abs().max()), rtol=0)
