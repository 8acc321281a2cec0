import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.data.writing import write_dataset
from trmml.errors import ArtifactError, ConfigError, DataError
from trmml.files import read_json
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN

Read = Callable[..., MultiLabelDataset]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"a reader of tables does not decode photos")

    def write_and_read(
        content: str | bytes, name: str = "t.csv", **options: Any
    ) -> MultiLabelDataset:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return read_dataset(tmp_path / name, **options)

    return write_and_read


def jsonl(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


WIDE = "image,dog,cat\na.png,1,0\nb.png,,1\nc.png,0.0, 1.0 \n"
WIDE_LABELS = [[P, N], [U, P], [N, P]]


def test_a_wide_table_states_three_things(read: Read, tmp_path: Path) -> None:
    dataset = read(WIDE)
    assert dataset.states.tolist() == WIDE_LABELS
    assert dataset.labels == ("dog", "cat")
    assert dataset.photos == (tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png")
    assert dataset.interpretation.startswith("Wide table, cells as 1/0/blank")
    assert dataset.source == str(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "content",
    [
        WIDE.replace("\n", "\r\n").encode("utf-8-sig"),
        WIDE.encode("utf-16"),
        b"\xfe\xff" + WIDE.encode("utf-16-be"),
        WIDE.replace("\n", "\r").encode(),
        WIDE.replace(",", ";").encode(),
        WIDE.replace(",", "\t").encode(),
        WIDE.replace("image", " Filename ").encode(),
        WIDE.replace("\n", "\n\n").encode() + b",,\n",
        WIDE.replace("a.png,1,0", '"a.png","1","0"').encode(),
        ("\r\n\n,,\n" + WIDE).encode(),
        ("\n\n" + WIDE.replace(",", ";")).encode(),
    ],
    ids=[
        "bom-crlf",
        "utf-16-le",
        "utf-16-be",
        "cr",
        ";",
        "tab",
        "name",
        "blank-lines",
        "quotes",
        "above",
        "above-;",
    ],
)
def test_a_table_reads_the_same_however_a_program_saved_it(read: Read, content: bytes) -> None:
    dataset = read(content)
    assert dataset.states.tolist() == WIDE_LABELS
    assert dataset.labels == ("dog", "cat")


@pytest.mark.parametrize(
    ("encoding", "states"),
    [
        (None, [P, N, U]),
        ("1/0/blank", [P, N, U]),
        ("1/-1/0", [P, U, U, N]),
        ("1/0/-1", [P, N, U, U]),
        ("chexpert", [P, N, U, U]),
    ],
)
def test_a_cell_means_what_the_encoding_says(
    read: Read, encoding: str | None, states: list[int]
) -> None:
    cells = dict(zip(["1", "0", "", "-1"], states, strict=False))
    header = ",".join(["image", *(f"label{i}" for i in range(len(cells)))])
    dataset = read(f"{header}\na.png,{','.join(cells)}\n", label_encoding=encoding)
    assert dataset.states.tolist() == [states]


def test_minus_one_is_never_guessed(read: Read) -> None:
    message = (
        r"line 3, column 'dog': -1 \(2 times in this column\) can mean negative or unknown; .*"
        "label_encoding: 1/0/blank, 1/-1/0, 1/0/-1, chexpert"
    )
    with pytest.raises(DataError, match=message):
        read("image,dog\na.png,1\nb.png,-1\nc.png,-1.0\n")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("image,dog\na.png,1\nb.png,maybe\n", {}, r"line 3, column 'dog': 'maybe' is not a label;"),
        ("image,dog\na.png,2\n", {"label_encoding": "1/0/-1"}, r"\(label_encoding is 1/0/-1\)"),
        ("image,id\na.png,x7\n", {}, "if this column is no label, name the label columns"),
        (WIDE, {"label_encoding": "0/1"}, "Unknown label encoding '0/1'. Choose one of"),
        (WIDE, {"unlabeled": "negative"}, "wide table, in which blanks are unknown; `unlab"),
        (WIDE, {"labels": ["cat", "dgo"]}, "has no label 'dgo'. Did you mean 'dog'"),
        (WIDE, {"labels": []}, "names no label; a wide table has one column per label"),
        (WIDE, {"split": "val"}, "has no column 'split' to choose 'val' from"),
        ("", {}, "is empty; a table needs a header"),
        ("\n \n", {}, "is empty; a table needs a header"),
        (",,,\n,,,\n", {}, "holds nothing but separators; a table needs a header"),
        (";;;", {}, "no column for the photo"),
        ("sep=;\n", {}, "holds nothing but separators"),
        ("sep=;\n;;\n", {}, "holds nothing but separators"),
        ("image,dog\n", {}, r"has no rows; a table needs at least one photo"),
        ("image\na.png\n", {}, "names no label"),
        ("dog,cat\n1,0\n", {}, r"no column for the photo; name it 'image'.*'dog', 'cat'"),
        ("image,dog,dog\na.png,1,0\n", {}, "has the column 'dog' more than once"),
        ("image,dog,\na.png,1,0\n", {}, "column 3 has no name"),
        ("image,dog\na.png,1\nb.png,1,0\n", {}, "line 3 has 3 cells, the header has 2"),
        ("image,dog,cat\na.png,1\n", {}, "line 2 has 2 cells, the header has 3"),
        ("image,dog\n,1\n", {}, "line 2: the photo is not named"),
        (b"image,dog\na.png,1\n\xe4.png,1\n", {}, "line 3 is not UTF-8"),
        (WIDE.encode("utf-16-le"), {}, "holds zero bytes; is it a spreadsheet file"),
        ('image,dog\na.png,1\nb.png,"1\nc.png,1\n', {}, "row that starts at line 3 is not CSV"),
        ("[" + "9," * 100_000 + "]", {}, "no column for the photo"),
        ("[" + "9" * 200_000 + "]", {}, "starts at line 1 is not CSV: field larger than"),
    ],
)
def test_a_table_that_cannot_be_used_says_where_and_why(
    read: Read, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(content, **options)


def test_a_table_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read the table .*t\.csv: No such file"):
        read_dataset(tmp_path / "t.csv")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that cannot be read")
def test_what_cannot_be_read_or_named_is_one_error(tmp_path: Path) -> None:
    for name in ("t.csv", "ds/dog/1.jpg", "voc/Annotations/1.xml", "model/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to("/proc/self/mem")
    (tmp_path / "model" / "model.safetensors").touch()
    for table in ("t.csv", "voc", "ds"):
        with pytest.raises(DataError, match=r"Cannot read .*: Input/output error\."):
            read_dataset(tmp_path / table, unlabeled="negative")
    with pytest.raises(ArtifactError, match=r"config\.json cannot be read: Input/output error\."):
        read_json(tmp_path / "model" / "config.json")
    with pytest.raises(DataError, match=r"Cannot read the table x{5000}: File name too long"):
        read_dataset("x" * 5_000)


def test_a_path_may_start_with_a_tilde(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read(WIDE, "~no such user.csv", images="~")) == 3
    write_dataset(read_dataset("~no such user.csv"), "~no such user.jsonl")
    assert len(read_dataset("~/~no such user.jsonl")) == 3
    with pytest.raises(DataError, match=r"Cannot read the table ~nobody\.csv: No such file"):
        read_dataset("~nobody.csv")
    with pytest.raises(DataError, match="photo folder ~nobody at all/photos does not exist"):
        read_dataset("~no such user.csv", images="~nobody at all/photos")


def test_labels_chooses_and_orders_the_columns_and_the_others_may_hold_anything(
    read: Read,
) -> None:
    content = "image,dog,notes,cat\na.png,1,blurred,0\nb.png,,,1\n"
    dataset = read(content, labels=["cat", "dog"])
    assert dataset.labels == ("cat", "dog")
    assert dataset.states.tolist() == [[N, P], [P, U]]


def test_names_may_be_of_any_script_and_hold_commas(read: Read) -> None:
    content = 'image,日本語,<b>,"car, red","a ""b"""\na.png,1,0,,1\n'
    dataset = read(content)
    assert dataset.labels == ("日本語", "<b>", "car, red", 'a "b"')
    assert dataset.states.tolist() == [[P, N, U, P]]


def test_rows_of_one_photo_are_joined_when_they_agree(read: Read, tmp_path: Path) -> None:
    dataset = read("image,dog,cat,cow\na.png,1,,0\nb.png,0,0,0\na.png,,0,0\n")
    assert dataset.photos == (tmp_path / "a.png", tmp_path / "b.png")
    assert dataset.states.tolist() == [[P, N, N], [N, N, N]]


def test_rows_of_one_photo_that_disagree_are_named(read: Read) -> None:
    message = r"lines 2 and 4 disagree about 'cat' in a\.png; keep one"
    with pytest.raises(DataError, match=message):
        read("image,dog,cat\na.png,1,1\nb.png,0,0\na.png,1,0\n")


def test_labels_are_a_list_of_names(read: Read) -> None:
    with pytest.raises(ConfigError, match="labels must be a list of names, got the text 'dog'"):
        read("image,dog\na.png,1\n", labels="dog")


def test_a_table_may_lack_labels_where_that_is_allowed(read: Read) -> None:
    # A wide table has no place for a bird; a list of positives would have named one.
    for content, options, bird in (
        ("image,dog\na.png,1\n", {}, U),
        (LIST, {"unlabeled": "unknown"}, U),
        (LIST, {"unlabeled": "negative"}, N),
    ):
        data = read(content, labels=["bird", "dog"], may_lack_labels=True, **options)
        assert data.states[0].tolist() == [bird, P]


def test_labels_that_a_list_never_names_are_what_the_user_said_of_them(read: Read) -> None:
    wide = read("image,dog,cat,cow,bird\na.png,1,1,0,0\nb.png,0,0,0,0\nc.png,0,1,1,0\n")
    listed = read(LIST, unlabeled="negative")
    assert listed.labels == ("dog", "cat", "cow")
    named = listed.naming(["bird", "cat"])
    assert named.labels == wide.labels
    assert named.states.tolist() == wide.states.tolist()
    assert named.interpretation.endswith("1 labels that it never names are negative.")
    aligned = listed.subset(np.array([2])).aligned_to(["bird", "cow"])
    assert aligned.states.tolist() == [[N, P]]
    # Not where nobody said so, or somebody has chosen the labels.
    for data in (
        read(LIST, unlabeled="unknown"),
        read(LIST, unlabeled="negative", labels=["dog"]),
        listed.with_labels(["dog"]),
        listed.hide_labels(0.5),
        wide,
    ):
        assert data.naming(["fox"]) is data
        assert data.aligned_to(["fox"]).states.tolist() == [[U]] * 3


def test_categories_that_coco_does_not_list_stay_unknown(read: Read) -> None:
    values = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    data = read(json.dumps(values), "t.json", unlabeled="negative")
    assert data.naming(["dog", "fox"]) is data
    options = {"unlabeled": "negative", "labels": ["fox", "cat"], "may_lack_labels": True}
    assert read(json.dumps(values), "t.json", **options).states.tolist() == [[U, N]]


def test_a_photo_of_which_nothing_is_known_says_nothing_of_other_labels(read: Read) -> None:
    tasks = [
        {"data": {"image": "a.png"}, "annotations": []},
        {
            "data": {"image": "b.png"},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": ["dog"]}}]}],
        },
    ]
    data = read(json.dumps(tasks), "t.json", unlabeled="negative").naming(["fox"])
    assert data.states.tolist() == [[U, U], [P, N]]


def test_only_rows_of_the_split_are_read(read: Read, tmp_path: Path) -> None:
    content = "image,split,dog\na.png,train,1\nb.png, val ,0\nmissing.png,train,maybe\n"
    dataset = read(content, split="val")
    assert dataset.photos == (tmp_path / "b.png",)
    assert dataset.labels == ("dog",)
    with pytest.raises(DataError, match=r"no row with split 'vla'\. Did you mean 'val'"):
        read(content, split="vla")


LIST = "image,labels\na.png,dog|cat\nb.png,\nc.png, cat | cow |\n"


@pytest.mark.parametrize(("unlabeled", "other"), [("unknown", U), ("negative", N)])
def test_what_a_list_leaves_out_is_what_the_user_says(
    read: Read, unlabeled: str, other: int
) -> None:
    dataset = read(LIST, unlabeled=unlabeled)
    assert dataset.labels == ("dog", "cat", "cow")
    assert dataset.states.tolist() == [[P, P, other], [other] * 3, [other, P, P]]
    assert dataset.interpretation.endswith(f"not listed is {unlabeled}.")


@pytest.mark.parametrize(
    ("content", "options", "labels"),
    [
        ("image,dog,tags\na.png,1,0\nb.png,,1\n", {}, {"dog": [P, U], "tags": [N, P]}),
        ("image,label\na.png,1\nb.png,0\n", {}, {"label": [P, N]}),
        (
            "image,label\na.png,1\nb.png,0\n",
            {"unlabeled": "negative"},
            {"1": [P, N], "0": [N, P]},
        ),
        (
            "image,tags,by\na.png,dog,Jo\nb.png,,Al\n",
            {"unlabeled": "negative", "labels": ["dog"]},
            {"dog": [P, N]},
        ),
        (
            "image,dog,tags\na.png,1,blurred\nb.png,0,\n",
            {"labels": ["dog"]},
            {"dog": [P, N]},
        ),
    ],
)
def test_a_form_is_told_by_the_cells_where_the_name_of_a_column_could_mean_two(
    read: Read, content: str, options: dict[str, Any], labels: dict[str, list[int]]
) -> None:
    dataset = read(content, **options)
    assert dataset.labels == tuple(labels)
    assert dataset.states.T.tolist() == list(labels.values())


def test_rows_of_a_list_are_joined_when_what_they_leave_out_is_unknown(read: Read) -> None:
    content = "image,tags\na.png,dog|cat\na.png,cow\n"
    assert read(content, unlabeled="unknown").states.tolist() == [[P, P, P]]
    with pytest.raises(DataError, match="lines 2 and 3 disagree about 'cat'"):
        read(content, unlabeled="negative")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (LIST, {}, "lists positive labels only. Say what a label that is not listed means"),
        (LIST, {"unlabeled": "unknown", "label_encoding": "1/0/-1"}, "`label_encoding` does not"),
        (LIST, {"unlabeled": "unknown", "labels": ["cta"]}, "no label 'cta'. Did you mean 'cat'"),
        ('image,labels\na.png,"dog,cat"\n', {"unlabeled": "unknown"}, r"separated by '\|', as in"),
        ("image,labels\na.png,\n", {"unlabeled": "unknown"}, "names no label"),
        ("image,tags,dog\na.png,1,1\n", {"unlabeled": "unknown"}, "is a wide table, in which bl"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(
    read: Read, content: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(content, **options)


def test_jsonl_states_three_things(read: Read) -> None:
    content = jsonl(
        {"image": "a.png", "positive": ["dog"], "negative": ["日本語", "<b>"]},
        {"image": "b.png", "positive": ["日本語"]},
    )
    dataset = read("\ufeff" + content.replace("\n", "\r\n\r\n"), "t.jsonl")
    assert dataset.labels == ("dog", "日本語", "<b>")
    assert dataset.states.tolist() == [[P, N, N], [U, P, U]]
    closed = read(content, "t.ndjson", unlabeled="negative")
    assert closed.states.tolist() == [[P, N, N], [N, P, N]]


def test_a_line_separator_of_unicode_inside_json_ends_no_line(read: Read) -> None:
    content = '{"image": "a.png", "positive": ["dog\u2028cat", "a\u2029b"], "negative": []}\n'
    assert read(content, "t.jsonl").labels == ("dog\u2028cat", "a\u2029b")
    with pytest.raises(DataError, match=r"'a\\x85b' cannot be a label"):
        read('{"image": "a.png", "positive": ["a\x85b"], "negative": []}\n', "t.jsonl")


def test_jsonl_takes_the_split_and_the_labels_that_are_asked_for(read: Read) -> None:
    content = jsonl(
        {"image": "a.png", "split": "train", "positive": ["dog"], "negative": []},
        {"image": "b.png", "split": "val", "positive": ["dog", "cow"], "negative": ["cat"]},
    )
    dataset = read(content, "t.jsonl", split="val", labels=["cat", "dog"])
    assert dataset.states.tolist() == [[N, P]]
    with pytest.raises(DataError, match="has no rows with split 'test'"):
        read(content, "t.jsonl", split="test")


def test_every_split_has_the_labels_of_the_whole_table(read: Read) -> None:
    content = "image,split,labels\na.png,train,dog\nb.png,val,cat|cow\n"
    listed = [read(content, split=split, unlabeled="unknown") for split in ("train", "val")]
    assert {dataset.labels for dataset in listed} == {("dog", "cat", "cow")}
    content = jsonl(
        {"image": "a.png", "split": "train", "positive": ["dog"]},
        {"image": "b.png", "split": "val", "negative": ["cat"]},
    )
    stated = [read(content, "t.jsonl", split=split) for split in ("train", "val")]
    assert [dataset.states.tolist() for dataset in stated] == [[[P, U]], [[U, N]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image": "a.png"}\n{"image', r"t\.jsonl, line 2 is not JSON"),
        ("[" * 100_000, r"t\.jsonl, line 1 is not JSON"),
        ('["a.png"]', r"line 1 must be an object with \"image\""),
        ('\n{"positive": ["dog"]}', r"line 2 must be an object with \"image\""),
        ('{"image": 5}', r"line 1 must be an object with \"image\""),
        ('{"image": "a.png", "positve": []}', "unknown key 'positve'. Did you mean 'positive'"),
        ('{"image": "a.png", "positive": "dog"}', "'positive' must be a list of label names"),
        ('{"image": "a.png", "negative": [5]}', "'negative' must be a list of label names"),
        ('{"image": "a.png", "positive": ["d"], "negative": ["d"]}', "'d' is both positive and n"),
        ('{"image": "a.png", "positive": ["d"]}', "lists positive labels only. Say what"),
    ],
)
def test_jsonl_that_cannot_be_used_says_where_and_why(
    read: Read, content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(content, "t.jsonl")


def test_all_missing_and_empty_photos_are_named_at_once(read: Read, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"")
    names = ["a.png", "b.png", *(f"no{i}.png" for i in range(13))]
    with pytest.raises(DataError) as caught:
        read("image,dog\n" + "".join(f"{name},1\n" for name in names))
    listed = ", ".join(names[2:12])
    assert f"13 of 15 photos not found: {listed} … and 3 more; " in str(caught.value)
    assert f"1 photos are empty (0 bytes): b.png. Looked in {tmp_path}; name another" in str(
        caught.value
    )


def test_rows_of_single_photos_that_are_gone_can_be_removed(read: Read) -> None:
    with pytest.raises(
        DataError, match=r"1 of 3 photos not found: no\.png\. .*; remove the rows of"
    ):
        read("image,dog\na.png,1\nb.png,1\nno.png,0\n")


def test_photos_are_looked_for_in_their_folder_and_then_beside_the_table(
    read: Read, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"another")
    dataset = read(f"image,dog\na.png,1\nb.png,1\n{tmp_path / 'c.png'},1\n", images=images)
    assert dataset.photos == (images / "a.png", tmp_path / "b.png", tmp_path / "c.png")
    with pytest.raises(DataError, match=r"photo folder .*nowhere does not exist"):
        read(WIDE, images=tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"not found: d\.png\. Looked in {images} and {tmp_path}"):
        read("image,dog\nd.png,1\n", images=images)


def test_the_same_path_written_in_two_ways_is_one_photo(read: Read) -> None:
    with pytest.raises(DataError, match="lines 2 and 3 disagree about 'red'"):
        read("image,red\na.png,1\n./a.png,0\n")


@pytest.mark.parametrize("other", ["a", "sub/../a.png", "{folder}/a.png", "link.png"])
def test_two_names_that_lead_to_one_file_are_one_photo(
    read: Read, tmp_path: Path, other: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    name = other.format(folder=tmp_path)
    dataset = read(f"image,red,blue\na.png,1,\nb.png,0,1\n{name},1,0\n")
    assert dataset.photos == (tmp_path / "a.png", tmp_path / "b.png")
    assert dataset.states.tolist() == [[P, N], [N, P]]
    with pytest.raises(DataError) as caught:
        read(f"image,red\na.png,1\n{name},0\n")
    assert f"lines 2 and 3 disagree about 'red' in a.png = {name}; keep one" in str(caught.value)


def test_a_split_that_is_not_asked_for_is_counted(read: Read) -> None:
    content = "image,split,dog\na.png,train,1\nb.png,train,0\nc.png,,1\n"
    said = "All rows are taken, whatever their column 'split' says (blank 1, train 2)."
    assert said in read(content).interpretation
    assert "split" not in read(content, split="train").interpretation
