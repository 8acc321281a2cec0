import logging
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sidecar_forms import DARKTABLE, DIGIKAM, EXIFTOOL, LIGHTROOM, PROGRAMS, with_list

from trmml.data.libraries.keywords import (
    Keywords,
    embedded,
    left_out,
    read_keywords,
    sidecars_of,
)
from trmml.data.libraries.xmp import MAX_DEPTH, MAX_ELEMENTS, MAX_XMP_BYTES, parse_xmp
from trmml.data.readers.tables import read_dataset
from trmml.errors import ConfigError, DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN


def photo(path: Path, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (200, 30, 30)).save(path, **settings)
    return path


def named(*subjects: str) -> bytes:
    items = "".join(f"<r:li>{name}</r:li>" for name in subjects)
    return with_list(f"<dc:subject><r:Bag>{items}</r:Bag></dc:subject>")


@pytest.mark.parametrize(
    ("form", "names", "paths"),
    [
        (
            "lightroom",
            ("Anna", "People", "animals", "dog", "Rome"),
            ("Rome", "People|Anna", "animals|dog"),
        ),
        ("digikam", ("cat", "Jürgen"), ("animals|cat", "Menschen|Jürgen")),
        ("darktable", ("bicycle",), ("things|bicycle",)),
        ("exiftool", ("boat", "Bo"), ("boat", "Bo")),
        ("rated", (), ()),
    ],
)
def test_each_programs_sidecar_is_read(
    tmp_path: Path, form: str, names: tuple[str, ...], paths: tuple[str, ...]
) -> None:
    picture = photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.xmp").write_bytes(PROGRAMS[form])
    found = read_keywords(picture)
    assert found.names == names
    assert found.whole_paths == paths
    assert found.problems == ()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "png"])
def test_keywords_in_the_photo_itself_are_read(tmp_path: Path, suffix: str) -> None:
    settings: dict[str, object] = {"xmp": DIGIKAM}
    if suffix == "png":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", DIGIKAM.decode())
        settings = {"pnginfo": text}
    if suffix == "tif":
        settings = {"tiffinfo": {700: DIGIKAM}}
    picture = photo(tmp_path / f"a.{suffix}", **settings)
    assert embedded(picture).names == ("cat", "Jürgen")
    assert read_keywords(picture).people == {"Jürgen"}


def test_the_xmp_of_a_png_is_found_behind_its_pixels_and_unpacked(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png")
    data = picture.read_bytes()
    body = b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(named("owl"))
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    picture.write_bytes(data[:-12] + chunk + data[-12:])
    assert embedded(picture).names == ("owl",)


def iptc_photo(path: Path, *datasets: tuple[int, int, bytes]) -> Path:
    fields = b"".join(
        bytes((0x1C, record, number)) + len(value).to_bytes(2, "big") + value
        for record, number, value in datasets
    )
    block = (
        b"8BIM\x04\x04\0\0" + len(fields).to_bytes(4, "big") + fields + b"\0" * (len(fields) % 2)
    )
    segment = b"Photoshop 3.0\0" + block
    picture = photo(path)
    data = picture.read_bytes()
    head = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment
    picture.write_bytes(data[:2] + head + data[2:])
    return picture


def test_iptc_keywords_are_read_in_the_encodings_that_there_are(tmp_path: Path) -> None:
    utf8 = iptc_photo(
        tmp_path / "a.jpg",
        *((1, 90, b"\x1b%G"), (2, 25, "Größe".encode()), (2, 25, b"animals|dog"), (2, 90, b"Rome")),
    )
    assert read_keywords(utf8) == Keywords(("Größe", "animals|dog"), places=frozenset({"Rome"}))
    old = iptc_photo(tmp_path / "b.jpg", (2, 25, "Größe".encode("cp1252")))
    assert read_keywords(old).paths == ("Größe",)


def test_photo_and_both_sidecars_are_taken_together(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg", xmp=named("in it"))
    (tmp_path / "a.jpg.xmp").write_bytes(named("beside it", "in it"))
    (tmp_path / "a.xmp").write_bytes(named("by its stem"))
    (tmp_path / "b.xmp").write_bytes(named("another photo"))
    assert [path.name for path in sidecars_of(picture)] == ["a.jpg.xmp", "a.xmp"]
    assert read_keywords(picture).paths == ("in it", "beside it", "by its stem")


def test_people_and_places_are_left_out_by_field_by_list_and_by_hierarchy(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_bytes(LIGHTROOM)
    found = read_keywords(picture)
    assert left_out(found, ["people"]).paths == ("animals", "dog", "Rome", "animals|dog")
    assert left_out(found, ["@places"]).names == ("Anna", "People", "animals", "dog")
    assert left_out(found, ["animals|dog"]).names == ("Anna", "People", "Rome")
    sidecar.write_bytes(DIGIKAM)
    assert left_out(read_keywords(picture), ["@people"]).names == ("cat",)
    sidecar.write_bytes(EXIFTOOL)
    assert left_out(read_keywords(picture), ["@people"]).names == ("boat",)
    assert left_out(read_keywords(picture), ["BOAT"]).names == ("Bo",)


ATTACKS = {
    "entities": (
        b'<!DOCTYPE x [<!ENTITY a "dog"><!ENTITY b "&a;&a;&a;&a;">]>' + named("&amp;b;"),
        "has a document type or entities",
    ),
    "file": (
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + named("x"),
        "has a document type or entities",
    ),
    "utf-16": (
        ('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x>' + named("x").decode()).encode(
            "utf-16"
        ),
        "has a document type or entities",
    ),
    "unknown entity": (named("&dog;"), "is not XML"),
    "cut": (named("dog")[:-20], "is not XML"),
    "text": (b"dog", "is not XML"),
    "nothing": (b"", "is not XML"),
    "html": (b"<html><body/></html>", "no rdf:RDF"),
    "encoding": (b'<?xml version="1.0" encoding="klingon"?>' + named("x"), "encoding"),
    "deep": (b"<a>" * (MAX_DEPTH + 1), "nested deeper"),
    "many": (named(*["x"] * 2001), "more than 2000 keywords"),
    "crowded": (b"<a>" + b"<b/>" * (MAX_ELEMENTS + 1) + b"</a>", "more than 200000 elements"),
    "large": (named("dog") + b" " * MAX_XMP_BYTES, "larger than 16 MiB"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_xml_is_refused_and_costs_only_its_own_keywords(
    tmp_path: Path, attack: str
) -> None:
    content, reason = ATTACKS[attack]
    with pytest.raises(DataError, match=reason):
        parse_xmp(content, "a.jpg.xmp")
    with pytest.raises(DataError, match=r"^a\.jpg\.xmp [^.]*\.?[^.]*\.$"):
        parse_xmp(content, "a.jpg.xmp")
    picture = photo(tmp_path / "a.jpg", xmp=named("dog"))
    (tmp_path / "a.jpg.xmp").write_bytes(content)
    found = read_keywords(picture)
    assert found.paths == ("dog",)
    assert len(found.problems) == 1
    assert str(tmp_path / "a.jpg.xmp") in found.problems[0]


def test_xmp_in_utf_16_is_read(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    text = '<?xml version="1.0" encoding="UTF-16"?>' + LIGHTROOM.decode()
    (tmp_path / "a.jpg.xmp").write_bytes(text.encode("utf-16"))
    assert "dog" in read_keywords(picture).names


def test_a_damaged_photo_has_no_keywords(tmp_path: Path) -> None:
    for name, content in (
        ("a.jpg", b"\xff\xd8\xff"),
        ("b.png", b"\x89PNG\r\n\x1a\n\0\0\0\x20iTXtXML:com.adobe.xmp\0"),
        ("c.tif", b"II*\0\xff\xff\xff\xff"),
        ("d.jpg", b"no photo"),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_keywords(tmp_path / name) == Keywords()


def library(folder: Path) -> Path:
    photo(folder / "a.jpg")
    (folder / "a.jpg.xmp").write_bytes(LIGHTROOM)
    photo(folder / "trip/b.jpg", xmp=DARKTABLE)
    photo(folder / "trip/c 'x'\n\"y\".png")
    return folder


def test_a_library_is_a_data_set_of_positives_with_all_else_unknown(tmp_path: Path) -> None:
    dataset = read_dataset(library(tmp_path), format="keywords", leave_out=["People", "@places"])
    assert dataset.labels == ("animals", "bicycle", "dog")
    assert [p.relative_to(tmp_path).as_posix() for p in dataset.photos] == [
        "a.jpg", "trip/b.jpg", "trip/c 'x'\n\"y\".png",
    ]  # fmt: skip
    assert dataset.states.tolist() == [
        [POSITIVE, UNKNOWN, POSITIVE],
        [UNKNOWN, POSITIVE, UNKNOWN],
        [UNKNOWN, UNKNOWN, UNKNOWN],
    ]
    assert dataset.interpretation == (
        "Keywords: those that a photo or a sidecar of it has are positive, all others unknown; of "
        "hierarchies the last part is the label. 1 of 3 photos have none. 4 keywords (4 times) are left "
        "out, as wanted."
    )


def test_hierarchies_may_be_labels_as_a_whole(tmp_path: Path) -> None:
    dataset = read_dataset(library(tmp_path), format="keywords", hierarchy="path")
    assert dataset.labels == ("People|Anna", "Rome", "animals|dog", "things|bicycle")


def test_whoever_says_so_takes_what_is_missing_for_absent(tmp_path: Path) -> None:
    dataset = read_dataset(library(tmp_path), format="keywords", unlabeled="negative")
    assert set(dataset.states[2].tolist()) == {NEGATIVE}


def test_a_bad_sidecar_is_named_and_stops_nothing(tmp_path: Path) -> None:
    library(tmp_path)
    (tmp_path / "trip/b.jpg.xmp").write_bytes(b"<!DOCTYPE x>" + named("x"))
    (tmp_path / "trip/b.xmp").write_bytes(named("good&#10;evil", "fine"))
    dataset = read_dataset(tmp_path, format="keywords")
    assert "fine" in dataset.labels
    assert "1 keywords hold line ends" in dataset.interpretation
    assert (
        f"1 sidecars or photos cannot be read and say nothing: {tmp_path / 'trip/b.jpg.xmp'} has a "
        "document type or entities; such XML is not read."
    ) in dataset.interpretation


def test_what_cannot_be_a_library_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no photo"):
        read_dataset(tmp_path, format="keywords")
    picture = photo(tmp_path / "a.jpg")
    with pytest.raises(
        DataError, match="none of its 1 photos has a keyword, in it or in a sidecar"
    ):
        read_dataset(tmp_path, format="keywords")
    with pytest.raises(DataError, match="is for a folder"):
        read_dataset(picture, format="keywords")
    with pytest.raises(ConfigError, match="go with format='keywords'"):
        read_dataset(tmp_path, leave_out=["People"])
    with pytest.raises(ConfigError, match="leave_out must be a list"):
        read_dataset(tmp_path, format="keywords", leave_out="People")


def test_a_sidecar_is_no_photo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = read_dataset(library(tmp_path), format="keywords")
    assert len(dataset) == 3
    assert caplog.text == ""


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_what_exiftool_writes_into_a_photo_is_read(tmp_path: Path, suffix: str) -> None:
    picture = photo(tmp_path / f"a.{suffix}")
    wanted = ["-XMP-dc:Subject=Zoë & co", "-XMP-lr:HierarchicalSubject=animals|dog"]
    wanted += (
        ["-IPTC:Keywords=beach", "-CodedCharacterSet=UTF8"] if suffix in ("jpg", "tif") else []
    )
    command = ["exiftool", "-q", "-overwrite_original", *wanted, str(picture)]
    subprocess.run(command, check=True)
    assert set(read_keywords(picture).names) - {"beach"} == {"Zoë & co", "dog"}
    assert ("beach" in read_keywords(picture).names) == (suffix in ("jpg", "tif"))
