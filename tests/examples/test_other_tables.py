"""The benchmark on other tables, on toy photos, and the baselines that it compares with."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import load_example

from trmml.data.dataset import MultiLabelDataset
from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import POSITIVE, UNKNOWN

Maker = Callable[..., MultiLabelDataset]


@pytest.fixture(scope="module")
def baselines() -> ModuleType:
    return load_example("benchmarks/baselines.py")


def few_choices(monkeypatch: pytest.MonkeyPatch, module: object, epochs: int) -> None:
    """Make the heads quick."""
    names = vars(module) if isinstance(module, ModuleType) else module.__globals__
    for name, value in (("EPOCHS", epochs), ("RATES", (3e-3,)), ("DECAYS", (0.01,))):
        monkeypatch.setitem(names, name, value)


def photos_with_a_small_thing(module: ModuleType, count: int, seed: int) -> object:
    """Photos whose label is in one patch: a mean over patches hides it, a maximum does not."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(count, 9, 8, generator=generator)
    states = (torch.rand(count, 2, generator=generator) < 0.4).to(torch.int8)
    where = torch.randint(9, (count, 2), generator=generator)
    for label in range(2):
        rows = (states[:, label] == POSITIVE).nonzero().flatten()
        patches[rows, where[rows, label], label] += 5
    return module.Photos(patches.mean(dim=1), patches, states)


def test_baselines_that_see_patches_find_small_things(
    baselines: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_choices(monkeypatch, baselines, epochs=25)
    train, chooser, test = (photos_with_a_small_thing(baselines, 300, seed) for seed in range(3))
    train.states[:150, 1] = UNKNOWN
    found = {
        "probe": baselines.probe(train, chooser, baselines.Photos.pooled),
        "patches": baselines.probe(train, chooser, baselines.Photos.summaries),
        "MLP": baselines.head(baselines.MLP, train, chooser, 0),
        "queries": baselines.head(baselines.LearnedQueries, train, chooser, 0),
    }
    states = test.states.numpy()
    maps = {
        name: mean_average_precision(fit.logits(test).numpy(), states)
        for name, fit in found.items()
    }
    assert min(maps["patches"], maps["MLP"]) > 0.9 > maps["queries"] > maps["probe"]


def test_unknown_states_teach_nothing(baselines: ModuleType) -> None:
    train, chooser, test = (photos_with_a_small_thing(baselines, 120, seed) for seed in range(3))
    train.states[60:] = UNKNOWN
    states = train.states
    found = []
    for patches in (train.patches, train.patches * (states != UNKNOWN)[:, :1, None]):
        few = baselines.Photos(train.image, patches, states)
        found.append(baselines.probe(few, chooser, baselines.Photos.pooled).logits(test))
    torch.testing.assert_close(*found)


def test_every_method_runs_on_a_table_and_what_is_done_stays(
    clip_folders: dict[str, Path],
    make_dataset: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench = load_example("benchmarks/other_tables.py")
    shared = load_example("benchmarks/small_tables.py")
    data = make_dataset(60)
    folder = data.photos[0].parent
    words = ["red", "green", "blue"]
    with (
        (folder / "labels.csv").open("w", newline="") as labels,
        (folder / "captions.csv").open("w", newline="") as captions,
    ):
        tables = csv.writer(labels), csv.writer(captions)
        tables[0].writerow(["image", "split", "labels"])
        tables[1].writerow(["image", "split", "caption"])
        for i, (photo, row) in enumerate(zip(data.photos, data.states, strict=True)):
            names = [n for n, x in zip(data.labels, row, strict=True) if x == POSITIVE]
            split = "train" if i < 44 else "val"
            tables[0].writerow([photo.name, split, "|".join(names)])
            tables[1].writerow([photo.name, split, f"A {words[i % 3]} wall, {words[i % 2]}."])
    monkeypatch.setattr(bench, "WORDS", words)
    kinds = {
        "few photos": bench.Kind("objects", 30, 1.0),
        "one label": bench.Kind("objects", 40, 1.0, num_labels=1),
        "words": bench.Kind("made-up", 30, 0.5),
    }
    monkeypatch.setattr(bench, "TABLES", kinds)
    few_choices(monkeypatch, shared.head, epochs=1)
    models = []
    finetune = bench.trmml.finetune

    def watched(*arguments: Any, **settings: Any) -> Any:
        models.append(finetune(*arguments, **settings))
        return models[-1]

    monkeypatch.setattr(bench.trmml, "finetune", watched)
    backbone = f"local-dir:{next(iter(clip_folders.values()))}"
    output = tmp_path / "out"
    arguments = ["other_tables.py", "--data", str(folder), "--backbone", backbone]
    arguments += ["--output", str(output), "--seeds", "0", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    bench.main()
    first = capsys.readouterr().out
    assert first.count("seed 1") == 3 * len(shared.METHODS)
    bench.main()
    again = capsys.readouterr().out
    assert "seed" not in again.split("|", 1)[0]  # nothing is run twice

    found = json.loads((output / "other_tables.json").read_text())
    assert set(found) == set(kinds)
    facts = found["words"]
    scores = np.load(output / "words, trmml, 1.npz")
    value = mean_average_precision(scores["scores"], scores["states"])
    assert facts["mAP"]["trmml"][1] == pytest.approx(value, abs=1e-5)
    # What is measured is what `predict` says of the photos.
    predicted = [one.scores.tolist() for one in models[-1].predict_many(data.photos[44:])]
    logits = torch.from_numpy(scores["scores"])
    torch.testing.assert_close(torch.tensor(predicted), logits.sigmoid(), atol=2e-3, rtol=0)
    best = max(shared.SIMPLE, key=lambda method: np.mean(facts["mAP"][method]))
    assert facts["best_simple"] == best
    gain = np.mean(facts["mAP"]["trmml"]) - np.mean(facts["mAP"][best])
    assert facts["gain"] == pytest.approx(gain, abs=2e-5)
    assert facts["low"] <= facts["gain"] <= facts["high"]
    assert f"{100 * facts['gain']:+.1f} (" in again

    # Methods that are not done again keep their figures.
    place, best = output / "other_tables.json", {facts["best_simple"] for facts in found.values()}
    assert shared.summary(place, kinds, ["trmml", *best]) == found
    with pytest.raises(SystemExit, match=r"few photos: the best simple method is .* to --methods"):
        shared.summary(place, kinds, ["trmml"])
    # Seeds of different states of the code are no sample.
    path = output / "words, trmml, 1.npz"
    kept, parts = path.read_bytes(), dict(np.load(path))
    for key, value, reason in (
        ("commit", "abcdef0", "words, trmml: some seeds are of commit .*abcdef0"),
        ("precision", "bfloat16", "words: runs of another precision lie there"),
    ):
        changed = json.loads(str(parts["facts"])) | {key: value}
        np.savez(path, **parts | {"facts": json.dumps(changed)})
        with pytest.raises(SystemExit, match=reason):
            shared.summary(place, kinds, shared.METHODS)
    path.write_bytes(kept)
    # A table without scores keeps what is said of it.
    empty = tmp_path / "empty" / "other_tables.json"
    empty.parent.mkdir()
    empty.write_text(json.dumps(found))
    assert shared.summary(empty, kinds, shared.METHODS) == found
    monkeypatch.setattr("sys.argv", [*arguments, "--methods", "zero-shot", "probe"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--methods needs trmml" in capsys.readouterr().err
    found["few photos"]["sha256"] = "another CLIP"
    place.write_text(json.dumps(found))
    with pytest.raises(SystemExit, match=r"^zero-shot cannot be kept: .* Add them to --methods"):
        shared.summary(place, kinds, shared.METHODS[1:])


def test_classes_are_drawn_with_their_photos(
    clip_folders: dict[str, Path],
    make_dataset: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench = load_example("benchmarks/tiny_imagenet.py")
    photos = make_dataset(150).photos
    folder, names = photos[0].parent, ["goldfish", "crane", "crane", "barn", "acorn"]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "wnid", "name"])
        writer.writerows([p.name, f"n{i % 5}", names[i % 5]] for i, p in enumerate(photos))
    for name, value in (("NUM_CLASSES", 2), ("NUM_TRAIN", 36), ("NUM_MEASURED", 24)):
        monkeypatch.setattr(bench, name, value)

    drawn = [bench.draw_photos(folder, seed) for seed in range(6)]
    for data in drawn:
        assert len(data) == 60 == len(set(data.photos))
        assert ((data.states == POSITIVE).sum(axis=1) == 1).all()
        for photo, state in zip(data.photos, data.states, strict=True):
            assert data.labels[int(state.argmax())] == names[photos.index(photo) % 5]
    # Two classes have one name: which of them is meant nobody can know.
    assert {name for data in drawn for name in data.labels} == {"goldfish", "barn", "acorn"}

    train, chooser, measured = bench.drawn(drawn[0], bench.Kind(False, 0.5), 0)
    assert train.labels == measured.labels == ("label 0", "label 1")
    assert len(train) + len(chooser) == 36
    assert not {*train.photos, *chooser.photos} & set(measured.photos)
    unknown = np.concatenate([train.states, chooser.states]) == UNKNOWN
    assert 0.3 < unknown.mean() < 0.7
    assert not (measured.states == UNKNOWN).any()

    output = tmp_path / "out"
    arguments = ["tiny_imagenet.py", "--data", str(folder), "--output", str(output)]
    arguments += ["--backbone", f"local-dir:{next(iter(clip_folders.values()))}", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", [*arguments, "--methods", "zero-shot", "probe", "trmml"])
    bench.main()
    assert "| classes, 20 % known |" in capsys.readouterr().out
    found = json.loads((output / "tiny_imagenet.json").read_text())
    assert set(found) == set(bench.TABLES)
    assert list(found["classes, 20 % known"]["mAP"]) == ["zero-shot", "probe", "trmml"]
