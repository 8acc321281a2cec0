import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import trmml

ROOT = Path(trmml.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def rooms_from_the_ground_up() -> list[str]:
    """Read the one list of rooms: the table in CONTRIBUTING."""
    return re.findall(r"^\| `(\w+)/?` \|", CONTRIBUTING.read_text(encoding="utf-8"), re.M)


RANK = {name: rank for rank, name in enumerate(rooms_from_the_ground_up())}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_modules(path: Path) -> set[str]:
    """Return the modules of this package that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if name.startswith("trmml.")}


MODULES = sorted(ROOT.rglob("*.py"))


def test_every_room_has_its_place_in_the_list() -> None:
    assert {room_of(path) for path in MODULES} - {"", "__main__"} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_room_and_those_above_it_in_the_list(path: Path) -> None:
    room = room_of(path)
    if room in ("", "__main__"):  # the package itself names its modules and loads them on first use
        return
    imported = {name.split(".")[1] for name in imported_modules(path)} & set(RANK)
    too_high = {name for name in imported if RANK[name] > RANK[room]}
    assert not too_high, f"trmml.{room} must not import {sorted(too_high)}"


def test_no_two_modules_import_each_other_even_by_way_of_others() -> None:
    def dotted(path: Path) -> str:
        return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)

    left = {dotted(p): imported_modules(p) for p in MODULES if p.name != "__init__.py"}
    left = {module: imported & set(left) for module, imported in left.items()}
    while free := {module for module, imported in left.items() if not imported & set(left)}:
        left = {module: imported for module, imported in left.items() if module not in free}
    assert not left


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


def test_the_package_lists_its_public_names_and_nothing_else() -> None:
    assert dir(trmml) == sorted(trmml.__all__)
    assert "predict" in dir(trmml)


def test_the_lazy_names_and_those_for_type_checkers_are_the_same() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trmml")
        for alias in node.names
    }
    assert typed - {("__version__", "trmml.version")} == {
        (name, f"trmml.{home}") for name, home in trmml._HOME.items()
    }


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
