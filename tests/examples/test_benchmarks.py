"""The benchmark readers, on miniature copies of the official layouts."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest
from conftest import load_example
from PIL import Image
from safetensors.torch import save_file

from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
P, N, U = POSITIVE, NEGATIVE, UNKNOWN


@pytest.fixture(scope="module")
def official() -> ModuleType:
    return load_example("benchmarks/official.py")


def photo(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 90, 200 - shade)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def states(data: MultiLabelDataset) -> dict[str, list[int]]:
    return dict(zip((p.name for p in data.photos), data.states.tolist(), strict=True))


def coco(root: Path) -> None:
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    for split in ("train2014", "val2014"):
        names = [f"COCO_{split}_{i:012d}.jpg" for i in (9, 25)]
        for name in names:
            photo(root / split / name)
        images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
        annotations = [{"id": 1, "image_id": 0, "category_id": 18, "iscrowd": 1}]
        values = {"images": images, "annotations": annotations, "categories": categories}
        write(root / "annotations" / f"instances_{split}.json", json.dumps(values))


def voc(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2007"
    objects = {"000001": ("dog", 0), "000002": ("cat", 1), "000003": ("cat", 0)}
    for i, (name, (label, difficult)) in enumerate(objects.items()):
        photo(folder / "JPEGImages" / f"{name}.jpg", 60 * i)
        thing = f"<object><name>{label}</name><difficult>{difficult}</difficult></object>"
        xml = f"<annotation><filename>{name}.jpg</filename>{thing}</annotation>"
        write(folder / "Annotations" / f"{name}.xml", xml)
    write(folder / "ImageSets" / "Main" / "trainval.txt", "000001\n000003\n")
    write(folder / "ImageSets" / "Main" / "test.txt", "000002\n")


def vg(root: Path) -> None:
    for folder, name in (("VG_100K", "1.jpg"), ("VG_100K_2", "2.jpg")):
        photo(root / folder / name)
    write(root / "train_list_500.txt", "1.jpg\n")
    write(root / "test_list_500.txt", "2.jpg\n")
    write(root / "vg_category_200_labels_index.json", json.dumps({"1.jpg": [0, 2], "2.jpg": []}))
    write(root / "vg_category_200_names.txt", "man\nstop sign\ntree\n")


def nuswide(root: Path) -> None:
    for split, names in (("Train", ["actor/0001_1.jpg", "sky/2.jpg"]), ("Test", ["sky/3.jpg"])):
        for name in names:
            photo(root / "Flickr" / name)
        lines = "".join(name.replace("/", "\\") + "\n" for name in names)
        write(root / "ImageList" / f"{split}Imagelist.txt", lines)
        labels = root / "Groundtruth" / "TrainTestLabels"
        write(labels / f"Labels_blue_sky_{split}.txt", "0\n1\n"[-2 * len(names) :])
        write(labels / f"Labels_airport_{split}.txt", "1\n0\n"[: 2 * len(names)])


def cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    names = ["001.Albatross/A_1.jpg", "002.Auklet/B_2.jpg"]
    for name in names:
        photo(folder / "images" / name)
    write(folder / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    write(folder / "train_test_split.txt", "1 1\n2 0\n")
    attributes = "1 has_bill_shape::curved_(up_or_down)\n2 has_wing_color::blue\n"
    write(root / "attributes.txt", attributes)
    write(
        folder / "attributes" / "image_attribute_labels.txt",
        "1 1 1 3 5.6\n1 2 0 1 2.0\n2 2 1 4 1\n",
    )


EXPECTED = {
    "coco2014": (
        coco,
        ("person", "dog"),
        {"COCO_train2014_000000000009.jpg": [N, P], "COCO_train2014_000000000025.jpg": [N, N]},
        {"COCO_val2014_000000000009.jpg": [N, P], "COCO_val2014_000000000025.jpg": [N, N]},
    ),
    "voc2007": (
        voc,
        ("cat", "dog"),
        {"000001.jpg": [N, P], "000003.jpg": [P, N]},
        {"000002.jpg": [U, N]},  # the cat is there as difficult only
    ),
    "vg200": (vg, ("man", "stop sign", "tree"), {"1.jpg": [P, N, P]}, {"2.jpg": [N, N, N]}),
    "nuswide": (
        nuswide,
        ("airport", "blue_sky"),
        {"0001_1.jpg": [P, N], "2.jpg": [N, P]},
        {"3.jpg": [P, P]},
    ),
    "cub": (
        cub,
        ("bill shape curved (up or down)", "wing color blue"),
        {"A_1.jpg": [P, N]},
        {"B_2.jpg": [U, P]},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_an_official_layout_is_read_cell_by_cell(
    official: ModuleType, tmp_path: Path, name: str
) -> None:
    make, names, train_states, test_states = EXPECTED[name]
    make(tmp_path)
    train, test = official.read_benchmark(name, tmp_path)
    assert train.labels == test.labels == names
    assert states(train) == train_states
    assert states(test) == test_states


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("coco2014", "annotations/instances_val2014.json", "There is no .*instances_val2014.json"),
        ("coco2014", "train2014/COCO_train2014_000000000009.jpg", "1 of 2 photos not found"),
        ("voc2007", "VOCdevkit/VOC2007/ImageSets/Main/test.txt", "There is no .*test.txt"),
        ("vg200", "vg_category_200_names.txt", "prompts need names"),
        ("vg200", "VG_100K_2/2.jpg", "2.jpg is not in VG_100K or VG_100K_2"),
        ("nuswide", "Groundtruth/TrainTestLabels/Labels_airport_Test.txt", None),
        ("nuswide", "ImageList/TrainImagelist.txt", "There is no .*TrainImagelist.txt"),
        ("cub", "attributes.txt", "There is no attributes.txt in"),
    ],
)
def test_what_is_missing_is_named(
    official: ModuleType, tmp_path: Path, name: str, lost: str, message: str | None
) -> None:
    EXPECTED[name][0](tmp_path)
    (tmp_path / lost).unlink()
    if message is None:  # a concept that the test part does not have is unknown there
        _, test = official.read_benchmark(name, tmp_path)
        assert test.states.tolist() == [[U, P]]
        return
    with pytest.raises(DataError, match=message):
        official.read_benchmark(name, tmp_path)


def test_an_unknown_benchmark_brings_the_nearest(official: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'voc2007'"):
        official.read_benchmark("voc207", tmp_path)


def test_a_list_of_single_positives(official: ModuleType, tmp_path: Path) -> None:
    coco(tmp_path)
    train, _ = official.read_benchmark("coco2014", tmp_path)
    listed = tmp_path / "coco_train_singlelabel.txt"
    listed.write_text("train2014/COCO_train2014_000000000009.jpg 1\n")
    single = official.read_single_positives(listed, train)
    assert states(single) == {"COCO_train2014_000000000009.jpg": [U, P]}
    assert single.hidden_states.tolist() == [[N, P]]
    listed.write_text("train2014/COCO_train2014_000000000009.jpg 7\n")
    with pytest.raises(DataError, match="line 1: expected a path and a category"):
        official.read_single_positives(listed, train)


def many_of_voc(root: Path, num_train: int, num_test: int) -> None:
    """Photos of cats and dogs in the layout of VOC 2007."""
    generator = np.random.default_rng(0)
    folder = root / "VOCdevkit" / "VOC2007"
    ids = [f"{i:06d}" for i in range(num_train + num_test)]
    for i, name in enumerate(ids):
        photo(folder / "JPEGImages" / f"{name}.jpg", int(generator.integers(200)))
        thing = f"<object><name>{('dog', 'cat')[i % 2]}</name><difficult>0</difficult></object>"
        xml = f"<annotation><filename>{name}.jpg</filename>{thing}</annotation>"
        write(folder / "Annotations" / f"{name}.xml", xml)
    write(folder / "ImageSets" / "Main" / "trainval.txt", "\n".join(ids[:num_train]))
    write(folder / "ImageSets" / "Main" / "test.txt", "\n".join(ids[num_train:]))


def make_table(root: Path, backbone: str, output: Path, *options: str) -> dict[str, Any]:
    """Run the command that makes a table of the paper, and return what it wrote."""
    command = [sys.executable, str(FOLDER / "paper_tables.py"), "voc2007", str(root)]
    command += ["--backbone", backbone, "--output", str(output), "--set", "training.epochs=1"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return json.loads((output / "results.json").read_text())


def test_a_table_of_the_paper_is_made_and_goes_on_where_it_stopped(
    tmp_path: Path, backbone_source: str
) -> None:
    many_of_voc(tmp_path, 30, 10)
    place, heads = (tmp_path, backbone_source, tmp_path / "out"), ("--set", "matching.num_heads=2")
    first = make_table(*place, *heads, "--shares", "0.9")
    assert list(first["runs"]) == ["90 %"]
    both = make_table(*place, *heads, "--shares", "0.9", "0.5")
    assert list(both["runs"]) == ["90 %", "50 %"]
    assert both["runs"]["90 %"] == first["runs"]["90 %"]
    assert both["settings"]["training"]["epochs"] == 1
    shown = (tmp_path / "out" / "results.md").read_text()
    value = 100 * both["runs"]["50 %"]["test"]["mAP"]
    assert f"| 50 % | {value:.2f} |" in shown


def test_the_recipe_of_the_papers_tables_runs_on_a_resnet_101(tmp_path: Path) -> None:
    weights = open_clip.create_model("RN101-quickgelu").state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "random.safetensors")
    many_of_voc(tmp_path, 6, 2)
    recipe = ("-c", str(FOLDER.parent / "recipes" / "rn101-448.toml"))
    small = ("--set", "training.batch_size=2", "--set", "training.val_fraction=0.34")
    backbone = f"RN101-quickgelu/file:{tmp_path / 'random.safetensors'}"
    made = make_table(tmp_path, backbone, tmp_path / "out", *recipe, *small, "--shares", "1")
    assert made["settings"]["training"]["features"] == "augmented"
    assert 0 < made["runs"]["100 %"]["test"]["mAP"] <= 1
    config = json.loads((tmp_path / "out" / "100" / "config.json").read_text())
    assert (config["photo"]["image_size"], config["dim"]) == (448, 512)
    log = (tmp_path / "out" / "100" / "log.jsonl").read_text().splitlines()
    assert len(log) == 1


@pytest.mark.parametrize(
    "recipe", sorted((FOLDER.parent / "recipes").glob("*.toml")), ids=lambda path: path.name
)
def test_a_recipe_holds_valid_settings(recipe: Path) -> None:
    from trmml.config.groups import FinetuneConfig

    assert FinetuneConfig.from_toml(recipe).matching.way == "text-region"
