import sys
from pathlib import Path

import pytest
from conftest import run_command as run
from conftest import small_disk
from PIL import Image

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.config.groups import MatchingConfig
from trmml.data.libraries.keywords import read_keywords
from trmml.data.libraries.xmp import SUBJECT, parse_xmp
from trmml.zoo.loading import make_config

SIDECAR = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:subject><rdf:Bag><rdf:li>red</rdf:li></rdf:Bag></dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""

STRANGE = 'trip/it\'s "c"\nd.png'


@pytest.fixture
def model(backbone: FrozenCLIP, tmp_path: Path) -> Path:
    settings = MatchingConfig(num_heads=2, num_context_tokens=2)
    config = make_config(backbone, ("red", "things|blue"), settings)
    made = trmml.TextRegionMatcher(config, backbone)
    made.start_from_text()
    return trmml.save_model(made, tmp_path / "my model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "trip/b.png", 'trip/it\'s "c"\nd.png'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), (200, 30, 30)).save(folder / name)
    (folder / "a.jpg.xmp").write_bytes(SIDECAR)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_tags_are_shown_written_and_taken_out_again(
    photos: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(photos)
    arguments = ["tag", photos, "--model", model, "--threshold", "0"]
    assert run(*arguments, "--dry-run") == 0
    shown = capsys.readouterr()
    assert contents(photos) == before
    first, *others = shown.out.splitlines()
    assert first == f"{photos}/a.jpg: things|blue (merged: a.jpg.xmp)"
    # Which of the two labels is first depends on the toy network.
    assert [line.replace("things|blue, red", "red, things|blue") for line in others] == [
        f"{photos}/trip/b.png: red, things|blue (new: b.png.xmp)",
        f"{str(photos / STRANGE)!r}: red, things|blue (new: {Path(STRANGE).name + '.xmp'!r})",
    ]
    assert "would write 5 tags into 3 sidecars, 2 of them new; 0 photos need none" in shown.err

    assert run(*arguments, "--write", "xmp") == 0
    written = capsys.readouterr()
    assert written.out == shown.out
    assert "wrote 5 tags into 3 sidecars, 2 of them new" in written.err
    assert f"`trmml tag {photos} --undo` takes them out again" in written.err
    after = contents(photos)
    assert {name: after[name] for name in before if name != "a.jpg.xmp"} == {
        name: content for name, content in before.items() if name != "a.jpg.xmp"
    }
    assert set(parse_xmp(after["trip/b.png.xmp"], "").values(SUBJECT)) == {"red", "blue"}
    assert parse_xmp(after["a.jpg.xmp"], "").values(SUBJECT) == ["red", "blue"]
    # The folders above the model are nobody else's affair.
    assert b"<rdf:li>model my model</rdf:li>" in after["a.jpg.xmp"]
    assert read_keywords(photos / "trip/b.png").paths == ()
    assert len(trmml.read_dataset(photos, format="keywords").labels) == 1

    assert run("tag", photos, "--undo", "--dry-run") == 0
    assert contents(photos) == after
    assert "would take tags out of 3 sidecars; 2 of them go" in capsys.readouterr().err
    assert run("tag", photos, "--undo") == 0
    shown = capsys.readouterr()
    assert f"{photos}/a.jpg.xmp: without blue" in shown.out
    assert "took tags out of 3 sidecars; 2 of them go" in shown.err
    assert contents(photos) == before
    assert run("tag", photos, "--undo") == 0
    assert "took tags out of 0 sidecars" in capsys.readouterr().err


def test_one_photo_can_be_tagged_and_freed_alone(photos: Path, model: Path) -> None:
    before = contents(photos)
    photo = photos / "trip/b.png"
    assert run("tag", photo, "--model", model, "--top-k", "1", "--write", "xmp") == 0
    assert contents(photos).keys() - before.keys() == {"trip/b.png.xmp"}
    assert run("tag", photo, "--undo") == 0
    assert contents(photos) == before


def test_what_cannot_be_written_costs_only_itself(
    photos: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "a.jpg.xmp").write_bytes(b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>")
    (photos / "trip/b.png.xmp").mkdir()
    (photos / "broken.jpg").write_bytes(b"no photo")
    before = contents(photos)
    arguments = ["tag", photos, "--model", model, "--threshold", "0", "--write", "xmp"]
    assert run(*arguments) == 1
    shown = capsys.readouterr()
    assert f"skipped: {photos}/a.jpg.xmp has a document type or entities" in shown.err
    assert f"skipped: Cannot write to {photos}/trip/b.png.xmp: it is there" in shown.err
    assert f"skipped: {photos}/broken.jpg is not a picture" in shown.err
    assert "3 could not be tagged or read." in shown.err
    assert "wrote 2 tags into 1 sidecars" in shown.err
    assert run("tag", photos, "--undo") == 0
    assert contents(photos) == before


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_full_disk_leaves_every_sidecar_whole(
    photos: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(photos)
    with small_disk(100):
        arguments = ["tag", photos, "--model", model, "--threshold", "0", "--write", "xmp"]
        assert run(*arguments) == 4
    assert capsys.readouterr().err.count("skipped: Cannot write to") == 3
    assert contents(photos) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Say --write xmp to write sidecars beside the photos, or --dry-run"),
        (["--undo", "--write", "xmp"], "leave --model and --write away"),
    ],
)
def test_what_is_to_be_done_has_to_be_said(
    photos: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture
) -> None:
    before = contents(photos)
    assert run("tag", photos, *arguments) == 2
    assert reason in capsys.readouterr().err
    assert contents(photos) == before


def test_nothing_is_undone_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("tag", tmp_path / "gone", "--undo") == 4
    assert f"There is no {tmp_path}/gone" in capsys.readouterr().err
