"""Folders of photos as archives, network disks and other programs leave them."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trmml.data.dataset import MultiLabelDataset
from trmml.data.finding import find_photos
from trmml.data.readers.folders import is_without_labels
from trmml.data.readers.tables import read_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a maker of files below one folder; each photo has other bytes."""

    def write(*names: str, text: str | None = None) -> Path:
        for name in names:
            path = tmp_path / "ds" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text or f"the photo {name}")
        return tmp_path / "ds"

    return write


def positives(data: MultiLabelDataset) -> dict[str, list[str]]:
    return {
        path.name: [n for n, state in zip(data.labels, row, strict=True) if state == P]
        for path, row in zip(data.photos, data.states, strict=True)
    }


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "test"), ("dev", "valid")])
def test_folders_of_splits_are_splits(make: Make, names: tuple[str, str]) -> None:
    first, second = names
    folder = make(f"{first}/dog/1.jpg", f"{first}/cat/2.jpg", f"{second}/dog/3.jpg")
    data = read_dataset(folder, unlabeled="negative")
    assert data.labels == ("cat", "dog")
    assert positives(data) == {"1.jpg": ["dog"], "2.jpg": ["cat"], "3.jpg": ["dog"]}
    assert f"whatever their split ({first} 2, {second} 1)" in data.interpretation
    part = read_dataset(folder, split=second, unlabeled="negative")
    assert part.labels == ("cat", "dog")  # as in a table, of all splits
    assert positives(part) == {"3.jpg": ["dog"]}
    with pytest.raises(DataError, match=rf"no split 'tset'.* Known: {first}, {second}"):
        read_dataset(folder, split="tset", unlabeled="negative")


def test_a_train_may_be_a_label(make: Make) -> None:
    folder = make("train/1.jpg", "bus/2.jpg")
    assert read_dataset(folder, unlabeled="negative").labels == ("bus", "train")
    folder = make("train/steam/3.jpg")
    with pytest.raises(DataError, match=r"train look like splits, and bus does not; .*`labels`"):
        read_dataset(folder, unlabeled="negative")
    data = read_dataset(folder, unlabeled="negative", labels=["train", "bus"])
    assert positives(data) == {"1.jpg": ["train"], "2.jpg": ["bus"], "3.jpg": ["train"]}


@pytest.mark.parametrize("wrapper", ["ds-v2", "images", "a/b"])
def test_one_folder_around_all_is_no_label(make: Make, wrapper: str) -> None:
    folder = make(f"{wrapper}/dog/1.jpg", f"{wrapper}/cat/2.jpg", "__MACOSX/ds-v2/dog/._1.jpg")
    data = read_dataset(folder, unlabeled="negative")
    assert positives(data) == {"2.jpg": ["cat"], "1.jpg": ["dog"]}
    assert f"in the one folder {wrapper.split('/')[0]!r}, which is no label" in data.interpretation
    within = read_dataset(make("more/one/3.jpg") / "more", unlabeled="negative")
    assert within.labels == ("one",)


def test_what_systems_put_into_folders_is_left_out_and_named(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(
        "dog/1.jpg", "dog/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg", "dog/._1.jpg", "cat/@home.jpg"
    )
    make("@eaDir/x.jpg", "__MACOSX/dog/2.jpg", "$RECYCLE.BIN/3.jpg")
    with caplog.at_level(logging.WARNING):
        data = read_dataset(folder, unlabeled="negative")
    assert positives(data) == {"@home.jpg": ["cat"], "1.jpg": ["dog"]}
    said = "5 files of systems are left out ($RECYCLE.BIN 1, @eaDir 2, __MACOSX 1, hidden 1)."
    assert said in data.interpretation
    assert "dog: 2 files of systems are left out (@eaDir 1, hidden 1)." in caplog.text
    assert find_photos(folder / "cat") == [folder / "cat/@home.jpg"]


def test_what_systems_put_beside_vocs_files_is_counted(make: Make) -> None:
    folder = make("JPEGImages/1.jpg", "Annotations/._1.xml", "Annotations/@eaDir/1.xml")
    xml = "<annotation><filename>1.jpg</filename><object><name>dog</name></object></annotation>"
    (folder / "Annotations/1.xml").write_text(xml)
    data = read_dataset(folder, unlabeled="negative")
    assert positives(data) == {"1.jpg": ["dog"]}
    assert "2 files of systems are left out (@eaDir 1, hidden 1)." in data.interpretation
    assert (
        "of systems"
        not in read_dataset(make("a/cat/3.jpg") / "a", unlabeled="negative").interpretation
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/images/1.jpg", "train/labels/1.txt", "valid/images/2.jpg"], "as for YOLO"),
        (["images/train/1.jpg", "labels/train/1.txt"], "as for YOLO, which is not read"),
        (["train/1.jpg", "train/_classes.csv", "valid/2.jpg"], r"the table _classes\.csv; pass"),
        (["train/1.jpg", "test/2.jpg"], "test holds no table and no folders"),
        (["images/1.jpg", "labels.csv"], r"no folder per label; it holds the table labels\.csv"),
        (["photos/1.jpg"], "no folder per label; pass the table with their labels"),
        (["1.jpg", "_annotations.coco.json"], r"holds the table _annotations\.coco\.json; pass"),
        (["VOC2007/Annotations/1.xml", "VOC2012/Annotations/1.xml"], "VOC2007, VOC2012 hold VOC's"),
    ],
)
def test_folders_that_are_no_labels_are_refused(make: Make, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_dataset(make(*names), unlabeled="negative")


def test_copies_in_two_folders_have_both_labels_whatever_they_are_called(make: Make) -> None:
    folder = make("dog/1.jpg", "dog/2.jpg")
    (folder / "cat").mkdir()
    shutil.copy(folder / "dog" / "1.jpg", folder / "cat" / "copy of 1.jpg")
    shutil.copy(folder / "dog" / "2.jpg", folder / "dog" / "2 (1).jpg")
    data = read_dataset(folder, unlabeled="negative")
    assert sorted(data.states.tolist()) == [[N, P], [P, P]]
    assert data.interpretation.endswith("2 files are copies of others.")


XML = "<annotation><filename>{}</filename>{}</annotation>"
OBJECT = "<object><name>{}</name><difficult>{}</difficult></object>"


def test_voc_in_a_wrapper_in_splits_and_with_files_of_the_system(make: Make) -> None:
    for split, label in (("train", "dog"), ("valid", "cat")):
        make(f"{split}/1.jpg")
        make(f"{split}/1.xml", text=XML.format("1.jpg", OBJECT.format(label, 0)))
        folder = make(f"{split}/._1.xml", text="\0\0")
    data = read_dataset(folder, unlabeled="negative")
    assert data.labels == ("cat", "dog")
    assert data.states.tolist() == [[N, P], [P, N]]
    assert read_dataset(folder, split="valid", unlabeled="negative").states.tolist() == [[P, N]]
    shutil.rmtree(folder)
    make("VOC2007/JPEGImages/1.jpg", "VOC2007/Annotations/._1.xml")
    make("VOC2007/Annotations/1.xml", text=XML.format("1.jpg", OBJECT.format("dog", 0)))
    assert positives(read_dataset(folder, unlabeled="negative")) == {"1.jpg": ["dog"]}


def test_annotations_in_folders_of_annotations_are_read(make: Make) -> None:
    make("JPEGImages/1.jpg", "JPEGImages/more/1.jpg", "JPEGImages/2.jpg")
    for name, label in (("1", "dog"), ("more/1", "cat"), ("more/2", "cow")):
        text = XML.format(f"{name[-1]}.jpg", OBJECT.format(label, 0))
        folder = make(f"Annotations/{name}.xml", text=text)
    data = read_dataset(folder, unlabeled="negative")
    places = [path.relative_to(folder / "JPEGImages").as_posix() for path in data.photos]
    labels = [data.labels[row.tolist().index(P)] for row in data.states]
    assert list(zip(places, labels, strict=True)) == [
        ("1.jpg", "dog"), ("more/1.jpg", "cat"), ("2.jpg", "cow"),
    ]  # fmt: skip


def test_files_that_all_name_one_photo_are_each_of_their_own(make: Make) -> None:
    for name, label in (("im0", "dog"), ("im1", "cat"), ("im2", "cow")):
        make(f"JPEGImages/{name}.jpg")
        text = XML.format("im0.jpg", OBJECT.format(label, 0))
        folder = make(f"Annotations/{name}.xml", text=text)
    data = read_dataset(folder, unlabeled="negative")
    assert positives(data) == {"im0.jpg": ["dog"], "im1.jpg": ["cat"], "im2.jpg": ["cow"]}
    assert "2 files name the photo of another file; theirs is the one" in data.interpretation


def test_files_of_one_photo_that_disagree_are_named(make: Make) -> None:
    make("1.jpg")
    for name, label in (("a", "dog"), ("b", "cat")):
        text = XML.format("1.jpg", OBJECT.format(label, 0))
        folder = make(f"Annotations/{name}/1.xml", text=text)
    message = (
        r"files a/1\.xml and b/1\.xml name JPEGImages/a/1\.jpg and JPEGImages/b/1\.jpg, and for"
    )
    with pytest.raises(DataError, match=message):
        read_dataset(folder, unlabeled="negative")


@pytest.mark.parametrize(
    ("cell", "state"),
    [("True", U), ("yes", U), (" 1 ", U), ("False", P), ("", P), ("0", P), ("Unspecified", P)],
)
def test_difficult_is_a_word_as_well(make: Make, cell: str, state: int) -> None:
    make("JPEGImages/1.jpg")
    text = XML.format("1.jpg", OBJECT.format("dog", cell))
    folder = make("Annotations/1.xml", text=text)
    assert read_dataset(folder, unlabeled="negative").states.tolist() == [[state]]
    make("Annotations/1.xml", text=text.replace("ult>" + cell, "ult>perhaps"))
    with pytest.raises(DataError, match=r"1\.xml: an object 'dog' is difficult 'perhaps'; write 1"):
        read_dataset(folder, unlabeled="negative")


def test_photos_in_a_list_of_a_split_may_have_blanks_and_endings(make: Make) -> None:
    for name in ("my dog", "a", "b", "c"):
        make(f"JPEGImages/{name}.jpg")
        make(f"Annotations/{name}.xml", text=XML.format(f"{name}.jpg", OBJECT.format("dog", 0)))
    folder = make("ImageSets/Main/train.txt", text="\ufeffmy dog\r\na.jpg\nb  1\n\n")
    data = read_dataset(folder, split="train", unlabeled="negative")
    assert [path.stem for path in data.photos] == ["my dog", "a", "b"]
    make("ImageSets/Main/train.txt", text="your dog\n")
    with pytest.raises(DataError, match=r"Cannot read .*your dog\.xml"):
        read_dataset(folder, split="train", unlabeled="negative")


def test_photos_of_rarer_endings_and_behind_links_are_found(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a.jpg", "b.jfif", "c.jpe", "d.ppm", "e.jp2", "g.mpo", "i.dib", "j.pgm", "k.APNG"]
    folder = make(*names, "l.jxl", "m.svg", "notes.txt")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.jpg").write_text("z")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "twice").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    with caplog.at_level(logging.WARNING):
        found = find_photos(folder)
    assert [path.relative_to(folder).as_posix() for path in found] == [*names, "link/z.jpg"]
    assert "2 pictures in" in caplog.text
    assert ".jxl, .svg cannot be read" in caplog.text


def test_photos_of_which_nothing_is_known(make: Make) -> None:
    folder = make("a.jpg", "2019/b.png", "2019/Rome/c.jpg", ".trash/d.jpg", "2019/notes.md")
    data = read_dataset(folder, format="photos", labels=["dog", "cat"])
    assert [path.relative_to(folder).as_posix() for path in data.photos] == [
        "2019/Rome/c.jpg", "2019/b.png", "a.jpg"
    ]  # fmt: skip
    assert data.labels == ("dog", "cat")
    assert (data.states == U).all()
    assert "nothing is known of them yet" in data.interpretation
    for settings, message in (
        ({}, r"name the labels to ask about in `labels` \(--labels dog,cat\)"),
        ({"labels": ["dog"], "split": "val"}, "`split` and `unlabeled` do not apply"),
        ({"labels": ["dog"], "unlabeled": "negative"}, "`split` and `unlabeled` do not apply"),
        ({"labels": ["dog"], "label_encoding": "1/0/blank"}, "`label_encoding` does not apply"),
    ):
        with pytest.raises(DataError, match=message):
            read_dataset(folder, format="photos", **settings)
    with pytest.raises(
        DataError, match=r"or 'photos' with labels \(--labels\) if nothing is known"
    ):
        read_dataset(make("flat/e.jpg") / "flat", unlabeled="negative")
    with pytest.raises(DataError, match=r"format='photos' is for a folder"):
        read_dataset(folder / "2019/notes.md", format="photos", labels=["dog"])


def test_a_folder_is_photos_alone_unless_something_in_it_says_more(make: Make) -> None:
    folder = make("2019/a.jpg", "2020/dogs/b.jpg")
    assert is_without_labels(folder, ["dog", "cat"])
    assert not is_without_labels(folder, ["dogs"])
    assert not is_without_labels(make("labels.csv"), ["dog"])
