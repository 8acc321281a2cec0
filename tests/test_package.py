import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import trmml

ROOT = Path(trmml.__file__).parent

# A module imports only from rows above its own; within `data` and `backbone` files are one room.
LAYERS = [
    {"", "errors"},
    {"settings"},
    {
        "columns",
        "config",
        "files",
        "fonts",
        "hub_errors",
        "labels",
        "pages",
        "processes",
        "prompts",
        "prototypes",
        "regions",
    },
    {"explain", "hub"},
    {
        "backbone",
        "calibration",
        "cards",
        "data",
        "losses",
        "matching",
        "metrics",
        "predictions",
        "pseudo_labels",
        "reliability",
    },
    {"features", "model"},
    {"batches", "evaluation", "model_folder", "optimization", "teacher"},
    {"objective"},
    {"catalog", "trainer"},
    {"runs", "zoo"},
    {"completion", "exporting", "inference", "publishing", "training"},
    {"review"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = [name.split(".") for name in names if name.split(".")[0] == "trmml"]
    return {parts[1] if len(parts) > 1 and parts[1] in RANK else "" for parts in inside}


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    room = room_of(path)
    if room == "":  # the package itself names its modules for type checkers and loads them lazily
        return
    too_high = {n for n in imported_rooms(path) if n != room and RANK[n] >= RANK[room]}
    assert not too_high, f"trmml.{room} must not import {sorted(too_high)}"


def test_open_clip_is_imported_by_the_backbone_alone() -> None:
    importers = {
        room_of(path)
        for path in MODULES
        if re.search(r"^\s*(import|from) open_clip", path.read_text(encoding="utf-8"), re.M)
    }
    assert importers == {"backbone"}


def test_every_public_name_can_be_loaded() -> None:
    for name in trmml.__all__:
        assert getattr(trmml, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'pridict'"):
        _ = trmml.pridict


def test_the_lazy_names_and_those_for_type_checkers_are_the_same() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trmml")
        for alias in node.names
    }
    assert typed == {(name, f"trmml.{home}") for name, home in trmml._HOME.items()}


@pytest.mark.parametrize("code", ["import trmml", "import trmml.cli"])
def test_starting_imports_no_torch(code: str) -> None:
    program = (
        f"{code}; import sys; print(*{{'torch', 'numpy', 'open_clip', 'PIL'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_looking_at_a_table_imports_no_torch(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("image,dog\na.png,1\n")
    program = (
        "import sys; from trmml.cli import app; "
        "app(sys.argv[1:], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    table = str(tmp_path / "labels.csv")
    for arguments in (["check", table], ["convert", table, str(tmp_path / "labels.jsonl")]):
        command = [sys.executable, "-c", program, "data", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_import_test_can_fail() -> None:
    program = "import trmml; trmml.predict; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 1
