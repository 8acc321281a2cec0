"""COCO's and Label Studio's files where tools and people differ."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN

Read = Callable[..., MultiLabelDataset]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_read(values: Any, **options: Any) -> MultiLabelDataset:
        (tmp_path / "t.json").write_text(json.dumps(values))
        for name in "abcd":
            (tmp_path / f"{name}.jpg").write_bytes(b"a reader of tables does not decode photos")
        return read_dataset(tmp_path / "t.json", **({"unlabeled": "negative"} | options))

    return write_and_read


def cells(data: MultiLabelDataset) -> dict[str, dict[str, int]]:
    return {
        path.stem: dict(zip(data.labels, row.tolist(), strict=True))
        for path, row in zip(data.photos, data.states, strict=True)
    }


def coco(boxes: list[dict], first: Any = 1, second: Any = 2) -> dict:
    return {
        "images": [{"id": first, "file_name": "a.jpg"}, {"id": second, "file_name": "b.jpg"}],
        "annotations": boxes,
        "categories": [{"id": 2, "name": "dog"}, {"id": "10", "name": "cat"}],
    }


@pytest.mark.parametrize("ignore", [1, True, "1"])
def test_boxes_to_ignore_leave_a_category_unknown(read: Read, ignore: Any) -> None:
    box = {"image_id": 1, "category_id": 2}
    data = read(coco([box | {"ignore": ignore}, box | {"category_id": 10, "ignore": 0}]))
    assert cells(data) == {"a": {"dog": U, "cat": P}, "b": {"dog": N, "cat": N}}
    assert "1 boxes are to be ignored; alone they leave a category unknown" in data.interpretation
    both = read(coco([box | {"ignore": ignore}, box, box | {"ignore": ignore}]))
    assert cells(both)["a"] == {"dog": P, "cat": N}


@pytest.mark.parametrize("ids", [("1", "2"), (1, 2), (1.0, 2.0), (" 1", "2 ")])
def test_ids_are_the_same_as_text_and_as_numbers(read: Read, ids: tuple) -> None:
    boxes = [{"image_id": "1", "category_id": "2"}, {"image_id": 2, "category_id": 10.0}]
    data = read(coco(boxes, *ids))
    assert data.labels == ("dog", "cat")  # 2 before 10
    assert cells(data) == {"a": {"dog": P, "cat": N}, "b": {"dog": N, "cat": P}}
    with pytest.raises(DataError, match="several images have the id 1"):
        read(coco(boxes, 1, "1"))
    with pytest.raises(DataError, match="annotation 5 is of image x, which is not listed"):
        read(coco([{"id": 5, "image_id": "x", "category_id": 2}], *ids))


def choice(control: str, *choices: str, about: str = "image") -> dict:
    value = {"choices": list(choices)}
    return {"type": "choices", "from_name": control, "to_name": about, "value": value}


def task(data: dict, *annotations: list[dict]) -> dict:
    return {"data": data, "annotations": [{"result": results} for results in annotations]}


def test_questions_with_yes_and_no_are_labels_in_three_states(read: Read) -> None:
    tasks = [
        task({"image": "a.jpg"}, [choice("has_dog", "yes"), choice("has_cat", "no")]),
        task({"image": "b.jpg"}, [choice("has_dog", "no"), choice("has_cat", "Unsure")]),
        task({"image": "c.jpg"}, [choice("has_dog", "yes")], [choice("has_dog", "no")]),
        task({"image": "d.jpg"}, [choice("has_cat", "yes")]),
    ]
    data = read(tasks)
    assert cells(data) == {
        "a": {"has_dog": P, "has_cat": N},
        "b": {"has_dog": N, "has_cat": U},
        "c": {"has_dog": U, "has_cat": U},
        "d": {"has_dog": U, "has_cat": P},  # a question that was left out was not denied
    }
    said = "Yes and no in 'has_dog', 'has_cat' are states of that label."
    assert data.interpretation.endswith(said)
    for unlabeled in (None, "unknown"):  # all is stated, whatever an absent label would mean
        assert cells(read(tasks, unlabeled=unlabeled)) == cells(data)
    short = [
        {
            "image": "a.jpg",
            "id": 1,
            "has_dog": "yes",
            "has_cat": "no",
            "lead_time": 2.5,
            "caption": "one dog",
        },
        {"image": "b.jpg", "id": 2, "has_dog": "no", "has_cat": "unsure", "annotator": 1},
    ]
    assert cells(read(short)) == {name: cells(data)[name] for name in "ab"}


def test_choices_that_several_controls_have_are_named_by_both(read: Read) -> None:
    results = [choice("front", "red"), choice("back", "blue"), choice("kind", "car", "van")]
    more = [choice("front", "blue"), choice("back", "red"), choice("kind", "car")]
    data = read([task({"image": "a.jpg"}, results), task({"image": "b.jpg"}, more)])
    assert data.labels == ("front: red", "back: blue", "car", "van", "front: blue", "back: red")
    assert data.states.tolist() == [[P, P, P, P, N, N], [N, N, P, N, P, P]]
    assert "Several controls have the choices 'red', 'blue'" in data.interpretation


@pytest.mark.parametrize("tags", [("left", "right"), ("Photo1", "Photo2")])
def test_two_photos_of_a_task_are_two_rows(read: Read, tags: tuple[str, str]) -> None:
    keys = ("left", "right") if tags[0] == "left" else ("image1", "image2")
    results = [choice("l", "dog", about=tags[0]), choice("r", "cat", "cow", about=tags[1])]
    photos = dict(zip(keys, ("a.jpg", "b.jpg"), strict=True))
    data = read([task(photos, results)])
    assert cells(data) == {
        "a": {"dog": P, "cat": N, "cow": N},
        "b": {"dog": N, "cat": P, "cow": P},
    }
    odd = [choice("l", "dog", about="this"), choice("r", "cat", about="that")]
    with pytest.raises(DataError, match=r"task 1: its photos are .*, and a choice is about 'this'"):
        read([task(photos, odd)])
    thumbnail = {"image": "a.jpg", "thumbnail": "b.jpg"}
    assert len(read([task(thumbnail, [choice("tag", "dog", about="img")])])) == 1


def test_records_of_the_short_form_that_disagree_are_unknown(read: Read) -> None:
    def record(annotator: int, *choices: str) -> dict:
        chosen = {"choices": list(choices)} if len(choices) > 1 else choices[0]
        facts = {"id": 7, "annotator": annotator, "annotation_id": annotator, "lead_time": 1.5}
        return {"image": "a.jpg", "tag": chosen} | facts

    data = read([record(1, "dog", "cat"), record(2, "dog"), record(3, "dog", "cow")])
    assert cells(data) == {"a": {"dog": P, "cat": U, "cow": U}}
