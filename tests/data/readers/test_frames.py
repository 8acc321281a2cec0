"""Tables in memory as pandas, Arrow, torch and Hugging Face's datasets hold them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from PIL import Image

from trmml.data.photos import load_photo
from trmml.data.readers.tables import read_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"a reader of tables does not decode photos")
    return [str(tmp_path / f"{name}.png") for name in "abc"]


class ClassLabel:
    """What Hugging Face's feature of that name has."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)


class ListOf:
    """A list of another feature."""

    def __init__(self, feature: Any) -> None:
        self.feature = feature


class ImageFeature:
    """Hugging Face's feature of a photo."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class Dataset:
    """What a Hugging Face dataset can do, as far as it is used."""

    def __init__(self, features: dict[str, Any], **columns: Any) -> None:
        self.features, self._columns = features, columns
        self.column_names = list(columns)

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def cast_column(self, name: str, feature: Any) -> "Dataset":
        stored = [getattr(value, "stored", value) for value in self._columns[name]]
        return Dataset(self.features | {name: feature}, **(self._columns | {name: stored}))


VECTORS = [[1, 0, 1], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("column", ["labels", "label", "targets"])
@pytest.mark.parametrize(
    "vectors",
    [
        VECTORS,
        [[float(cell) for cell in row] for row in VECTORS],
        [[bool(cell) for cell in row] for row in VECTORS],
        list(np.array(VECTORS)),
        list(np.array(VECTORS, dtype=bool)),
        list(torch.tensor(VECTORS)),
        torch.tensor(VECTORS, dtype=torch.float32),
        ["[1, 0, 1]", "[0, 1, 1]", "[0, 0, 0]"],
        ["[1. 0. 1.]", "[0. 1. 1.]", "[0. 0. 0.]"],
        ["1 0 1", "0 1 1", "0 0 0"],
        ["True,False,True", "false,true,true", "false,false,false"],
    ],
)
def test_lists_of_states_need_the_names_of_their_labels(
    places: list[str], column: str, vectors: Any
) -> None:
    table = Dataset({}, image=places, **{column: vectors})
    with pytest.raises(
        DataError, match=rf"column '{column}' holds lists of 3 states, as .*`labels`"
    ):
        read_dataset(table)
    data = read_dataset(table, labels=["dog", "cat", "cow"])
    assert data.states.tolist() == [[P, N, P], [N, P, P], [N, N, N]]
    assert f"The numbers in '{column}' are the states of dog, cat, cow" in data.interpretation
    with pytest.raises(DataError, match="must name 3 and names 2"):
        read_dataset(table, labels=["dog", "cat"])


def test_states_in_a_list_may_be_missing_or_of_an_encoding(places: list[str]) -> None:
    frame = pandas.DataFrame({"image": places, "labels": [[1.0, np.nan], None, [0.0, 1.0]]})
    assert read_dataset(frame, labels=["a", "b"]).states.tolist() == [[P, U], [U, U], [N, P]]
    frame["labels"] = [[1, -1, -1], [0, 0, 1], [-1, 1, 1]]
    with pytest.raises(DataError, match=r"column 'b': -1 .* can mean negative or unknown"):
        read_dataset(frame, labels=["a", "b", "c"])
    data = read_dataset(frame, labels=["a", "b", "c"], label_encoding="1/-1/0")
    assert data.states.tolist() == [[P, N, N], [U, U, P], [N, P, P]]


def test_numbers_of_classes_are_no_states(places: list[str]) -> None:
    frame = pandas.DataFrame({"image": places, "labels": [[3, 17], [3], []]})
    data = read_dataset(frame, unlabeled="negative")
    assert data.labels == ("3", "17")
    assert data.states.tolist() == [[P, P], [P, N], [N, N]]
    frame["labels"] = [["dog", None], ["cat", float("nan")], ["dog", "cat"]]
    data = read_dataset(frame, unlabeled="negative")
    assert data.labels == ("dog", "cat")  # and no label "None"
    assert data.states.tolist() == [[P, U], [U, P], [P, P]]


@pytest.mark.parametrize("column", ["label", "category", "labels"])
def test_one_class_for_each_photo_is_named(places: list[str], column: str) -> None:
    features = {column: ClassLabel("dog", "traffic light", "cat")}
    table = Dataset(features, image=places, **{column: [1, 0, -1]})
    with pytest.raises(DataError, match="lists positive labels only"):
        read_dataset(table)
    data = read_dataset(table, unlabeled="negative")
    assert data.labels == ("dog", "traffic light", "cat")
    assert data.states.tolist() == [[N, P, N], [P, N, N], [U, U, U]]
    assert f"One class in '{column}' for each photo" in data.interpretation


def test_classes_of_a_column_may_be_states(places: list[str]) -> None:
    chexpert = ClassLabel("unlabeled", "uncertain", "absent", "present")
    table = Dataset({"Edema": chexpert}, image=places, Edema=[0, 2, 3])
    assert read_dataset(table).states.tolist() == [[U], [N], [P]]
    for names in (("yes", "no"), ("dog", "not_dog"), ("Positive", "Negative")):
        table = Dataset({"dog": ClassLabel(*names)}, image=places, dog=[0, 1, -1])
        assert read_dataset(table).states.tolist() == [[P], [N], [U]]
    table = Dataset({"sex": ClassLabel("male", "female")}, image=places, sex=[0, 1, 1])
    said = "In 'sex' the class 'female' is positive, 'male' negative."
    assert said in read_dataset(table).interpretation
    table = Dataset({"size": ClassLabel("S", "M", "L")}, image=places, size=[0, 1, 2])
    with pytest.raises(DataError, match="line 1, column 'size': 'S' is not a label"):
        read_dataset(table)


def test_a_dictionary_of_splits_is_asked_for_one(places: list[str]) -> None:
    class DatasetDict(dict):
        column_names = property(lambda self: {name: self[name].column_names for name in self})

    parts = DatasetDict(
        train=Dataset({}, image=places[:2], dog=[1, 0]), test=Dataset({}, image=places[2:], dog=[1])
    )
    message = r"of the splits train, test; pass one of them, as dataset\['train'\]"
    with pytest.raises(DataError, match=message):
        read_dataset(parts)
    assert read_dataset(parts, split="test").states.tolist() == [[P]]

    class Stream:
        column_names = ("image", "dog")
        __iter__ = None

    with pytest.raises(DataError, match="load it without `streaming=True`"):
        read_dataset(Stream())


def test_a_table_of_arrow_is_read(places: list[str]) -> None:
    table = pyarrow.table({"image": places, "labels": [["dog"], [], None], "is_valid": [1, 0, 0]})
    data = read_dataset(table, unlabeled="negative")
    assert data.states.tolist() == [[P], [N], [U]]
    assert "'is_valid' says (train 2, valid 1)" in data.interpretation
    assert len(read_dataset(table, unlabeled="negative", split="train")) == 2
    scalars = {"image": list(table["image"]), "labels": list(table["labels"])}
    again = read_dataset(Dataset({}, **scalars), unlabeled="negative")
    assert again.states.tolist() == [[P], [N], [U]]
    wide = pyarrow.table({"image": places, "dog": [True, None, False]})
    assert read_dataset(wide).states.tolist() == [[P], [U], [N]]


def encoded(shade: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("arrow", [False, True])
def test_photos_inside_a_table_are_taken(
    tmp_path: Path, places: list[str], arrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "kept"))
    images = [
        {"bytes": encoded(200, "PNG"), "path": None},
        {"bytes": encoded(90, "JPEG"), "path": "a.jpg"},  # of the machine that made the table
        {"bytes": None, "path": places[2]},
    ]
    columns: dict[str, Any] = {"image": images, "dog": [1, 0, 1]}
    table: Any = pyarrow.table(columns) if arrow else Dataset({}, **columns)
    data = read_dataset(table)
    assert data.states.tolist() == [[P], [N], [P]]
    assert [path.suffix for path in data.photos] == [".png", ".jpg", ".png"]
    assert [load_photo(path).getpixel((0, 0))[0] for path in data.photos[:2]] == [200, 90]
    assert data.photos[0].parent == tmp_path / "kept" / "photos"
    assert read_dataset(table).photos == data.photos


def test_photos_are_not_decoded_to_be_named(places: list[str]) -> None:
    class Decoded:
        stored = {"bytes": encoded(7, "PNG"), "path": None}  # noqa: RUF012

    table = Dataset({"image": ImageFeature()}, image=[Decoded()], dog=[1])
    assert load_photo(read_dataset(table).photos[0]).getpixel((0, 0)) == (7, 7, 7)
