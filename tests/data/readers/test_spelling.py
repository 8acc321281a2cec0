"""Names that look the same and are written with other characters."""

import json
import unicodedata
from pathlib import Path

import pytest

from trmml.data.checks import similar_names
from trmml.data.readers.tables import read_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN

APART, TOGETHER = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
CYRILLIC = "d\N{CYRILLIC SMALL LETTER O}g"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"a reader of tables does not decode photos")
    return tmp_path


@pytest.mark.parametrize("other", [APART, "ca\u00adfé", "\ufeffcafé\u200b", "ca\u2060fé"])
def test_a_name_in_two_spellings_is_one_label(folder: Path, other: str) -> None:
    table = folder / "t.csv"
    table.write_text(f"image,labels\na.jpg,{TOGETHER}|bar\nb.jpg,{other}\n", encoding="utf-8")
    data = read_dataset(table, unlabeled="negative")
    assert data.labels == (TOGETHER, "bar")
    assert data.states.tolist() == [[P, P], [P, N]]
    assert "in several forms of Unicode, and one label each: 'café'." in data.interpretation
    table.write_text(f"image,{TOGETHER},{other}\na.jpg,1,0\n", encoding="utf-8")
    with pytest.raises(DataError, match="has the column 'café' more than once"):
        read_dataset(table)
    lines = folder / "t.jsonl"
    lines.write_text(json.dumps({"image": "a.jpg", "positive": [TOGETHER], "negative": [other]}))
    with pytest.raises(DataError, match="line 1: 'café' is there in two spellings, once positive"):
        read_dataset(lines)


def test_labels_are_found_in_either_form_and_keep_the_form_that_is_asked_for(folder: Path) -> None:
    table = folder / "t.csv"
    table.write_text(f"image,{TOGETHER},bar\na.jpg,1,0\n", encoding="utf-8")
    data = read_dataset(table, labels=[APART])
    assert data.labels == (APART,)
    assert data.states.tolist() == [[P]]


def test_letters_of_another_script_are_named(folder: Path) -> None:
    table = folder / "t.csv"
    table.write_text(f"image,labels\na.jpg,dog\nb.jpg,{CYRILLIC}\n", encoding="utf-8")
    data = read_dataset(table, unlabeled="negative")
    assert data.labels == ("dog", CYRILLIC)
    said = f"These labels look the same and are not: 'dog' ('dog'), '{CYRILLIC}' ('d\\u043eg')."
    assert said in data.interpretation
    assert similar_names(("dog", CYRILLIC, "cat")) == (("dog", CYRILLIC),)
    assert similar_names(("ﬁsh", "Fish", "می\u200cخواهم", "میخواهم")) == (
        ("ﬁsh", "Fish"),
        ("می\u200cخواهم", "میخواهم"),
    )


@pytest.mark.parametrize(("on_disk", "in_table"), [(APART, TOGETHER), (TOGETHER, APART)])
def test_photos_are_found_in_either_form(folder: Path, on_disk: str, in_table: str) -> None:
    (folder / f"{on_disk}.jpg").write_bytes(b"photo")
    table = folder / "t.csv"
    table.write_text(f"image,dog\n{in_table}.jpg,1\n", encoding="utf-8")
    assert [path.stem for path in read_dataset(table).photos] == [on_disk]
