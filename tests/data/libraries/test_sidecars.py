import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from sidecar_forms import DARKTABLE, DIGIKAM, LIGHTROOM, PROGRAMS, with_list

from trmml.data.libraries.changes import Change, sidecars_below, tagging, untagging
from trmml.data.libraries.keywords import read_keywords
from trmml.data.libraries.marks import marked
from trmml.data.libraries.sidecars import with_keywords, without_keywords
from trmml.data.libraries.xmp import HIERARCHICAL, SUBJECT, TAGS_LIST, parse_xmp
from trmml.errors import DataError, OutputError

SUBJECTS = "<dc:subject>{}</dc:subject>"
FORMS = {
    **PROGRAMS,
    "none": None,
    "two descriptions": LIGHTROOM.replace(
        b" </rdf:RDF>", b"\t<rdf:Description rdf:about=''/>\n </rdf:RDF>"
    ),
    "one line": with_list(SUBJECTS.format("<r:Bag><r:li>a</r:li></r:Bag>")),
    "empty bag": with_list(SUBJECTS.format("<r:Bag/>")),
    "empty bag on lines": with_list(SUBJECTS.format("\r\n <r:Bag>\r\n\t </r:Bag> ")),
    "empty list": with_list("<dc:subject/>"),
    "a text for a list": with_list(SUBJECTS.format("cat &amp; dog]]&gt;")),
    "blank items": with_list(SUBJECTS.format("<r:Bag><r:li> </r:li><r:li/></r:Bag>")),
    "comments": with_list(SUBJECTS.format("<r:Bag><!-- 1 --><r:li>a</r:li><!-- 2 --></r:Bag>")),
    "cdata": with_list(SUBJECTS.format("<r:Bag><r:li><![CDATA[a > b]]></r:li></r:Bag>")),
    "languages": with_list(SUBJECTS.format('<r:Bag><r:li xml:lang="de">a</r:li></r:Bag>')),
    "line ends": LIGHTROOM.replace(b"\n", b"\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + DARKTABLE,
    "padding": DIGIKAM.replace(b"<?xpacket end", b" " * 2048 + b"\n<?xpacket end"),
    "quotes": LIGHTROOM.replace(b'rdf:about=""', b"rdf:about='a\"&lt;>b'"),
    "no properties": LIGHTROOM[: LIGHTROOM.index(b"  <rdf:Desc")] + b" </rdf:RDF>\n</x:xmpmeta>",
    "default namespace": with_list("").replace(b"r:", b"").replace(b":r=", b"="),
}
TAGS = ["dog & <cat>", 'it\'s "here"', "Größe", "犬"]


@pytest.mark.parametrize("form", FORMS)
def test_keywords_come_out_again_to_the_byte(form: str) -> None:
    content = FORMS[form]
    written = with_keywords(content, {SUBJECT: TAGS}, "shop", "a.xmp")
    packet = parse_xmp(written, "a.xmp")
    before = [] if content is None else parse_xmp(content, "a.xmp").values(SUBJECT)
    assert packet.values(SUBJECT) == before + TAGS
    assert marked(packet) == {SUBJECT: TAGS}
    assert without_keywords(written, "a.xmp") == content


@pytest.mark.parametrize("form", FORMS)
def test_all_lists_at_once_come_out_again(form: str) -> None:
    content = FORMS[form]
    lists = {SUBJECT: ["owl"], HIERARCHICAL: ["birds|owl"], TAGS_LIST: ["birds/owl"]}
    written = with_keywords(content, lists, "shop", "a.xmp", removed=["x"])
    packet = parse_xmp(written, "a.xmp")
    assert [packet.values(prop)[-1] for prop in lists] == ["owl", "birds|owl", "birds/owl"]
    assert without_keywords(written, "a.xmp") == content


@pytest.mark.parametrize("form", ["lightroom", "digikam", "darktable", "exiftool"])
def test_nothing_that_was_there_is_touched(form: str) -> None:
    content = PROGRAMS[form]
    written = with_keywords(content, {SUBJECT: ["owl"]}, "shop", "a.xmp")
    before, after = content.decode().splitlines(), written.decode().splitlines()
    left = iter(after)
    assert all(line in left for line in before)  # in their order
    assert sum(map(bool, after)) - sum(map(bool, before)) == 9


def test_a_list_grows_in_the_form_it_has() -> None:
    written = with_keywords(LIGHTROOM, {SUBJECT: ["owl"]}, "shop", "a.xmp")
    assert b"     <rdf:li>Rome</rdf:li>\n     <rdf:li>owl</rdf:li>\n    </rdf:Bag>" in written


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LIGHTROOM.decode().encode("utf-16"), "is not UTF-8, so nothing is written"),
        (
            b'<?xml version="1.0" encoding="latin-1"?>' + with_list(""),
            "is not UTF-8, so nothing is written",
        ),
        (b"<!DOCTYPE x>" + LIGHTROOM, "document type or entities"),
        (
            b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>',
            "its r:RDF is one empty tag",
        ),
    ],
)
def test_what_cannot_be_written_into_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"a.xmp.*{reason}"):
        with_keywords(content, {SUBJECT: ["owl"]}, "shop", "a.xmp")


def test_what_xml_cannot_hold_is_replaced() -> None:
    written = with_keywords(None, {SUBJECT: ["a\ufffe\0\ud800b"]}, "m\0", "a.xmp")
    assert parse_xmp(written, "a.xmp").values(SUBJECT) == ["a\ufffd\ufffd\ufffdb"]


def photo(path: Path, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12)).save(path, **settings)
    return path


def tagged(picture: Path, *labels: str) -> Change:
    change = tagging(picture, labels, "shop", [picture.parent])
    change.apply()
    return change


def untagged(sidecar: Path) -> None:
    untagging(sidecar, [sidecar.parent]).apply()


def test_tags_of_people_and_of_trmml_are_told_apart(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_bytes(LIGHTROOM)
    change = tagged(picture, "DOG", "owl", "birds|owl", "animals|dog")
    assert change.tags == ("owl", "birds|owl")
    assert change.present == ("DOG", "animals|dog")
    packet = parse_xmp(sidecar.read_bytes(), "")
    assert packet.values(SUBJECT)[-2:] == ["Rome", "owl"]
    assert packet.values(HIERARCHICAL)[-3:] == ["Rome", "owl", "birds|owl"]
    assert "owl" not in read_keywords(picture).names
    untagged(sidecar)
    assert sidecar.read_bytes() == LIGHTROOM


def test_a_later_call_replaces_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    tagged(picture, "owl", "hat")
    assert tagged(picture, "owl").tags == ("owl",)
    assert parse_xmp(sidecar.read_bytes(), "").values(SUBJECT) == ["owl"]
    assert tagged(picture, "owl").does_nothing
    tagged(picture)
    assert not sidecar.exists()


def test_what_somebody_took_out_is_not_written_again(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    tagged(picture, "owl", "hat")
    sidecar.write_bytes(sidecar.read_bytes().replace(b"    <rdf:li>hat</rdf:li>\n", b"", 1))
    for _ in range(2):
        change = tagged(picture, "owl", "hat")
        assert (change.tags, change.removed) == (("owl",), ("hat",))
        assert parse_xmp(sidecar.read_bytes(), "").values(SUBJECT) == ["owl"]
    untagged(sidecar)
    assert not sidecar.exists()


def test_what_somebody_added_stays_after_undo(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    tagged(picture, "owl")
    line = b"    <rdf:li>owl</rdf:li>\n"
    sidecar.write_bytes(sidecar.read_bytes().replace(line, line + line.replace(b"owl", b"mine"), 1))
    assert read_keywords(picture).names == ("mine",)
    untagged(sidecar)
    packet = parse_xmp(sidecar.read_bytes(), "")
    assert packet.values(SUBJECT) == ["mine"]
    assert marked(packet) == {}


def test_a_new_list_takes_in_the_keywords_of_the_photo(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg", xmp=LIGHTROOM)
    before = picture.read_bytes()
    tagged(picture, "birds|owl")
    packet = parse_xmp((tmp_path / "a.jpg.xmp").read_bytes(), "")
    assert packet.values(SUBJECT) == ["Anna", "People", "animals", "dog", "Rome", "owl"]
    assert packet.values(HIERARCHICAL) == ["People|Anna", "animals|dog", "birds|owl"]
    assert read_keywords(picture).names == ("Anna", "People", "animals", "dog", "Rome")
    untagged(tmp_path / "a.jpg.xmp")
    assert not (tmp_path / "a.jpg.xmp").exists()
    assert picture.read_bytes() == before


def test_digikams_own_list_is_kept_up(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.xmp").write_bytes(DIGIKAM)
    tagged(picture, "birds|owl")
    packet = parse_xmp((tmp_path / "a.jpg.xmp").read_bytes(), "")
    assert packet.values(TAGS_LIST)[-1] == "birds/owl"


def test_the_sidecar_of_a_stem_is_used_by_one_photo_alone(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    (tmp_path / "a.xmp").write_bytes(DARKTABLE)
    assert tagging(picture, ["owl"], "shop", [tmp_path]).sidecar.name == "a.xmp"
    (tmp_path / "a.NEF").write_bytes(b"raw")
    assert tagging(picture, ["owl"], "shop", [tmp_path]).sidecar.name == "a.jpg.xmp"


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    picture = photo(inside / "a.jpg")
    outside.mkdir()
    (outside / "a.xmp").write_bytes(LIGHTROOM)
    (inside / "a.jpg.xmp").symlink_to(outside / "a.xmp")
    (inside / "linked").symlink_to(outside)
    photo(outside / "b.jpg")
    (inside / "c.jpg.xmp").symlink_to(outside / "new.xmp")  # which is not there
    photo(inside / "c.jpg")
    for path in (picture, inside / "linked/b.jpg", inside / "c.jpg"):
        with pytest.raises(DataError, match="out of the folder that was named"):
            tagging(path, ["owl"], "shop", [inside])
    assert sorted(p.name for p in outside.iterdir()) == ["a.xmp", "b.jpg"]
    assert (outside / "a.xmp").read_bytes() == LIGHTROOM
    tagged(outside / "b.jpg", "owl")
    with pytest.raises(DataError, match="out of the folder that was named"):
        untagging(inside / "linked/b.jpg.xmp", [inside])


def test_a_link_within_the_folder_stays_one(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    (tmp_path / "xmp").mkdir()
    (tmp_path / "xmp/real.xmp").write_bytes(LIGHTROOM)
    (tmp_path / "a.jpg.xmp").symlink_to("xmp/real.xmp")
    tagged(picture, "owl")
    assert (tmp_path / "a.jpg.xmp").is_symlink()
    assert b"owl" in (tmp_path / "xmp/real.xmp").read_bytes()


def test_a_sidecar_that_changed_in_the_meantime_is_left_alone(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    change = tagging(picture, ["owl"], "shop", [tmp_path])
    change.sidecar.write_bytes(LIGHTROOM)
    with pytest.raises(OutputError, match="has been changed just now"):
        change.apply()
    assert change.sidecar.read_bytes() == LIGHTROOM


def test_a_folder_in_the_way_is_said(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.xmp").mkdir()
    with pytest.raises(OutputError, match="it is there and no regular file"):
        tagged(picture, "owl")


def test_who_may_read_a_sidecar_stays_the_same(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_bytes(LIGHTROOM)
    sidecar.chmod(0o600)
    tagged(picture, "owl")
    assert sidecar.stat().st_mode & 0o777 == 0o600


def test_sidecars_are_found_below_folders_and_by_photo(tmp_path: Path) -> None:
    picture = photo(tmp_path / "in/a.jpg")
    for name in ("in/a.jpg.xmp", "in/gone.XMP", "in/.hidden.xmp", "other.xmp"):
        (tmp_path / name).write_bytes(LIGHTROOM)
    names = [path.name for path in sidecars_below([tmp_path / "in"])]
    assert names == ["a.jpg.xmp", "gone.XMP"]
    assert list(sidecars_below([picture, tmp_path / "other.xmp"])) == [
        tmp_path / "in/a.jpg.xmp",
        tmp_path / "other.xmp",
    ]


exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")


def read_back(*files: Path) -> list[dict[str, object]]:
    fields = [
        "-j",
        "-XMP-dc:Subject",
        "-XMP-lr:HierarchicalSubject",
        "-XMP-xmp:Rating",
        "-validate",
    ]
    done = subprocess.run(["exiftool", *fields, *map(str, files)], capture_output=True, check=True)
    return [{k: v for k, v in row.items() if k != "SourceFile"} for row in json.loads(done.stdout)]


@exiftool
def test_exiftool_reads_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "b.jpg.xmp").write_bytes(LIGHTROOM)
    for name in ("a.jpg", "b.jpg"):
        tagged(photo(tmp_path / name), "Größe & <co>", "birds|owl")
    assert read_back(tmp_path / "a.jpg.xmp", tmp_path / "b.jpg.xmp") == [
        {
            "Subject": ["Größe & <co>", "owl"],
            "HierarchicalSubject": ["Größe & <co>", "birds|owl"],
            "Validate": "OK",
        },
        {
            "Subject": ["Anna", "People", "animals", "dog", "Rome", "Größe & <co>", "owl"],
            "HierarchicalSubject": [
                *("People|Anna", "animals|dog", "Rome", "Größe & <co>", "birds|owl"),
            ],
            "Rating": 4,
            "Validate": "OK",
        },
    ]


@exiftool
def test_tags_come_out_of_a_sidecar_that_exiftool_wrote_anew(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    tagged(picture, "owl", "birds|tit")
    command = ["exiftool", "-q", "-overwrite_original", "-XMP-dc:Subject+=mine", "-Rating=3"]
    subprocess.run([*command, str(sidecar)], check=True)
    assert read_keywords(picture).names == ("mine",)
    untagged(sidecar)
    assert read_back(sidecar) == [{"Subject": "mine", "Rating": 3, "Validate": "OK"}]
    assert b"trmml" not in sidecar.read_bytes()
