"""README and the manual: every block of code is run, every link leads somewhere.

A page's blocks run one after the other in a folder with photos, tables, a trained model and sidecars.
Files that a page shows (blocks with a caption) are written there first. Two things stand in for what a
test cannot have: a random CLIP for the ones on the Hub, and one epoch for the usual twelve.
"""

import contextlib
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import load_example
from conftest import run_command as run
from hub_server import TOKEN, HubServer
from PIL import Image

import trmml
from trmml.config.groups import TrainingConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\S+)[^\n]*\n(?::caption: (\S+)\n)?(.*?)^```$", re.M | re.S)
CLIPS = re.compile(r"ViT-B-16/datacomp_xl_s13b_b90k")
ELSEWHERE = {"tag_with_ray.py"}
"""Examples that other tests run, and that take long."""
OTHER_PROGRAMS = {"label-studio"}
"""Pages whose commands talk to a program that has to run beside."""
SIDECAR = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>{}</rdf:li>
</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"""


@contextlib.contextmanager
def one_epoch() -> Iterator[None]:
    """Let training take one epoch where a page says nothing of it."""
    make = TrainingConfig.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TrainingConfig, "__init__", lambda self, **given: make(self, **{"epochs": 1} | given)
        )
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages suppose it: what `sample_photos.py` makes, and a model trained on it."""
    place = tmp_path_factory.mktemp("world")
    load_example("sample_photos.py").main(str(place))
    photos = sorted((place / "photos").glob("labels-*.jpg"))
    for name in ("photo.jpg", "street.jpg", "photos/new.jpg"):
        shutil.copyfile(photos[1], place / name)
    for photo, label in zip(photos, ["person", "cat", "cup", "rocket"] * len(photos), strict=False):
        photo.with_name(f"{photo.name}.xmp").write_text(SIDECAR.format(label))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRMML_CACHE", str(place / "cache"))
        trmml.finetune(
            place / "labels.csv",
            images=place / "photos",
            val=trmml.read_dataset(place / "val.csv", images=place / "photos"),
            output=place / "runs/shop",
            config={"training.epochs": 4},  # so good that thresholds can be guaranteed
            progress=False,
        )
    (place / "examples").symlink_to(ROOT / "examples")
    return place


@pytest.fixture
def here(
    world: Path,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A copy of that folder to run in, with a Hub, and with pages that nobody has to end."""
    place = tmp_path / "here"
    shutil.copytree(world, place, symlinks=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("TRMML_CACHE", str(place / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)

    def serve(make: object, announce: object, host: str, port: int) -> None:
        announce(f"http://{host}:{port}")  # pyright: ignore[reportCallIssue]

    monkeypatch.setattr("trmml.app.serving.serve", serve)
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    with one_epoch():
        yield place


def commands(block: str) -> list[list[str]]:
    """Return the words of each command, without comments."""
    lines = block.replace("\\\n", " ").replace(" && ", "\n").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def free(words: list[str]) -> list[str]:
    """Make way for the output of training, which has to be new."""
    if "finetune" in words:
        shutil.rmtree(words[words.index("-o") + 1], ignore_errors=True)
    return words


def run_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command of a page, or check that what it names is there where a test cannot run it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if words[:2] == ["pip", "install"]:
        (wanted,) = words[2:]
        named = re.fullmatch(r"(?:\.|trmml)(?:\[(.*)\])?", wanted)
        assert named is not None, wanted
        assert not named[1] or set(named[1].split(",")) <= set(extras["optional-dependencies"])
    elif words[0] == "python":
        script = ROOT / words[1]
        assert script.is_file()
        if script.name not in ELSEWHERE:
            load_example(script.name).main(*words[2:])
    elif words[:1] == ["pytest"]:
        return
    else:
        if words[0] == "torchrun":  # several processes give the model that one gives
            words = ["trmml", *words[words.index("trmml") + 1 :]]
        assert words[0] == "trmml", words
        target = words[words.index(">") + 1] if ">" in words else None
        arguments = words[1 : words.index(">")] if target else words[1:]
        capsys.readouterr()
        code = run(*free(arguments))
        shown = capsys.readouterr()
        assert code == 0, f"{shlex.join(words)}\n{shown.err}"
        if target:
            Path(target).write_text(shown.out)


def has_code(path: Path) -> bool:
    return path.stem not in OTHER_PROGRAMS and any(
        kind in ("bash", "python") for kind, _, _ in BLOCK.findall(path.read_text("utf-8"))
    )


@pytest.mark.parametrize("path", list(filter(has_code, PAGES)), ids=lambda path: path.stem)
def test_every_block_of_a_page_runs(
    path: Path, here: Path, backbone_source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    for kind, caption, text in BLOCK.findall(path.read_text("utf-8")):
        block = CLIPS.sub(backbone_source, text)
        assert "..." not in block
        if caption:
            (here / caption).write_text(block)
        elif kind == "bash":
            for words in commands(block):
                run_line(words, capsys)
        elif kind == "python":
            if "output=" in block:
                shutil.rmtree(here / "runs/shop")
            exec(compile(block, path.name, "exec"), names)
        else:
            assert kind in ("{toctree}", "{eval-rst}"), f"a block that no test runs: {kind}"


def headings(path: Path) -> set[str]:
    """Return the anchors of a document, as code hosts and the manual make them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)\s#:]*)(?:#([^)\s]+))?\)", path.read_text("utf-8")):
        place = (path.parent / target) if target else path
        assert place.exists(), target
        assert not anchor or anchor in headings(place), f"{target}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_script_and_option_that_a_page_names_is_there(path: Path) -> None:
    text = path.read_text("utf-8")
    for script in re.findall(r"python (examples/\S+\.py)", text):
        assert (ROOT / script).is_file(), script
    source = "".join(p.read_text("utf-8") for p in (ROOT / "trmml" / "cli").glob("*.py"))
    for option in set(re.findall(r"(?<=`)--[a-z][a-z-]+", text)):
        known = f'"{option}' in source or option[2:].replace("-", "_") + ":" in source
        assert known or option in text.split("sphinx-build")[-1], option


def test_the_manual_has_every_page_in_its_table_of_contents() -> None:
    listed = set(re.findall(r"^([\w-]+)$", (ROOT / "docs" / "index.md").read_text("utf-8"), re.M))
    # A page on a tool is listed where it is there.
    assert {path.stem for path in PAGES[1:]} - {"index"} - OTHER_PROGRAMS <= listed


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900


def test_the_number_of_labels_that_documents_name_is_that_of_the_default_model() -> None:
    named = set()
    for path in PAGES:
        found = re.findall(r"(\d+) (?:everyday labels|things)", path.read_text("utf-8"))
        named |= set(map(int, found))
    assert named == {len(trmml.load_model().labels)}


def test_the_picture_of_the_readme_is_made_by_one_command(tmp_path: Path) -> None:
    picture = tmp_path / "sheet.jpg"
    load_example("contact_sheet.py").main(str(picture))
    with Image.open(picture) as made, Image.open(ROOT / "examples" / "contact_sheet.jpg") as kept:
        assert made.size == kept.size
