"""The example's server, asked as Label Studio asks it, and its answers as Label Studio exports them."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import load_example

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.thresholds import Calibration
from trmml.zoo.folder import save_model

pytest.importorskip("starlette")
from starlette.testclient import TestClient

example = load_example("label_studio_backend.py")

LABELS = ("red", "green", "blue", "traffic light")
CONFIG = example.labelling_config(list(LABELS))
ANSWERS = {POSITIVE: "yes", NEGATIVE: "no", UNKNOWN: "unsure"}


def task(number: int, place: str, answers: dict[str, str] | None = None) -> dict[str, Any]:
    """Write a task as Label Studio does in a request and in its export."""
    results = [
        {"id": f"r{number}{label}", "type": "choices", "from_name": label, "to_name": "photo",
         "origin": "manual", "value": {"choices": [answer]}}
        for label, answer in (answers or {}).items()
    ]  # fmt: skip
    annotations = (
        [] if answers is None else [{"id": number, "result": results, "was_cancelled": False}]
    )
    return {"id": number, "data": {"image": place}, "project": 7, "annotations": annotations}


class Tool:
    """What Label Studio has: a project of photos, and the answers so far."""

    def __init__(self, photos: MultiLabelDataset, model: str, folder: Path) -> None:
        self.photos, self.answered = photos, 0
        self.backend = example.Backend(photos.photos[0].parent, folder / "runs", self.export, model)
        self.client = TestClient(example.make_app(self.backend))

    def export(self, project: int) -> bytes:
        assert project == 7
        rows = zip(self.photos.photos, self.photos.states, strict=True)
        tasks = [
            task(i, self.place(photo), dict(zip(LABELS, map(ANSWERS.get, states), strict=False)))
            for i, (photo, states) in enumerate(rows, start=1)
        ]
        return json.dumps(tasks[: self.answered]).encode()

    def place(self, photo: Path) -> str:
        return f"/data/local-files/?d=some%20folder/{photo.name}"

    def predict(self, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"tasks": list(tasks), "project": "7.1750000000", "label_config": CONFIG,
                "params": {"login": None, "password": None, "context": None}}  # fmt: skip
        response = self.client.post("/predict", json=body)
        assert response.status_code == 200, response.text
        return response.json()["results"]

    def setup(self, config: str = CONFIG) -> Any:
        body = {"project": "7.1750000000", "schema": config, "hostname": "http://localhost:8080",
                "access_token": "0" * 40, "extra_params": None}  # fmt: skip
        return self.client.post("/setup", json=body)


@pytest.fixture
def tool(
    colour_model: TextRegionMatcher, make_dataset: Callable[..., MultiLabelDataset], tmp_path: Path
) -> Tool:
    save_model(colour_model, tmp_path / "model")
    return Tool(make_dataset(30), str(tmp_path / "model"), tmp_path)


def test_a_suggestion_is_yes_where_the_threshold_is_reached(tool: Tool) -> None:
    assert tool.client.get("/health").json()["status"] == "UP"
    assert tool.setup().json() == {"model_version": tool.backend.model}
    photo = tool.photos.photos[0]
    uploaded = f"/data/upload/7/0a1b2c3d-{photo.name}"
    first, second, missing, outside = tool.predict(
        task(1, tool.place(photo)),
        task(2, uploaded),
        task(3, "/data/upload/7/gone.jpg"),
        task(4, "/data/local-files/?d=../photo.png"),
    )
    model = trmml.load_model(tool.backend.model, labels=LABELS)
    expected = trmml.predict(photo, model).positive
    assert first["result"] == [
        {"type": "choices", "from_name": tag.label, "to_name": "photo",
         "value": {"choices": ["yes"]}, "score": pytest.approx(tag.score, abs=1e-4)}
        for tag in sorted(expected, key=lambda tag: LABELS.index(tag.label))
    ]  # fmt: skip
    assert first["result"] == second["result"] != []
    assert missing["result"] == outside["result"] == []


def test_answers_are_learned_in_three_states_and_suggestions_change(
    tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tool.photos.photos[0]
    (before,) = tool.predict(task(1, tool.place(photo)))
    tool.photos.states[3, :] = UNKNOWN
    tool.answered = 30
    start = {"action": "START_TRAINING", "project": {"id": 7, "title": "colours"}}
    assert tool.client.post("/webhook", json=start).json() == {"status": "training"}
    assert "Learned: " in capsys.readouterr().out
    table = trmml.read_dataset(
        tool.backend.runs / "answers.json", images=photo.parent, labels=LABELS[:3]
    )
    assert table.states.tolist() == tool.photos.states.tolist()
    assert tool.setup().json() == {"model_version": "answers-0001"}
    (after,) = tool.predict(task(1, tool.place(photo)))
    assert after["model_version"] == "answers-0001"
    assert after["result"] != before["result"]
    learned = trmml.predict(photo, tool.backend.runs / "answers-0001")
    # Six photos are too few for thresholds: these are the first model's.
    np.testing.assert_allclose(learned.thresholds, [0.2, 0.4, 0.6])
    scores = {one["from_name"]: one["score"] for one in after["result"]}
    for tag in learned.positive:
        assert scores[tag.label] == pytest.approx(tag.score, abs=1e-4)
    # Nobody has said yes to this one: the first model still suggests it, or not.
    odd = [
        [one for one in each["result"] if one["from_name"] == LABELS[3]] for each in (before, after)
    ]
    assert odd[0] == odd[1]
    assert tool.client.post("/webhook", json=start).status_code == 201
    assert tool.client.get("/versions").json() == {"versions": ["answers-0002"]}


def test_a_threshold_is_new_where_enough_answers_were_held_out(
    colour_model: TextRegionMatcher, tool: Tool
) -> None:
    new = trmml.load_model(tool.backend.model)
    made = Calibration(thresholds=(0.7, 0.8, 0.9), known_positives=(4, 5, 6), method="new")
    new.calibration = made
    assert example._thresholds(colour_model, new).thresholds == (0.2, 0.8, 0.9)
    new.calibration = replace(made, known_positives=(4, 0, 1))
    assert example._thresholds(colour_model, new) == colour_model.calibration


def test_requests_during_a_training_are_answered_by_one_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on, asked = threading.Event(), threading.Event(), []

    def export(project: int) -> bytes:
        asked.append(project)
        begun.set()
        assert go_on.wait(20)
        return b"[]"

    backend = example.Backend(tmp_path, tmp_path / "runs", export, "everyday-tiny")
    first = threading.Thread(target=backend.learn, args=(1,))
    first.start()
    assert begun.wait(20)
    second = threading.Thread(target=backend.learn, args=(2,))
    second.start()
    while backend.waiting is None:
        second.join(0.01)
    backend.learn(3)  # returns at once: the one that waits will see its answers
    assert asked == [1]
    go_on.set()
    first.join()
    second.join()
    assert asked == [1, 3]
    assert capsys.readouterr().out.count("Nothing was learned: ") == 2


def test_what_cannot_be_learned_is_said_and_changes_nothing(
    tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    start = {"action": "START_TRAINING", "project": {"id": 7}}
    tool.photos.states[:] = NEGATIVE
    tool.answered = 5
    tool.client.post("/webhook", json=start)
    assert "Nothing was learned: No label has a yes to learn from yet." in capsys.readouterr().out
    tool.photos.states[0, 0] = POSITIVE
    tool.answered = 1
    tool.client.post("/webhook", json=start)
    assert "Nothing was learned: " in capsys.readouterr().out
    assert tool.setup().json() == {"model_version": tool.backend.model}
    made = {"action": "ANNOTATION_CREATED", "project": {"id": 7}, "annotation": {"id": 1}}
    assert tool.client.post("/webhook", json=made).json() == {"status": "noted"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("<View>", "The labelling configuration is no XML: no element found"),
        (
            '<View><Choices name="a" toName="p"><Choice value="yes"/></Choices></View>',
            "No label of",
        ),
    ],
)
def test_a_configuration_that_asks_nothing_is_refused(tool: Tool, config: str, said: str) -> None:
    response = tool.setup(config)
    assert response.status_code == 422
    assert response.json()["error"].startswith(said)


def test_requests_of_another_form_are_refused(tool: Tool) -> None:
    def status(content: str, kind: str = "application/json") -> int:
        return tool.client.post(
            "/webhook", content=content, headers={"Content-Type": kind}
        ).status_code

    start = '{"action": "START_TRAINING", "project": {"id": 7}}'
    assert status(start, "text/plain") == 415
    for content in ("no JSON", "[]", "{}", '{"action": "START_TRAINING", "project": {"id": "x"}}'):
        assert status(content) == 400
    assert not tool.backend.runs.exists()


@pytest.mark.parametrize("labels", [["dog"], ["a & b", "<i>", 'say "x"', "été"]])
def test_a_configuration_asks_of_the_labels_as_they_are_written(labels: list[str]) -> None:
    assert example.questions_of(example.labelling_config(labels)) == dict.fromkeys(labels, "photo")


@pytest.mark.parametrize("key", ["0123abcd", "head.body.signature"])
def test_answers_are_fetched_with_either_kind_of_token(key: str) -> None:
    seen: list[tuple[str, str | None]] = []

    class LabelStudio(BaseHTTPRequestHandler):
        def answer(self, body: bytes) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            is_there = "/projects/8/" not in self.path
            self.send_response(200 if is_there else 404)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(b"[]")

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert sent == {"refresh": key}
            self.answer(b'{"access": "short"}')

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), LabelStudio) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert example.exported(url, key, 7) == b"[]"
            with pytest.raises(trmml.DataError, match=r"does not export project 8: .*404"):
                example.exported(url, key, 8)
        finally:
            server.shutdown()
            thread.join()
    granted = "Bearer short" if "." in key else f"Token {key}"
    assert ("/api/projects/7/export?exportType=JSON", granted) in seen
