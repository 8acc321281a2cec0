"""Fixtures for the page: a table on the workspace, and a server as `trmml label` starts it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trmml.app.workspace import Workspace
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import write_dataset
from trmml.matcher.model import TextRegionMatcher

SETTINGS = {"training.epochs": 2, "training.batch_size": 16}


@pytest.fixture
def colour_model(backbone: FrozenCLIP) -> TextRegionMatcher:
    from conftest import trained_like

    return trained_like(backbone, num_heads=2)


@pytest.fixture
def colour_table(tmp_path: Path) -> MultiLabelDataset:
    """Photos with squares; one label in three is known."""
    from conftest import colour_squares

    return colour_squares(tmp_path / "photos", 40).hide_labels(0.3)


@pytest.fixture
def make_workspace(
    tmp_path: Path, colour_table: MultiLabelDataset, colour_model: TextRegionMatcher
) -> Iterator[Callable[..., Workspace]]:
    """Return a maker of workspaces, all of the same table and journal."""
    made: list[Workspace] = []
    write_dataset(colour_table, tmp_path / "labels.csv", images=tmp_path / "photos")

    def make(data: MultiLabelDataset = colour_table, **settings: Any) -> Workspace:
        journal, output = tmp_path / "labels.answers.jsonl", tmp_path / "labels.answered.csv"
        images = settings.pop("images", tmp_path / "photos")
        workspace = Workspace(
            data, settings.pop("model", colour_model), images, journal, output, SETTINGS
        )
        made.append(workspace)
        return workspace

    yield make
    for workspace in made:
        workspace.estimator.stop()
        workspace.journal.close()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return what serves a page as `trmml label` does, and gives its address."""
    uvicorn = pytest.importorskip("uvicorn")
    from trmml.app.server import make_app
    from trmml.app.serving import serve

    running: list[tuple[Any, threading.Thread]] = []
    make_server = uvicorn.Server

    def serve_in_thread(model: TextRegionMatcher, workspace: Workspace | None = None) -> str:
        addresses: list[str] = []
        servers: list[Any] = []

        def remember(config: Any) -> Any:
            servers.append(make_server(config))
            return servers[-1]

        monkeypatch.setattr("uvicorn.Server", remember)
        thread = threading.Thread(
            target=serve,
            args=(lambda token, hosts: make_app(model, workspace, token, hosts), addresses.append),
        )
        thread.start()
        while not (servers and servers[0].started):
            assert thread.is_alive()
            time.sleep(0.01)
        running.append((servers[0], thread))
        return addresses[0]

    yield serve_in_thread
    for server, thread in running:
        server.should_exit = True
        with contextlib.suppress(RuntimeError):
            thread.join(20)
