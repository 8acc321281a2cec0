from pathlib import Path

import pandas
import pytest

from trmml.data.readers.tables import read_dataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE as N
from trmml.labels import POSITIVE as P


def files(folder: Path, *names: str) -> Path:
    """Put files of some names below a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no reader decodes it")
    return folder


@pytest.mark.parametrize(
    ("named", "file", "way"),
    [
        (r"sub\1.jpg", "sub/1.jpg", r"1 with / for \ ('sub\\1.jpg' is 1.jpg)"),
        (r".\deep\er\1.jpg", "deep/er/1.jpg", "with / for"),
        (r"C:\Users\me\photos\1.jpg", "1.jpg", "without the folders of another machine"),
        (r"D:\data\set\sub\1.JPG", "sub/1.jpg", "another ending or other capitals"),
        ("/home/me/sub/1.jpg", "sub/1.jpg", "without the folders of another machine"),
        ("photo", "photo.jpg", "1 with an ending ('photo' is photo.jpg)"),
        ("photo", "photo.TIFF", "1 with an ending"),
        ("v1.2", "v1.2.png", "1 with an ending"),
        ("photo.png", "photo.jpg", "another ending or other capitals ('photo.png' is photo.jpg)"),
        ("photo.jpg", "photo.JPG", "another ending or other capitals"),
        ("Sub/Photo.jpeg", "sub/photo.jpg", "another ending or other capitals"),
        ("café.png", "cafe\u0301.jpg", "another ending or other capitals"),
        ("17", "000017.jpg", "1 by its number, written otherwise ('17' is 000017.jpg)"),
        ("17.0", "17.png", "by its number, written otherwise"),
        ("sub/0017.png", "sub/17.jpg", "by its number, written otherwise"),
    ],
)
def test_a_photo_of_nearly_that_name_is_found_and_said(
    tmp_path: Path, named: str, file: str, way: str
) -> None:
    photos = files(tmp_path / "photos", file, "other.png")
    (tmp_path / "t.csv").write_text(f"image,dog\n{named},1\nother.png,0\n")
    found = read_dataset(tmp_path / "t.csv", images=photos)
    assert found.photos == (photos / file, photos / "other.png")
    assert found.states.tolist() == [[P], [N]]
    assert "Photos found by another name than the table has: 1 " in found.interpretation
    assert way in found.interpretation


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("photo", ("photo.jpg", "photo.png")),
        ("photo.gif", ("photo.jpg", "photo.JPEG")),
        ("17", ("0017.jpg", "017.jpg")),
        (r"sub\x.bmp", ("sub/x.jpg", "sub/X.png")),
    ],
)
def test_a_name_that_may_be_one_of_two_files_is_asked_for(
    tmp_path: Path, named: str, there: tuple[str, ...]
) -> None:
    files(tmp_path, *there)
    (tmp_path / "t.csv").write_text(f"image,dog\n{named},1\n")
    with pytest.raises(DataError, match="1 of 1 photos not found") as caught:
        read_dataset(tmp_path / "t.csv")
    assert f"{named!r} may be {' or '.join(sorted(there))}: say which." in str(caught.value)


@pytest.mark.parametrize(
    ("named", "near"), [("img_0001.jpg", "img_00l.jpg"), ("train/b.png", "val/b.png")]
)
def test_the_nearest_file_is_named_where_none_is_meant(
    tmp_path: Path, named: str, near: str
) -> None:
    files(tmp_path, near, "something/else.jpg")
    (tmp_path / "t.csv").write_text(f"image,dog\n{named},1\n")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / "t.csv")
    assert f"The file nearest to {named!r} is {near!r}. Looked in" in str(caught.value)


def test_two_photos_are_not_found_in_one_file(tmp_path: Path) -> None:
    files(tmp_path, "1.jpg")
    (tmp_path / "t.csv").write_text("image,dog\n1.jpg,1\n1.png,1\n")
    with pytest.raises(DataError, match=r"name 1\.jpg and 1\.png, and for both there is only"):
        read_dataset(tmp_path / "t.csv")


@pytest.mark.parametrize("ids", [[7, 12], [7.0, 12.0]])
def test_numbers_of_a_frame_name_photos(tmp_path: Path, ids: list[float]) -> None:
    files(tmp_path, "0007.jpg", "0012.jpg")
    table = pandas.DataFrame({"image": ids, "dog": [1, 0]})
    lists = pandas.DataFrame({"image": ids, "labels": [["dog"], []]})
    wide = read_dataset(table, images=tmp_path)
    listed = read_dataset(lists, images=tmp_path, unlabeled="negative")
    for found in (wide, listed):
        assert [photo.name for photo in found.photos] == ["0007.jpg", "0012.jpg"]
        assert found.states.tolist() == [[P], [N]]


def test_of_photos_that_have_their_names_nothing_is_said(tmp_path: Path) -> None:
    files(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("image,dog\na.png,1\n")
    assert "another name" not in read_dataset(tmp_path / "t.csv").interpretation
