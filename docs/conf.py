"""How the manual is built: `sphinx-build -W docs build/docs`."""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data
from sphinx_gallery.scrapers import figure_rst

import trmml

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
EXAMPLES = ROOT / "examples"

project, release, copyright = "trmml", trmml.__version__, "the trmml authors"
extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"),
]
html_theme, html_title = "furo", "trmml"
html_static_path, html_css_files = ["static"], ["manual.css"]
html_show_sourcelink = False
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # functions in the settings of the gallery cannot be pickled

# A signature says the shapes; the list of arguments below it says the rest once.
autodoc_typehints, autodoc_typehints_format = "signature", "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
maximum_signature_line_length = 70
napoleon_numpy_docstring, napoleon_use_rtype, napoleon_use_ivar = False, False, True

# ---- Documents of the repository that are pages of the manual as well.

PAGES = {
    "examples/benchmarks/README.md": "benchmarks",
    "examples/benchmarks/measured/missing_labels.md": "missing-labels",
    "examples/benchmarks/measured/label_tables.md": "label-tables",
    "examples/benchmarks/measured/questions.md": "questions",
    "examples/benchmarks/measured/speed.md": "speed",
    "examples/everyday/README.md": "everyday",
    "examples/small_clip/README.md": "small-clip",
    "weights_cards/README.md": "weights",
    "weights_cards/everyday-tiny.md": "everyday-tiny",
    "weights_cards/coco18-tiny.md": "coco18-tiny",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "CHANGELOG.md": "changelog",
}
TITLES = {
    "missing-labels": "Missing labels, all tables",
    "label-tables": "Blanks, mistakes and thresholds, all tables",
    "questions": "Orders of questions, all tables",
    "speed": "Speed, all tables",
}


def with_links(text: str, home: Path, place: Path) -> str:
    """Return a text of one folder with its links as they are to be in another."""

    def moved(match: re.Match[str]) -> str:
        target, anchor = (home / match[1]).resolve(), match[2] or ""
        name = PAGES.get(os.path.relpath(target, ROOT))
        page = DOCS / "repository" / f"{name}.md" if name else target
        return f"]({os.path.relpath(page, place)}{anchor})"

    return re.sub(r"\]\(([^)\s#:]+)(#[^)\s]+)?\)", moved, text)


def write_pages() -> None:
    """Write the documents of the repository as pages, each with a title."""
    place = DOCS / "repository"
    place.mkdir(exist_ok=True)
    for path, name in PAGES.items():
        text = re.sub(r"\A---\n.*?\n---\n", "", (ROOT / path).read_text("utf-8"), flags=re.DOTALL)
        title = f"# {TITLES[name]}\n\n" if name in TITLES else ""
        moved = with_links(text, (ROOT / path).parent, place)
        (place / f"{name}.md").write_text(title + moved, encoding="utf-8")


def move_links(app: Any, page: str, source: list[str]) -> None:
    """Let a page of the manual lead to other pages, not to the documents they were made from."""
    if "/" not in page:
        source[0] = with_links(source[0], DOCS, DOCS)


def without_private(*args: Any) -> tuple[str | None, str | None]:
    """Leave fields that nobody is to set out of a signature."""
    signature, returns = args[-2:]
    return signature and re.sub(r", _\w+: .*(?=\))", "", signature), returns


# ---- The examples, run while the manual is built.

# What each is called with, in the order in which they run; `sample_photos.py` makes what others need.
CALLS = {
    "predict_photo": [],
    "explain_prediction": ["cat.png", "cat", "seen.png"],
    "contact_sheet": ["sheet.png"],
    "sample_photos": ["."],
    "predict_folder": ["photos", "tags.csv"],
    "finetune_own_photos": ["labels.csv", "photos", "runs/mine"],
    "evaluate_model": ["test.csv", "photos", "runs/mine"],
}
WORK = Path(tempfile.mkdtemp(prefix="trmml-manual-")).resolve()
THUMBNAIL = WORK / "cells.png"


def copy_scripts() -> None:
    """Copy the examples that need nothing but this package, and the photo that they look at."""
    shutil.copyfile(DOCS / "gallery_header.txt", WORK / "GALLERY_HEADER.rst")
    for name in CALLS:
        shutil.copyfile(EXAMPLES / f"{name}.py", WORK / f"{name}.py")
    Image.fromarray(data.chelsea()).save(WORK / "cat.png")
    # What the gallery shows of an example that draws nothing: cells of a table.
    cells = np.full((3, 4, 3), (233, 236, 239), dtype=np.uint8)
    cells[[0, 0, 1, 2], [0, 2, 1, 3]], cells[[0, 2], [3, 0]] = (26, 127, 55), (207, 34, 46)
    Image.fromarray(cells).resize((400, 280), Image.Resampling.NEAREST).save(THUMBNAIL)


def order(name: str) -> int:
    """Return the place of an example."""
    return list(CALLS).index(Path(name).stem)


def arguments(gallery_conf: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """Return what an example is called with; it runs where its copy lies."""
    return CALLS[Path(script["src_file"]).stem]


def pictures(block: Any, variables: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Show the pictures that an example wrote."""
    paths, shown = variables["image_path_iterator"], []
    for made in [*sorted(WORK.glob("*.png")), *sorted(WORK.glob("heatmaps/astronaut.png"))]:
        if made not in (WORK / "cat.png", THUMBNAIL):
            path = Path(next(paths))
            shutil.move(made, path)
            shown.append(str(path))
    return figure_rst(shown, gallery_conf["src_dir"]) if shown else ""


sphinx_gallery_conf = {
    "examples_dirs": [str(WORK)],
    "gallery_dirs": ["examples"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": order,
    "reset_argv": arguments,
    "reset_modules": (),
    "image_scrapers": (pictures,),
    "capture_repr": (),
    "default_thumb_file": str(THUMBNAIL),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
}


def setup(app: Any) -> None:
    """Prepare what is not written by hand."""
    os.environ.setdefault("TRMML_CACHE", str(WORK / "cache"))
    write_pages()
    copy_scripts()
    app.connect("source-read", move_links)
    app.connect("autodoc-process-signature", without_private)
    app.connect("build-finished", lambda *_: shutil.rmtree(WORK, ignore_errors=True))
