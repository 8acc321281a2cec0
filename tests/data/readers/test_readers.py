"""Readers of the formats that people have, each against a file as its tool writes it."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.data.writing import write_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN


@pytest.fixture
def photo(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str, shade: int = 9) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
        return path

    return make


def cells(data: MultiLabelDataset) -> dict[str, dict[str, int]]:
    return {
        path.name: dict(zip(data.labels, row.tolist(), strict=True))
        for path, row in zip(data.photos, data.states, strict=True)
    }


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_open_images_has_a_row_for_every_verified_label(tmp_path: Path, photo: Callable) -> None:
    photo("00a1.jpg"), photo("00b2.jpg")
    table = tmp_path / "annotations-human-imagelabels.csv"
    table.write_text(
        "ImageID,Source,LabelName,Confidence\n"
        "00a1,verification,/m/01g317,1\n"
        "00a1,verification,/m/0bt9lr,0\n"
        "00b2,crowdsource-verification,/m/0bt9lr,1.0\n"
    )
    data = read_dataset(table)
    assert cells(data) == {
        "00a1.jpg": {"/m/01g317": P, "/m/0bt9lr": N},
        "00b2.jpg": {"/m/01g317": U, "/m/0bt9lr": P},
    }
    assert "a label without a row is unknown" in data.interpretation
    with pytest.raises(DataError, match="`unlabeled` does not apply"):
        read_dataset(table, unlabeled="negative")


@pytest.mark.parametrize(("unlabeled", "rest"), [("unknown", U), ("negative", N)])
def test_a_long_table_of_positives_joins_the_rows_of_a_photo(
    tmp_path: Path, photo: Callable, unlabeled: Any, rest: int
) -> None:
    photo("a.jpg"), photo("b.jpg")
    table = tmp_path / "t.csv"
    table.write_text("image,label\na.jpg,dog\nb.jpg,bus\na.jpg,cat\n")
    with pytest.raises(DataError, match="lists positive labels only"):
        read_dataset(table)
    data = read_dataset(table, unlabeled=unlabeled)
    assert cells(data) == {
        "a.jpg": {"dog": P, "bus": rest, "cat": P},
        "b.jpg": {"dog": rest, "bus": P, "cat": rest},
    }


def test_confidences_of_a_machine_are_no_labels(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg")
    table = tmp_path / "t.csv"
    table.write_text("ImageID,Source,LabelName,Confidence\na,machine,/m/x,0.7\n")
    with pytest.raises(DataError, match=r"line 2: '0.7' is not 1 \(verified present\)"):
        read_dataset(table)


def test_chexpert(tmp_path: Path, photo: Callable) -> None:
    place = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    photo(place)
    table = tmp_path / "train.csv"
    table.write_text(
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture,Pneumonia\n"
        f"{place},Female,68,Frontal,AP,1.0,-1.0,,0.0\n"
    )
    data = read_dataset(table)
    assert data.labels == ("No Finding", "Edema", "Fracture", "Pneumonia")
    assert data.states.tolist() == [[P, U, U, N]]
    assert "uncertain (-1)" in data.interpretation


COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [0, 0, 1, 1], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 18, "bbox": [0, 0, 1, 1], "iscrowd": 0},
    ],
    "categories": [
        {"id": 18, "name": "dog", "supercategory": "animal"},
        {"id": 1, "name": "person", "supercategory": "person"},
        {"id": 2, "name": "bicycle", "supercategory": "vehicle"},
    ],
}


def test_coco(tmp_path: Path, photo: Callable) -> None:
    photo("val2014/a.jpg"), photo("val2014/b.jpg")
    table = write_json(tmp_path / "instances_val2014.json", COCO)
    with pytest.raises(DataError, match="Say what a label that is not listed means"):
        read_dataset(table, images=tmp_path / "val2014")
    data = read_dataset(table, images=tmp_path / "val2014", unlabeled="negative")
    assert cells(data) == {
        "a.jpg": {"person": P, "bicycle": N, "dog": P},
        "b.jpg": {"person": N, "bicycle": N, "dog": N},
    }
    assert data.labels == ("person", "bicycle", "dog")  # by id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(image_id=99), "of image 99, which is not listed"),
        (lambda c: c["annotations"][0].update(category_id=99), "category 99, which is not listed"),
        (lambda c: c["images"][0].pop("file_name"), "is not what coco writes: KeyError"),
        (lambda c: c.pop("categories"), "neither COCO .* nor Label Studio"),
    ],
)
def test_what_is_wrong_with_coco_is_named(
    tmp_path: Path, photo: Callable, change: Callable, message: str
) -> None:
    values = json.loads(json.dumps(COCO))
    change(values)
    with pytest.raises(DataError, match=message):
        read_dataset(write_json(tmp_path / "c.json", values), unlabeled="negative")


def test_photos_of_two_folders_are_not_taken_for_one(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg")
    values = COCO | {
        "images": [{"id": 7, "file_name": "cam_a/a.jpg"}, {"id": 3, "file_name": "cam_b/a.jpg"}]
    }
    table = write_json(tmp_path / "c.json", values)
    with pytest.raises(
        DataError, match=r"images 1 and 2 name cam_a/a.jpg and cam_b/a.jpg, and for"
    ):
        read_dataset(table, unlabeled="negative")
    photo("cam_a/a.jpg")
    photo("cam_b/a.jpg")
    assert len(read_dataset(table, unlabeled="negative")) == 2


def test_lvis_lists_what_is_absent(tmp_path: Path, photo: Callable) -> None:
    photo("000000000025.jpg")
    image = {
        "id": 25,
        "coco_url": "http://images.cocodataset.org/val2017/000000000025.jpg",
        "neg_category_ids": [2],
        "not_exhaustive_category_ids": [3],
    }
    values = {
        "images": [image],
        "annotations": [{"id": 1, "image_id": 25, "category_id": 3}],
        "categories": [{"id": i, "name": n} for i, n in ((1, "aerosol"), (2, "zebra"), (3, "cup"))],
    }
    table = write_json(tmp_path / "lvis_v1_val.json", values)
    data = read_dataset(table)
    assert cells(data) == {"000000000025.jpg": {"aerosol": U, "zebra": N, "cup": P}}
    with pytest.raises(DataError, match=r"\(LVIS\); `unlabeled` does not apply"):
        read_dataset(table, unlabeled="negative")
    values["annotations"][0]["category_id"] = 2
    with pytest.raises(DataError, match="has a box of 'zebra' and lists it as absent"):
        read_dataset(write_json(table, values))


def voc_xml(name: str, *objects: tuple[str, int]) -> str:
    things = "".join(
        f"<object><name>{label}</name><pose>Left</pose><difficult>{difficult}</difficult>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>"
        for label, difficult in objects
    )
    return f"<annotation><folder>VOC2007</folder><filename>{name}</filename>{things}</annotation>"


def test_voc(tmp_path: Path, photo: Callable) -> None:
    root = tmp_path / "VOC2007"
    objects = {
        "000005": [("chair", 0), ("chair", 1), ("dog", 1)],
        "000007": [("car", 0)],
        "000009": [("horse", 0)],
    }
    for name, things in objects.items():
        photo(f"VOC2007/JPEGImages/{name}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(f"{name}.jpg", *things))
    sets = root / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "trainval.txt").write_text("000005\n000007\n")
    (sets / "car_trainval.txt").write_text("000005 -1\n000007  1\n")
    data = read_dataset(root, split="trainval", unlabeled="negative")
    assert cells(data) == {
        "000005.jpg": {"car": N, "chair": P, "dog": U, "horse": N},
        "000007.jpg": {"car": P, "chair": N, "dog": N, "horse": N},
    }
    assert len(read_dataset(root, unlabeled="unknown")) == 3
    assert len(read_dataset(root / "Annotations", unlabeled="unknown", images=root)) == 3
    with pytest.raises(DataError, match=r"splits here: trainval\."):
        read_dataset(root, split="train", unlabeled="negative")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "has a document type"),
        ("<annotation>", "is not XML"),
        ("<annotation><object></object></annotation>", "an object has no name"),
        (" " * (2**20 + 1), "larger than 1 MiB"),
    ],
)
def test_xml_that_is_not_voc_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(content)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path, unlabeled="negative")


def test_what_is_no_file_among_annotations_and_splits_is_named(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    os.mkfifo(tmp_path / "Annotations" / "a.xml")  # nobody writes to it
    with pytest.raises(DataError, match=r"a\.xml is not XML"):
        read_dataset(tmp_path, unlabeled="negative")
    (tmp_path / "Annotations" / "a.xml").unlink()
    (tmp_path / "Annotations" / "a.xml").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"Cannot read .*a\.xml: it is a device"):
        read_dataset(tmp_path, unlabeled="negative")
    with pytest.raises(DataError, match=r"Cannot read the table /dev/zero: it is a device"):
        read_dataset("/dev/zero")


def annotation(*choices: str, cancelled: bool = False) -> dict:
    value = {"type": "choices", "from_name": "tag", "to_name": "image"}
    result = [value | {"value": {"choices": list(choices)}}] if choices else []
    return {"id": 1, "completed_by": 1, "was_cancelled": cancelled, "result": result}


def test_label_studio(tmp_path: Path, photo: Callable) -> None:
    for name in ("cat dog.jpg", "b.jpg", "c.jpg", "d.jpg"):
        photo(name)
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-cat%20dog.jpg"},
         "annotations": [annotation("cat", "dog")]},
        {"id": 2, "data": {"image": "/data/local-files/?d=b.jpg"},
         "annotations": [annotation("cat"), annotation("cat", "dog")]},
        {"id": 3, "data": {"image": "c.jpg"}, "annotations": [annotation("dog", cancelled=True)]},
        {"id": 4, "data": {"image": "d.jpg"}, "annotations": [annotation()]},
    ]  # fmt: skip
    data = read_dataset(write_json(tmp_path / "export.json", tasks), unlabeled="negative")
    assert cells(data) == {
        "cat dog.jpg": {"cat": P, "dog": P},
        "b.jpg": {"cat": P, "dog": U},  # the annotators disagree
        "c.jpg": {"cat": U, "dog": U},  # nobody has annotated it
        "d.jpg": {"cat": N, "dog": N},
    }


def test_uploads_that_differ_by_their_hash_are_not_taken_for_one(
    tmp_path: Path, photo: Callable
) -> None:
    photo("1.jpg")
    tasks = [
        {"id": 1, "data": {"image": f"upload/{name}"}, "annotations": [annotation(label)]}
        for name, label in (("aaaaaaaa-1.jpg", "cat"), ("bbbbbbbb-1.jpg", "dog"))
    ]
    table = write_json(tmp_path / "export.json", tasks)
    message = "tasks 1 and 2 name upload/aaaaaaaa-1.jpg and upload/bbbbbbbb-1.jpg, and for both"
    with pytest.raises(DataError, match=message):
        read_dataset(table, unlabeled="negative")
    photo("upload/aaaaaaaa-1.jpg")
    again = read_dataset(table, unlabeled="negative")
    assert cells(again) == {
        "aaaaaaaa-1.jpg": {"cat": P, "dog": N},
        "1.jpg": {"cat": N, "dog": P},
    }


def test_label_studio_in_its_short_form(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg"), photo("b.jpg")
    facts = {"annotator": 1, "annotation_id": 5, "lead_time": 3.1}
    tasks = [
        {"image": "/data/upload/1/0a1b2c3d-a.jpg", "id": 1, "tag": {"choices": ["x", "y"]}} | facts,
        {"image": "/data/upload/1/0a1b2c3e-b.jpg", "id": 2, "tag": "y"} | facts,
    ]
    data = read_dataset(write_json(tmp_path / "min.json", tasks), unlabeled="unknown")
    assert cells(data) == {"a.jpg": {"x": P, "y": P}, "b.jpg": {"x": U, "y": P}}


def test_what_else_the_short_form_says_of_a_photo_is_no_choice(
    tmp_path: Path, photo: Callable
) -> None:
    photo("1.jpg")
    rest = {"caption": "two dogs", "source": "camera 2", "comment": "", "lead_time": 3.1}
    path = tmp_path / "min.json"

    def read(task: dict) -> MultiLabelDataset:
        return read_dataset(write_json(path, [task]), unlabeled="negative")

    data = read({"image": "/data/upload/1/aaaaaaaa-1.jpg", "animal": {"choices": ["dog"]}} | rest)
    assert cells(data) == {"1.jpg": {"dog": P}}
    assert data.interpretation.endswith("Choices are read from 'animal'.")
    data = read({"img": "1.jpg", "place": "indoor/kitchen", "comment": "", "annotator": 1})
    assert cells(data) == {"1.jpg": {"indoor/kitchen": P}}
    with pytest.raises(DataError, match=r"'caption', 'source', 'animal' hold text, .* as JSON"):
        read({"image": "1.jpg"} | rest | {"animal": "dog"})


def test_folders_named_by_their_label(tmp_path: Path, photo: Callable) -> None:
    photo("sorted/cat/1.png", 1), photo("sorted/dog/1.png", 2)
    photo("sorted/cat/2.png", 3), photo("sorted/dog/2.png", 3)  # the same file twice
    with pytest.raises(DataError, match="lists positive labels only"):
        read_dataset(tmp_path / "sorted")
    data = read_dataset(tmp_path / "sorted", unlabeled="negative")
    assert data.labels == ("cat", "dog")
    assert sorted(data.states.tolist()) == [[N, P], [P, N], [P, P]]


@pytest.mark.parametrize("mark", [",", ";", " "])
def test_a_list_has_any_separator_that_is_named(tmp_path: Path, photo: Callable, mark: str) -> None:
    photo("000009.jpg")
    table = tmp_path / "train.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["fname", "labels"], ["000009.jpg", f"horse{mark}person"]])
    data = read_dataset(table, unlabeled="negative", separator=mark)
    assert data.labels == ("horse", "person")
    if mark != " ":
        with pytest.raises(DataError, match=f"say separator='{mark}'"):
            read_dataset(table, unlabeled="negative")


class Frame:
    """What a pandas DataFrame can do, as far as it is used."""

    def __init__(self, **columns: list) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __len__(self) -> int:
        return len(self._columns[self.columns[0]])

    def __getitem__(self, name: str) -> list:
        return self._columns[name]


class HubDataset(Frame):
    """What a Hugging Face dataset can do, as far as it is used."""

    def __init__(self, features: dict, **columns: list) -> None:
        super().__init__(**columns)
        self.column_names = self.columns
        self.features = features
        del self.columns

    def __getitem__(self, name: str) -> list:
        return self._columns[name]

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))


class ClassLabel:
    names = ("dog", "cat")


class List:
    feature = ClassLabel()


def test_a_data_frame_is_a_wide_table(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg"), photo("b.jpg")
    frame = Frame(image=["a.jpg", "b.jpg"], dog=[1.0, float("nan")], cat=[False, True])
    data = read_dataset(frame, images=tmp_path)
    assert cells(data) == {"a.jpg": {"dog": P, "cat": N}, "b.jpg": {"dog": U, "cat": P}}
    bad = Frame(image=["a.jpg"], dog=[-1])
    with pytest.raises(DataError, match="line 1, column 'dog': -1"):
        read_dataset(bad, images=tmp_path)


def test_a_dataset_with_lists_of_class_labels(tmp_path: Path, photo: Callable) -> None:
    place = str(photo("a.jpg"))
    features = {"labels": List()}
    images = [{"bytes": None, "path": place}]
    data = read_dataset(HubDataset(features, image=images, labels=[[1]]), unlabeled="unknown")
    assert cells(data) == {"a.jpg": {"dog": U, "cat": P}}
    decoded = HubDataset(features, image=[Image.new("RGB", (2, 2))], labels=[[1]])
    with pytest.raises(DataError, match=r"cast_column\(\"image\", Image\(decode=False\)\)"):
        read_dataset(decoded, unlabeled="unknown")


def test_a_missing_class_label_is_unknown(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg"), photo("b.jpg")
    features = {"dog": ClassLabel()}
    table = HubDataset(features, image=["a.jpg", "b.jpg"], dog=[-1, 1])
    assert read_dataset(table, images=tmp_path).states.tolist() == [[U], [P]]


def test_classes_of_a_list_are_those_that_there_are(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg"), photo("b.jpg"), photo("c.jpg")
    names = ["a.jpg", "b.jpg", "c.jpg"]
    table = HubDataset({"labels": List()}, image=names, labels=[[0], [-1], [1, -1]])
    data = read_dataset(table, images=tmp_path, unlabeled="negative")
    assert data.states.tolist() == [[P, N], [U, U], [U, P]]
    table = HubDataset({"labels": List()}, image=names, labels=[[0], [2], [1]])
    with pytest.raises(DataError, match="row 2: there is no class 2; they go from 0 to 1"):
        read_dataset(table, images=tmp_path, unlabeled="negative")


@pytest.mark.parametrize("name", ["features", "column_names", "columns"])
def test_a_label_may_be_called_what_a_table_has(tmp_path: Path, photo: Callable, name: str) -> None:
    photo("a.jpg"), photo("b.jpg")
    frame = pandas.DataFrame({"image": ["a.jpg", "b.jpg"], name: [1, 0]})
    assert read_dataset(frame, images=tmp_path).states.tolist() == [[P], [N]]


def test_a_task_that_nobody_answered_takes_nothing_from_one_that_somebody_did(
    tmp_path: Path, photo: Callable
) -> None:
    photo("a.jpg"), photo("b.jpg")

    def task(name: str, *choices: str) -> dict:
        result = {"type": "choices", "value": {"choices": list(choices)}}
        return {"data": {"image": name}, "annotations": [{"result": [result]}] if choices else []}

    tasks = [task("a.jpg", "dog"), task("a.jpg"), task("b.jpg", "cat")]
    for order in (tasks, tasks[::-1]):
        table = tmp_path / "tasks.json"
        table.write_text(json.dumps(order))
        data = read_dataset(table, unlabeled="negative", labels=["dog", "cat"])
        assert cells(data)["a.jpg"] == {"dog": P, "cat": N}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.jsonl",
            '{"image": "a.jpg", "positive": ["x"], "positive": ["y"]}',
            "'positive' more th",
        ),
        (
            "t.jsonl",
            '{"image": "a.jpg", "positive": [" "]}',
            "' ' cannot be a label",
        ),
        ("t.jsonl", '{"image": "a.jpg", "positive": ["x\\u001b[2J"]}', "cannot be a label"),
        (
            "t.json",
            '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}],'
            ' "categories": [{"id": 1, "name": "dog"}], "annotations": []}',
            "several images have the id 1",
        ),
        (
            "t.json",
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [],'
            ' "categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]}',
            "several categories have the id 1",
        ),
        (
            "t.json",
            '{"images": [{"id": 1, "coco_url": "http://[bad/0.jpg"}], "annotations": [],'
            ' "categories": [{"id": 1, "name": "dog"}]}',
            "is not what coco writes",
        ),
        ("t.csv", "image,dog\na.jpg,perhaps\n", "'perhaps' is not a label"),
    ],
    ids=["twice", "blank", "escape", "images", "categories", "address", "cell"],
)
def test_what_could_be_meant_in_two_ways_is_refused(
    tmp_path: Path, photo: Callable, name: str, content: str, message: str
) -> None:
    photo("a.jpg"), photo("b.jpg")
    (tmp_path / name).write_text(content)
    listed = None if name.endswith("csv") else "negative"
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / name, unlabeled=listed)


def test_words_and_the_line_of_a_spreadsheet_are_understood(
    tmp_path: Path, photo: Callable
) -> None:
    photo("a.jpg"), photo("b.jpg"), photo("c.jpg")
    text = "sep=;\nimage;dog;cat\na.jpg;TRUE;no\nb.jpg;False;Yes\nc.jpg;;1.0\n"
    (tmp_path / "t.csv").write_text(text)
    data = read_dataset(tmp_path / "t.csv")
    assert data.states.tolist() == [[P, N], [N, P], [U, P]]


def test_a_table_of_many_columns_is_read_in_linear_time(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg")
    names = ",".join(f"label {i}" for i in range(30_000))
    (tmp_path / "t.csv").write_text(f"image,{names}\na.jpg{',1' * 30_000}\n")
    assert read_dataset(tmp_path / "t.csv").states.sum() == 30_000


def test_the_format_can_be_named(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg")
    table = tmp_path / "t.csv"
    table.write_text("image,label\na.jpg,1\n")
    data = read_dataset(table, format="wide")
    assert cells(data) == {"a.jpg": {"label": P}}
    with pytest.raises(DataError, match=r"No format 'wise'\. Did you mean 'wide'"):
        read_dataset(table, format="wise")
    with pytest.raises(DataError, match="format='voc' is for a folder"):
        read_dataset(table, format="voc")
    with pytest.raises(DataError, match="format='coco' is for a file"):
        read_dataset(tmp_path, format="coco")


def test_many_rows_of_one_photo_are_joined_in_linear_time(tmp_path: Path, photo: Callable) -> None:
    photo("a.jpg")
    table = tmp_path / "t.csv"
    rows = "".join(f"a.jpg,label {i},{i % 2}\n" for i in range(3_000))
    table.write_text("image,label,value\n" + rows)
    data = read_dataset(table)
    assert data.states.shape == (1, 3_000)
    assert np.array_equal(data.states[0], np.arange(3_000) % 2)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_what_is_written_is_read_again(tmp_path: Path, photo: Callable, name: str) -> None:
    photos = tuple(photo(f'deep/{i}, "x".png') for i in range(4))
    states = np.array([[P, N, U], [U, U, U], [N, P, P], [N, N, N]], dtype=np.int8)
    names = ("a,b", "日本語", '<b>"quoted"</b>')
    data = MultiLabelDataset(photos, states, names)
    write_dataset(data, tmp_path / "tables" / name)
    again = read_dataset(tmp_path / "tables" / name, labels=names)
    assert [path.resolve() for path in again.photos] == [path.resolve() for path in photos]
    assert np.array_equal(again.states, states)
    write_dataset(data, tmp_path / name, images=tmp_path / "deep")
    moved = read_dataset(tmp_path / name, images=tmp_path / "deep", labels=names)
    assert np.array_equal(moved.states, states)


def test_what_cannot_be_written_is_refused(tmp_path: Path, photo: Callable) -> None:
    data = MultiLabelDataset((photo("a.png"),), np.zeros((1, 1), dtype=np.int8), ("split",))
    with pytest.raises(DataError, match=r"ends in .csv \(wide\) or .jsonl"):
        write_dataset(data, tmp_path / "t.txt")
    with pytest.raises(DataError, match="'split' cannot be a column"):
        write_dataset(data, tmp_path / "t.csv")
    write_dataset(data, tmp_path / "t.jsonl")
    assert read_dataset(tmp_path / "t.jsonl").labels == ("split",)
    for names, form in ((("label", "value"), "long"), (("Frontal/Lateral", "x"), "chexpert")):
        data = MultiLabelDataset(data.photos, np.zeros((1, 2), dtype=np.int8), names)
        with pytest.raises(DataError, match=f"{names[0]}, .* a wide CSV would be read as {form}"):
            write_dataset(data, tmp_path / "t.csv")


@pytest.mark.parametrize("images", [None, "link"])
def test_paths_are_written_so_that_they_lead_through_links(
    tmp_path: Path, photo: Callable, images: str | None
) -> None:
    photos = (photo("photos/a.png"), photo("photos/b.png", 7), tmp_path / "photos" / "c.png")
    photos[2].symlink_to(photo("elsewhere/1.png", 5))
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    data = MultiLabelDataset(photos, np.zeros((3, 1), dtype=np.int8), ("dog",))
    base = None if images is None else tmp_path / images
    write_dataset(data, tmp_path / "link" / "t.csv", images=base)
    again = read_dataset(tmp_path / "link" / "t.csv", images=base)
    assert [path.name for path in again.photos] == ["a.png", "b.png", "c.png"]
    assert [path.resolve() for path in again.photos] == [path.resolve() for path in photos]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_photo_whose_name_is_not_utf_8_is_named(tmp_path: Path, name: str) -> None:
    photo = Path(os.fsdecode(os.fsencode(tmp_path / "dog") + b"\xe9.png"))
    data = MultiLabelDataset((photo,), np.zeros((1, 1), dtype=np.int8), ("dog",))
    with pytest.raises(
        DataError, match=r"photo 'dog.udce9\.png' is not UTF-8 and cannot be written"
    ):
        write_dataset(data, tmp_path / name)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize(
    "names", [("label",), ("labels",), ("Tags",), ("tags", "x"), ("label", "x"), ("labels", "tags")]
)
def test_labels_are_written_and_read_whatever_they_are_called(
    tmp_path: Path, photo: Callable, name: str, names: tuple[str, ...]
) -> None:
    states = np.array([[P, N], [N, P], [U, N]], dtype=np.int8)[:, : len(names)]
    photos = tuple(photo(f"{i}.png") for i in range(3))
    write_dataset(MultiLabelDataset(photos, states, names), tmp_path / name)
    again = read_dataset(tmp_path / name)
    assert again.labels == names
    assert np.array_equal(again.states, states)


def test_a_real_data_frame_with_lists(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png"],
            "split": ["val", "train", "train"],
            "labels": [["dog"], ["dog", "cat"], []],
        }
    )
    for name in frame["image"]:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    frame.to_parquet(tmp_path / "table.parquet")
    again = pandas.read_parquet(tmp_path / "table.parquet")  # lists come back as arrays
    for table in (frame, again):
        part = table[table["split"] == "train"]  # its index does not begin at 0
        for options in ({"table": part}, {"table": table, "split": "train"}):
            read = read_dataset(
                options.pop("table"), images=tmp_path, unlabeled="negative", **options
            )
            assert [photo.name for photo in read.photos] == ["b.png", "c.png"]
            positives = {n: c.tolist() for n, c in zip(read.labels, read.states.T, strict=True)}
            assert positives == {"dog": [POSITIVE, NEGATIVE], "cat": [POSITIVE, NEGATIVE]}
    with pytest.raises(DataError, match="lists of labels in 'labels'; it is not wide"):
        read_dataset(frame, images=tmp_path, unlabeled="negative", format="wide")


def test_a_data_frame_may_have_numbers_for_columns_but_each_once(
    tmp_path: Path, photo: Callable
) -> None:
    frame = pandas.DataFrame({"image": [str(photo("a.png"))], 0: [1], 1: [0]})
    assert cells(read_dataset(frame)) == {"a.png": {"0": P, "1": N}}
    frame.columns = ["image", "dog", "dog"]
    with pytest.raises(DataError, match="the table has the column 'dog' more than once"):
        read_dataset(frame)


@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA])
def test_a_row_without_a_list_of_labels_states_nothing(
    tmp_path: Path, photo: Callable, missing: Any
) -> None:
    places = [str(photo(name)) for name in ("a.png", "b.png", "c.png")]
    frame = pandas.DataFrame({"image": places, "labels": [["dog"], missing, []]})
    data = read_dataset(frame, unlabeled="negative")
    assert data.states.tolist() == [[P], [U], [N]]
    frame.loc[1, "labels"] = "dog"
    with pytest.raises(DataError, match="row 2: 'dog' is not a list of labels"):
        read_dataset(frame, unlabeled="negative")
