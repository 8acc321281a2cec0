"""The notebook: kept without outputs, and run in a kernel of its own."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from shown_html import Shown

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def test_the_notebook_is_kept_without_outputs_and_traces_of_a_machine() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}  # and no version of somebody's Python
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_the_notebook_runs_and_shows_what_it_speaks_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # tqdm's advice to install widgets, when a library of ours imports it.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")
    notebook = nbformat.read(TOUR, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    shown = {name: Shown(_html(cell)) for name, cell in cells.items()}
    labels = {name: [row[0] for row in found.rows[1:]] for name, found in shown.items()}
    assert labels["predict"][0] == "cat"
    assert shown["predict"].count("img") == 1
    assert labels["heatmaps"][0] == "person"
    assert shown["heatmaps"].count("details") == 1
    assert shown["heatmaps"].count("img") >= 2
    assert labels["zero-shot"][0] == "cup of coffee"
    assert "60 photos, 3 labels," in shown["table"].texts[1]
    assert labels["table"] == ["person", "cat", "cup"]
    assert labels["finetune"] == ["validation", "label", "person", "cat", "cup"]
    assert set(labels["both"][:2]) == {"cat", "cup"}
    said = {name: _stderr(cell) for name, cell in cells.items() if _stderr(cell)}
    assert set(said) <= {"finetune"}, said
    assert said["finetune"].startswith("Few known positives among the 6 validation photos")


def _html(cell: Any) -> str:
    return "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output)


def _stderr(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == "stderr")
