"""Tables as people have them: of other kinds of file, columns, cells and encodings."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.errors import DataError, DependencyError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN

Read = Callable[..., MultiLabelDataset]
WIDE = [["image", "dog", "cat"], ["a.png", 1, 0], ["b.png", None, 1], ["c.png", 0.0, True]]
STATES = [[P, N], [U, P], [N, P]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"a reader of tables does not decode photos")
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Read:
    def write_and_read(content: Any, name: str = "t.csv", **options: Any) -> MultiLabelDataset:
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_dataset(folder / name, **options)

    return write_and_read


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_is_read_as_its_csv_would_be(folder: Path) -> None:
    wide = read_dataset(workbook(folder / "t.xlsx", labels=WIDE))
    assert (wide.labels, wide.states.tolist()) == (("dog", "cat"), STATES)
    rows = [["Image Name", "tags"], ["a.png", "dog|cat"], ["b.png", None], ["c.png", "cat"]]
    listed = read_dataset(workbook(folder / "u.XLSX", x=rows), unlabeled="negative")
    assert listed.states.tolist() == [[P, P], [N, N], [N, P]]


def test_of_a_workbook_the_first_full_sheet_is_read_and_the_others_named(folder: Path) -> None:
    spaced = [[None], [None, None], *[[*row, None] for row in WIDE], [None]]
    path = workbook(folder / "t.xlsx", empty=[], labels=spaced, notes=[["by hand"]])
    found = read_dataset(path)
    assert found.states.tolist() == STATES
    assert "Sheet 'labels' is read, and 'notes' left out." in found.interpretation
    bad = workbook(folder / "u.xlsx", x=[WIDE[0], ["a.png", datetime.date(2026, 1, 2), 1]])
    with pytest.raises(DataError, match="line 2, column 'dog': '2026-01-02' is not a label"):
        read_dataset(bad)


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet"])
@pytest.mark.parametrize("content", [b"", b"image,dog\n", b"PK\x03\x04 no zip", b"PAR1PAR1"])
def test_a_damaged_file_is_one_line(read: Read, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=r"t\.(xlsx is not an Excel workbook|parquet)"):
        read(content, name)


@pytest.mark.parametrize(("name", "package"), [("t.xlsx", "openpyxl"), ("t.parquet", "pyarrow")])
def test_what_is_not_installed_is_named(
    read: Read, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DependencyError, match=r"pip install 'trmml\[tables\]', or save it as CSV"):
        read(b"", name)


@pytest.mark.parametrize("name", ["t.xls", "t.ods"])
def test_other_spreadsheets_are_to_be_saved_as_what_is_read(read: Read, name: str) -> None:
    with pytest.raises(DataError, match=r"not read; save it as \.xlsx, \.csv or \.parquet"):
        read(b"\xd0\xcf\x11\xe0", name)


def test_parquet_is_read_with_its_classes(folder: Path) -> None:
    frame = pandas.DataFrame(WIDE[1:], columns=WIDE[0], index=[5, 3, 9])
    frame["cat"] = frame["cat"].astype(int)
    frame.to_parquet(folder / "t.parquet")
    found = read_dataset(folder / "t.parquet")
    assert (found.labels, found.states.tolist()) == (("dog", "cat"), STATES)
    assert found.source == str(folder / "t.parquet")
    # As Hugging Face datasets write it: photos within, classes by number, their names apart.
    data = (folder / "a.png").read_bytes()
    table = pyarrow.table({"image": [{"bytes": data, "path": None}], "labels": [[1, 0]]})
    features = {
        "image": {"_type": "Image"},
        "labels": {"_type": "List", "feature": {"names": ["dog", "cat"], "_type": "ClassLabel"}},
    }
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(meta), folder / "u.pq")
    stored = read_dataset(folder / "u.pq", unlabeled="negative")
    assert (stored.labels, stored.states.tolist()) == (("dog", "cat"), [[P, P]])
    assert stored.photos[0].read_bytes() == data
    parquet.write_table(pyarrow.table({"x": [1], "y": [2]}), folder / "v.parquet")
    with pytest.raises(DataError, match=r"v\.parquet has no column for the photo"):
        read_dataset(folder / "v.parquet")


WIDE_RECORDS = [
    {"image": "a.png", "dog": 1, "cat": 0},
    {"image": "b.png", "cat": 1, "dog": None},
    {"image": "c.png", "dog": False, "cat": True},
]
LISTS = [
    {"file_name": "a.png", "labels": ["dog", "cat"]},
    {"file_name": "b.png", "labels": []},
    {"file_name": "c.png", "labels": ["cat"], "split": "val"},
]


@pytest.mark.parametrize(
    "records",
    [
        WIDE_RECORDS,
        [{"image": r["image"], "labels": {k: r[k] for k in ("dog", "cat")}} for r in WIDE_RECORDS],
        {key: {str(i): r.get(key) for i, r in enumerate(WIDE_RECORDS)} for key in WIDE[0]},
        {key: [r.get(key) for r in WIDE_RECORDS] for key in WIDE[0]},
        [
            {"image": "a.png", "positive": ["dog"], "negative": ["cat"]},
            {"image": "b.png", "positive": ["cat"]},
            {"image": "c.png", "positive": ["cat"], "negative": ["dog"]},
        ],
    ],
)
def test_records_are_read_as_json_in_memory_and_by_line(read: Read, records: Any) -> None:
    found = read(records, "t.json")
    assert (found.labels, found.states.tolist()) == (("dog", "cat"), STATES)
    if isinstance(records, list):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        assert read(lines, "t.jsonl").states.tolist() == STATES
        if "positive" not in records[0]:
            images = Path(found.photos[0]).parent
            assert read_dataset(records, images=images).states.tolist() == STATES


@pytest.mark.parametrize(
    "records",
    [LISTS, {r["file_name"]: r["labels"] for r in LISTS}, [{**r, "id": 7} for r in LISTS]],
)
def test_records_that_list_labels_are_lists_of_positives(read: Read, records: Any) -> None:
    for name in ("t.json", "t.jsonl"):
        content: Any = records
        if name == "t.jsonl":
            content = "\n".join(map(json.dumps, LISTS))
        found = read(content, name, unlabeled="negative")
        assert (found.labels, found.states.tolist()) == (("dog", "cat"), [[P, P], [N, N], [N, P]])
        with pytest.raises(DataError, match="lists positive labels only"):
            read(content, name)


@pytest.mark.parametrize(
    "values",
    [
        {"images": [{"file_name": "a.png"}], "annotations": [{"id": 1}]},
        {"model": {"depth": 2}, "labels": ["dog"]},
        ["a.png", "b.png"],
        [],
        {},
        [{"dog": 1}],
    ],
)
def test_other_json_is_refused_with_what_is_read(read: Read, values: Any) -> None:
    with pytest.raises(
        DataError, match=r'nor records as \[{"image": "a\.jpg", "labels": \["dog"\]}\]'
    ):
        read(values, "t.json")


def test_splits_and_encodings_apply_to_records(read: Read) -> None:
    found = read("\n".join(map(json.dumps, LISTS)), "t.jsonl", split="val", unlabeled="unknown")
    assert (found.labels, found.states.tolist()) == (("dog", "cat"), [[U, P]])
    signed = [{"img": "a.png", "dog": -1, "cat": 1}]
    assert read(signed, "t.json", label_encoding="1/-1/0").states.tolist() == [[N, P]]
    with pytest.raises(
        DataError, match=r"line 1, column 'dog': -1 .* can mean negative or unknown"
    ):
        read(signed, "t.json")


@pytest.mark.parametrize("table", [0.2, 5, None, [], ["a.jpg"], [("a.jpg", ["dog"])]])
def test_what_is_no_table_is_refused_by_name(table: Any) -> None:
    with pytest.raises(
        DataError, match=r"A table must be a path, a DataFrame, .* list of dicts as"
    ):
        read_dataset(table)


@pytest.mark.parametrize(
    "column", ["img", "id", "name", "Image Name", "image-path", "Photo_ID", "FilePath", "pic"]
)
def test_the_column_of_the_photo_has_many_names(read: Read, column: str) -> None:
    for mark in ",;":
        found = read(f"{column}{mark}dog\na.png{mark}1\nb.png{mark}0\n")
        assert (found.labels, found.states.tolist()) == (("dog",), [[P], [N]])
        is_said = f"The column {column!r} names the photo." in found.interpretation
        assert is_said == (column in ("id", "name", "pic"))


def test_a_path_names_the_photo_where_there_is_an_id_as_well(read: Read) -> None:
    found = read("id,name,img,dog\n1,Rex,a.png,1\n", labels=["dog"])
    assert found.photos[0].name == "a.png"


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("a.png,dog|cat\nb.png,dog\n", r"as image,labels\."),
        ("a.png,1,0\nb.png,0,1\n", r"as image,label1,label2 with the names of the labels\."),
        ("a.png;dog;1\nb.png;cat;0\n", r"as image,label,value\."),
        ("a.png\tdog\n", r"as image,labels\."),
        ("1,0,B.JPG\n", r"as label1,label2,image with the names of the labels\."),
        ("a.png,dog,1\na.png,cat,0\n", r"as image,label,value\."),
    ],
)
def test_a_missing_header_is_said_and_what_to_write(read: Read, content: str, header: str) -> None:
    with pytest.raises(DataError, match=header):
        read(content)


@pytest.mark.parametrize("word", ["?", "unknown", "N/A", "-", "NA", "#N/A", "Unknown", "n/a"])
def test_words_for_nobody_knows_are_unknown_and_counted(read: Read, word: str) -> None:
    found = read(f"image,dog,cat\na.png,1,{word}\nb.png,{word},0\n")
    assert found.states.tolist() == [[P, U], [U, N]]
    assert f"2 cells {word!r} are unknown." in found.interpretation
    listed = read(f"image,labels\na.png,dog|cat\nb.png,{word}\nc.png,\n", unlabeled="negative")
    assert (listed.labels, listed.states.tolist()) == (("dog", "cat"), [[P, P], [U, U], [N, N]])
    assert f"1 cells {word!r} say nothing of the photo" in listed.interpretation
    chosen = read(
        f"image,labels\na.png,dog\nb.png,{word}\n", labels=["dog", word], unlabeled="negative"
    )
    assert chosen.states.tolist() == [[P, N], [N, P]]
    with pytest.raises(DataError, match=r"the label is not named .* stands for a blank"):
        read(f"image,label,value\na.png,{word},1\n")


@pytest.mark.parametrize("name", ["Café", "größe", "crème brûlée", "créée", "Ångström"])
def test_text_of_windows_is_read_and_said(read: Read, name: str) -> None:
    content = f"image,dog,{name}\na.png,1,0\n"
    found = read(content.encode("cp1252"))
    assert found.labels == ("dog", name)
    assert "was read as cp1252 (Windows), as in" in found.interpretation
    assert "cp1252" not in read(content).interpretation


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("собака", "cp1251"),
        ("собака", "koi8-r"),
        ("犬", "shift-jis"),
        ("狗", "gbk"),
        ("σκύλος", "cp1253"),
    ],
)
def test_text_of_other_encodings_is_not_guessed(read: Read, name: str, encoding: str) -> None:
    with pytest.raises(DataError, match="line 1 is not UTF-8; save the table as UTF-8"):
        read(f"image,{name}\na.png,1\n".encode(encoding))


@pytest.mark.parametrize(
    "cell",
    [
        *("1" * 99_999 + "x", "[" + "1" * 99_999, "1." * 50_000 + "x", "[" + "1 " * 50_000 + "x"),
        *("a" * 99_999 + "é", "é" * 2 + "a" * 99_999, "-" * 99_999 + "x", "['" + "a" * 99_999),
    ],
    ids=lambda cell: f"{cell[:3]} to {cell[-3:]}",
)
def test_a_cell_of_a_hundred_thousand_letters_is_read_once(read: Read, cell: str) -> None:
    # A pattern that tries every place of such a cell against every other would take minutes.
    found = read(f"image,labels\na.png,{cell}\nb.png,dog\n".encode("cp1252"), unlabeled="unknown")
    assert found.labels == (cell, "dog")
