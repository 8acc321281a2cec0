"""Names of labels that could be one or several, blank or written in another way."""

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
    def write_and_read(content: str, **options: Any) -> MultiLabelDataset:
        (tmp_path / "t.csv").write_text(content, encoding="utf-8")
        for i in range(6):
            (tmp_path / f"{i}.jpg").write_bytes(b"a reader of tables does not decode photos")
        return read_dataset(tmp_path / "t.csv", **({"unlabeled": "negative"} | options))

    return write_and_read


def table(*cells: str, column: str = "labels") -> str:
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    return f"image,{column}\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(quoted))


@pytest.mark.parametrize(
    ("cells", "mark", "reason"),
    [
        (["dog cat", "dog", "cat"], " ", "'dog cat' .* 'dog' and 'cat' are labels themselves"),
        (["dog/cat", "dog", "cat"], "/", "'dog/cat' may be one label or several"),
        (["dog+cat", "dog+bird", "bird"], r"\+", "most cells have"),
        (["dog  cat", "dog", "cat"], " ", "'dog' and 'cat' are labels themselves"),
        (["dog and cat", "dog", "cat"], " and ", "'dog' and 'cat' are labels themselves"),
        (["Dog - Cat", "dog", "cat"], "-", "are labels themselves"),
        (["dog,cat", "dog|cat"], ",", "are labels themselves"),
        (["dog;bird;cow", "cat;bird", "dog|cat"], ";", "most cells have ';' in them"),
        (["dog cat", "cat bird", "bird dog", "cow dog", "cow cat"], " ", "most cells have ' '"),
        (["dog cat", "cat dog"], " ", "most cells have ' '"),
        (["dog\ncat", "bird\ncow"], r"\\n", "most cells have"),
        (["dog cat", "dog"], " ", "'dog cat' may be one label or several: 'dog' is a label itself"),
        (["dog/cat", "dog"], "/", "'dog' is a label itself"),
        (["dog+cat", "horse", "dog"], r"\+", "'dog' is a label itself"),
        (["salt & pepper", "pepper", "tea"], "&", "'pepper' is a label itself"),
        (["hot dog", "dog", "cat"], " ", "'hot dog' .* 'dog' is a label itself"),
        (["cat/dog", "dog/bird", "cat/bird"], "/", "most cells have '/'"),
    ],
)
def test_a_name_that_looks_like_several_is_asked_for(
    read: Read, cells: list[str], mark: str, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"(?s){reason}.*Say separator='{mark}' \(--separator\)"):
        read(table(*cells))


def test_what_was_asked_can_be_answered_either_way(read: Read) -> None:
    content = table("dog cat", "dog", "cat")
    split = read(content, separator=" ")
    assert split.labels == ("dog", "cat")
    assert split.states.tolist() == [[P, P], [P, N], [N, P]]
    kept = read(content, separator="|")
    assert kept.labels == ("dog cat", "dog", "cat")
    with pytest.raises(DataError, match="'dog cat' may be one label"):
        read(table("dog cat", "dog"), labels=["dog", "cat"])  # only the user knows of cats


@pytest.mark.parametrize(
    "cells",
    [
        ["traffic light|stop sign", "hot dog|dog"],
        ["traffic light", "fire hydrant", "wine glass"],
        ["animal/dog", "animal/cat", "animal/cow"],
        ["apple, red|dog", "pear, green|cat"],
        ["T-shirt", "X-ray", "24/7"],
        ["red dress", "blue dress", "red shirt", "green hat"],
        ["salt & pepper", "black and white", "sugar", "tea"],
        ["salt & pepper|tea", "pepper"],
        ["hot dog|cat", "dog"],
        ["/m/01g317", "/m/0bt9lr"],
        ["[unclear]", "dog"],
    ],
)
def test_names_of_several_words_are_not_doubted(read: Read, cells: list[str]) -> None:
    names = [name for cell in cells for name in cell.split("|")]
    assert read(table(*cells)).labels == tuple(names)


@pytest.mark.parametrize("column", ["label", "class"])
def test_one_label_a_row_is_doubted_as_well(read: Read, column: str) -> None:
    content = table("dog|cat", "dog", "cat", column=column)
    with pytest.raises(DataError, match=r"Say separator='\|' .* or format='long'"):
        read(content)
    assert read(content, separator="|").states.tolist() == [[P, P], [P, N], [N, P]]
    assert read(content, format="long").labels == ("dog|cat", "dog", "cat")


def test_words_for_a_blank_list_nothing(read: Read) -> None:
    data = read(table("dog", "nan", "None", "cat|<NA>", "nan"))
    assert data.labels == ("dog", "cat")
    assert data.states.tolist() == [[P, N], [N, N], [N, N], [N, P], [N, N]]
    assert "2 cells 'nan' list nothing. 1 cells 'None' list nothing." in data.interpretation
    named = read(table("dog", "none"), labels=["dog", "none"])
    assert named.states.tolist() == [[P, N], [N, P]]
    with pytest.raises(DataError, match=r"line 3: the label is not named \('nan' stands for a bl"):
        read(table("dog", "nan", column="label"))


@pytest.mark.parametrize("column", ["labels", "label"])
@pytest.mark.parametrize(
    "cells",
    [
        ["['dog', 'traffic light']", "[]", "['cat']"],
        ['["dog", "traffic light"]', "[]", '["cat"]'],
        ["['dog' 'traffic light']", "[]", "['cat']"],  # NumPy's, without commas
        ["{'dog', 'traffic light'}", "", "{'cat',}"],
        ["('dog', 'traffic light')", "()", "('cat',)"],
        ['{"choices": ["dog", "traffic light"]}', "", "cat"],  # Label Studio's CSV
    ],
)
def test_lists_that_programs_print_are_read(read: Read, column: str, cells: list[str]) -> None:
    for options in ({}, {"separator": ","}):
        data = read(table(*cells, column=column), **options)
        assert data.labels == ("dog", "traffic light", "cat")
        assert data.states.tolist() == [[P, P, N], [N, N, N], [N, N, P]]


@pytest.mark.parametrize("cell", ["[dog, cat]", '{"dog": 1, "cat": 0}', '[{"name": "dog"}]'])
def test_other_json_in_a_cell_is_refused(read: Read, cell: str) -> None:
    with pytest.raises(DataError, match="is no list of label names; write them as dog"):
        read(table(cell, "bird"))
