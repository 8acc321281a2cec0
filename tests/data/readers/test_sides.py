"""Columns that say which split a row is of, or something else than what is in the photo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.data.writing import write_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN

Read = Callable[..., MultiLabelDataset]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_read(content: str, **options: Any) -> MultiLabelDataset:
        (tmp_path / "t.csv").write_text(content, encoding="utf-8")
        for name in "abcd":
            (tmp_path / f"{name}.png").write_bytes(b"a reader of tables does not decode photos")
        return read_dataset(tmp_path / "t.csv", **options)

    return write_and_read


def names_of(data: MultiLabelDataset) -> str:
    return "".join(path.stem for path in data.photos)


# The first is fastai's PASCAL_2007, the second as AutoML's tools write it.
@pytest.mark.parametrize(
    ("content", "splits", "counts"),
    [
        (
            "fname,labels,is_valid\na.png,chair car,True\nb.png,car,False\nc.png,chair,False\n",
            {"valid": "a", "train": "bc"},
            "'is_valid' says (train 2, valid 1)",
        ),
        (
            "image,labels,subset\na.png,car,TRAIN\nb.png,chair,TEST\nc.png,,TRAIN\n",
            {"TRAIN": "ac", "TEST": "b"},
            "'subset' says (TEST 1, TRAIN 2)",
        ),
        (
            "image,label,is_test\na.png,car,0\nb.png,chair,1\nc.png,car,0\n",
            {"train": "ac", "test": "b"},
            "'is_test' says (test 1, train 2)",
        ),
        (
            "image,car,chair,is_train\na.png,1,0,yes\nb.png,,1,no\nc.png,1,,yes\n",
            {"train": "ac", "valid": "b"},
            "'is_train' says (train 2, valid 1)",
        ),
        (
            "image,car,Split,chair\na.png,1,train,\nb.png,0,Val,1\nc.png,0,train,1\n",
            {"train": "ac", "Val": "b"},
            "'Split' says (Val 1, train 2)",
        ),
    ],
)
def test_columns_that_name_splits_are_the_split(
    read: Read, content: str, splits: dict[str, str], counts: str
) -> None:
    options: dict[str, Any] = {"separator": " "} if "chair car" in content else {}
    if ",label" in content:
        options["unlabeled"] = "negative"
    data = read(content, **options)
    assert sorted(data.labels) == ["car", "chair"]
    assert f"All rows are taken, whatever their column {counts}." in data.interpretation
    assert {name: names_of(read(content, split=name, **options)) for name in splits} == splits
    with pytest.raises(DataError, match=r"no row with split 'tarin'\. Did you mean"):
        read(content, split="tarin", **options)


def test_side_columns_are_left_out_with_a_word_and_others_doubted(read: Read) -> None:
    content = (
        "image,fold,patient_sex_male,dog,Unnamed: 0,here,is_valid\n"
        "a.png,0,1,1,0,1,0\nb.png,1,0,,1,1,1\nc.png,1,0,0,2,1,0\n"
    )
    data = read(content)
    assert data.labels == ("patient_sex_male", "dog", "here")
    assert "Columns left out: 'fold', 'Unnamed: 0'. `labels`" in data.interpretation
    assert "the same in all photos: 'patient_sex_male', 'here'; if" in data.interpretation
    assert "'is_valid' says (train 2, valid 1)" in data.interpretation
    chosen = read(content, labels=["fold", "is_valid", "dog"])
    assert chosen.states.tolist() == [[N, N, P], [P, P, U], [P, N, N]]
    assert chosen.interpretation.endswith("blank is unknown.")


def test_columns_of_a_list_that_are_not_read_are_named(read: Read) -> None:
    data = read("image,tags,by\na.png,dog,Jo\nb.png,,Al\n", unlabeled="negative")
    assert data.interpretation.endswith("not listed is negative. Columns left out: 'by'.")


def test_a_label_may_be_called_like_a_split_or_be_alone(read: Read) -> None:
    data = read("image,set,train\na.png,1,0\nb.png,0,1\n")
    assert data.labels == ("set", "train")
    assert "sound like something else or are the same in all photos: 'set';" in data.interpretation
    assert read("image,fold\na.png,1\nb.png,0\n").states.tolist() == [[P], [N]]
    assert "Read as" not in read("image,dog,train\na.png,1,0\nb.png,0,1\n").interpretation


def test_a_label_that_would_be_left_out_again_is_not_written_as_a_column(tmp_path: Path) -> None:
    for name in ("fold", "is_valid"):
        data = MultiLabelDataset((tmp_path / "a.png",), np.zeros((1, 1), np.int8), (name,))
        with pytest.raises(DataError, match=f"The label '{name}' cannot be a column"):
            write_dataset(data, tmp_path / "t.csv")
