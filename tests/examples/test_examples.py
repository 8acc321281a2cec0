"""Every example, run as a user runs it, with the bundled model and photos that the test makes."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from skimage import data as sample

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import UNKNOWN

EXAMPLES = Path(__file__).parents[2] / "examples"
Maker = Callable[..., MultiLabelDataset]


def run(name: str, *arguments: object, where: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        command, cwd=where, env=quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_on_ray(name: str, *arguments: object, where: Path) -> None:
    """Run an example on a Ray of its own, as small as it goes: one processor and no dashboard."""
    program = f"""
import runpy, sys, ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
sys.argv = {[name, *map(str, arguments)]!r}
runpy.run_path({str(EXAMPLES / name)!r}, run_name="__main__")
"""
    quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", program]
    for _ in range(3):
        done = subprocess.run(command, cwd=where, env=quiet, capture_output=True, text=True)
        # Ray itself waits 30 seconds for its parts to start; on a busy machine that is not enough.
        if "timed out during startup" not in done.stderr:
            assert done.returncode == 0, done.stderr
            return
    pytest.skip("Ray did not start three times: this machine is too busy, the example may be right")


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "astronaut.png"
    Image.fromarray(sample.astronaut()).save(path)
    return path


def test_a_photo_is_tagged_at_once(tmp_path: Path) -> None:
    shown = run("predict_photo.py", where=tmp_path)
    label, score = shown.splitlines()[0].split()
    assert label == "person"
    assert float(score) > 0.9
    with Image.open(tmp_path / "heatmaps" / "astronaut.png") as sheet:
        assert sheet.width > 600


def test_a_folder_is_tagged_into_a_table(portrait: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    portrait.rename(photos / "portrait.png")
    (photos / "broken.jpg").write_bytes(b"no photo")
    run("predict_folder.py", photos, "tags.csv", where=tmp_path)
    with (tmp_path / "tags.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == str(photos / "portrait.png")
    assert "person" in row["tags"].split("|")
    assert float(row["person"]) > float(row["bus"])


def test_own_labels_are_learned_and_measured(make_dataset: Maker, tmp_path: Path) -> None:
    dataset = make_dataset(24).hide_labels(0.7)
    photos = dataset.photos[0].parent
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *dataset.labels])
        for photo, labels in zip(dataset.photos, dataset.states, strict=True):
            writer.writerow([photo.name, *("" if x == UNKNOWN else int(x) for x in labels)])
    shown = run("finetune_own_photos.py", "labels.csv", photos, "runs/mine", where=tmp_path)
    assert shown.endswith('Later: trmml.load_model("runs/mine")\n')
    measured = run("evaluate_model.py", "labels.csv", photos, "runs/mine", where=tmp_path)
    assert "over 3 labels, 24 photos" in measured
    assert measured.splitlines()[-1] in {f"Hardest: {name}" for name in dataset.labels}


def test_a_label_is_explained(portrait: Path, tmp_path: Path) -> None:
    shown = run("explain_prediction.py", portrait, "person", "seen.png", where=tmp_path)
    assert shown.startswith(f"person {trmml.predict(portrait)['person']:.2f}, most evidence at x=")
    with Image.open(tmp_path / "seen.png") as overlay, Image.open(portrait) as photo:
        assert overlay.size == photo.size


def test_photos_are_tagged_with_ray_and_only_once(portrait: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    portrait.rename(photos / "portrait.png")
    (photos / "broken.jpg").write_bytes(b"no photo")
    run_on_ray("tag_with_ray.py", photos, "tags", "--part", 1, where=tmp_path)
    written = sorted((tmp_path / "tags").iterdir())
    assert [part.name for part in written] == ["part-000000", "part-000001"]
    Image.new("RGB", (40, 40)).save(photos / "new.png")
    run_on_ray("tag_with_ray.py", photos, "tags", where=tmp_path)
    table = parquet.read_table(tmp_path / "tags").to_pylist()
    assert sorted(Path(row["photo"]).name for row in table) == [
        "broken.jpg",
        "new.png",
        "portrait.png",
    ]
    tagged = {Path(row["photo"]).name: row for row in table}
    assert "not a picture" in tagged["broken.jpg"]["error"]
    expected = trmml.predict(photos / "portrait.png")
    np.testing.assert_allclose(tagged["portrait.png"]["scores"], expected.scores, atol=1e-5)
    assert tagged["portrait.png"]["tags"] == "|".join(tag.label for tag in expected.positive)


LONG = {"label_studio_backend.py"}  # speaks another program's protocol
SHORT = sorted(path for path in EXAMPLES.glob("*.py") if path.name not in LONG)


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
