"""The template of a Space, run as a Space runs it, and asked through Gradio's own client."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from skimage import data as sample

import trmml

SPACE = Path(__file__).parents[2] / "examples" / "space"
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio")

ASK = """
import json, sys
from gradio_client import Client, handle_file
rows, heatmaps = Client(sys.argv[1], verbose=False).predict(handle_file(sys.argv[2]), api_name="/tag")
print(json.dumps([rows["data"], [[one["caption"], one["image"]] for one in heatmaps]]))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start the app, and return where it is once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = os.environ | {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, str(SPACE / "app.py")]
    with subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert app.stdout is not None
            lines = iter(app.stdout.readline, "")
            assert next((line for line in lines if "running" in line.lower()), None), "it ended"
            yield f"http://127.0.0.1:{port}"
        finally:
            app.terminate()


def ask(address: str, photo: Path) -> tuple[list[list[Any]], list[list[str]]]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, address, str(photo)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_gradio
def test_a_photo_gets_its_tags_and_heatmaps(address: str, tmp_path: Path) -> None:
    portrait = tmp_path / "astronaut.png"
    Image.fromarray(sample.astronaut()).save(portrait)
    rows, heatmaps = ask(address, portrait)
    expected = trmml.predict(portrait)
    tags = [tag.label for tag in expected.positive]
    assert [row[0] for row in rows if row[3] == "yes"] == tags
    others = [name for name, _ in expected.top(len(expected)) if name not in tags]
    assert [row[0] for row in rows[len(tags) :]] == others[:5]
    for label, score, threshold, tagged in rows:
        assert score == pytest.approx(expected[label], abs=1e-3)
        assert threshold == pytest.approx(
            expected.thresholds[expected.labels.index(label)], abs=1e-3
        )
        assert (tagged == "yes") == (label in tags)
    assert [caption for caption, _ in heatmaps] == tags[:12]
    with Image.open(heatmaps[0][1]) as overlay:
        assert overlay.width == overlay.height > 100


@needs_gradio
def test_a_photo_that_is_cut_off_is_told(address: str, tmp_path: Path) -> None:
    Image.fromarray(sample.astronaut()).save(tmp_path / "whole.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:20_000])
    done = subprocess.run(
        [sys.executable, "-c", ASK, address, str(cut)], capture_output=True, text=True
    )
    assert done.returncode != 0
    with pytest.raises(trmml.ImageError) as told:
        trmml.predict(cut)
    assert str(told.value).removeprefix(str(cut)) in done.stderr


def test_the_space_states_the_versions_that_it_was_tested_with() -> None:
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["sdk"] == "gradio"
    assert (SPACE / facts["app_file"]).is_file()
    wanted = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"trmml=={trmml.__version__}" in wanted
    if find_spec("gradio") is not None:
        assert facts["sdk_version"] == version("gradio")
