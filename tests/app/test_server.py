import http.client
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
from PIL import Image

import trmml
from trmml.app.workspace import Workspace
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher


class Page:
    """What a browser does with an address, and what a stranger might."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host = parts.netloc
        self.token = parse_qs(parts.query)["token"][0]

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "",
        token: str | None = "own",
        **headers: str,
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["X-Trmml-Token"] = self.token if token == "own" else token
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, content, sent)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def json(self, path: str, body: Any = None) -> Any:
        status, content = self.ask(path, body)
        assert status == 200, content
        return json.loads(content)


@pytest.fixture
def workspace(make_workspace: Callable[..., Workspace]) -> Workspace:
    return make_workspace()


@pytest.fixture
def page(workspace: Workspace, colour_model: TextRegionMatcher, served: Callable[..., str]) -> Page:
    made = Page(served(colour_model, workspace))
    workspace.estimator.wait(60)
    return made


def test_questions_answers_and_undo_over_the_network(
    page: Page, workspace: Workspace, tmp_path: Path
) -> None:
    (first, *_) = page.json("/api/questions", {"client": "a", "count": 3})["questions"]
    assert first["stated"] is None
    assert first["measures"] is False
    assert 0 <= first["probability"] <= 1
    given = {"id": "x1", "row": first["row"], "column": first["column"], "reply": "yes"}
    before = page.json("/api/state")["progress"]["answers"]
    progress = page.json("/api/answer", {"answers": [given]})["progress"]
    assert progress["answers"] == before + 1
    # It is on the disk before the answer to the request.
    assert '"x1"' in workspace.journal.path.read_text()
    page.json("/api/save", {})
    read = trmml.read_dataset(tmp_path / "labels.answered.csv", images=tmp_path / "photos")
    assert read.states[first["row"], first["column"]] == POSITIVE
    table = trmml.read_dataset(tmp_path / "labels.csv", images=tmp_path / "photos")
    assert table.states[first["row"], first["column"]] == UNKNOWN
    (told,) = page.json("/api/answers")["answers"]
    assert (told["id"], told["label"], told["reply"]) == ("x1", first["label"], "yes")
    assert page.json("/api/undo", {"id": "x1"})["question"]["stated"] is None
    assert page.json("/api/undo", {"id": "x1"})["question"] is None


def test_ten_answers_write_the_table(page: Page, tmp_path: Path) -> None:
    found = page.json("/api/questions", {"client": "a", "count": 10, "label": "red"})["questions"]
    answers = [{"id": f"i{q['row']}", **q, "reply": "no"} for q in found]
    assert len(answers) == 10
    page.json("/api/answer", {"answers": answers})
    read = trmml.read_dataset(tmp_path / "labels.answered.csv", images=tmp_path / "photos")
    assert all(read.states[q["row"], q["column"]] == NEGATIVE for q in found)


def test_pictures(page: Page) -> None:
    for path in ("/photo/0", "/photo/0?small=", "/heatmap/0?label=red"):
        status, content = page.ask(path)
        assert status == 200
        assert Image.open(io.BytesIO(content)).format == "JPEG"
    assert page.ask("/heatmap/0?label=horse")[0] == 422
    assert page.ask("/photo/40")[0] == 422


def test_learning_in_the_background(page: Page, workspace: Workspace, tmp_path: Path) -> None:
    truth = workspace.session.table.hidden_states
    assert truth is not None
    answers = [
        {"id": f"{row}-{column}", "row": row, "column": column,
         "reply": "yes" if truth[row, column] == POSITIVE else "no"}
        for row in range(40) for column in range(3)
    ]  # fmt: skip
    page.json("/api/answer", {"answers": answers})
    assert page.json("/api/learn", {}) == {"started": True}
    assert page.json("/api/learn", {}) == {"started": False}
    workspace.estimator.wait(60)
    found = page.json("/api/state")
    assert found["status"]["error"] is None
    (last,) = found["rounds"]
    assert last["answers"] == 120
    assert last["trained_on"] + last["validated_on"] == 40
    # All was answered, so that the random sample is every cell of the photos that validate.
    assert last["measured_on"] == 3 * last["validated_on"]
    positives = (truth[workspace.session.validates] == POSITIVE).sum(axis=0)
    enough = np.minimum(positives, last["validated_on"] - positives) >= 3
    assert last["measured_labels"] == enough.sum() > 0
    low, high = last["gain_range"]
    assert low <= last["after"] - last["before"] <= high
    assert 0 < last["before"] <= 1
    assert 0 < last["after"] <= 1
    saved = trmml.load_model(last["folder"])
    assert workspace.estimator.model.labels == saved.labels
    assert Path(last["folder"]).parent == tmp_path / "labels.answers.models"


def test_the_last_learned_model_is_gone_on_with(
    page: Page, workspace: Workspace, make_workspace: Callable[..., Workspace]
) -> None:
    test_learning_in_the_background(page, workspace, workspace.output.parent)
    thought = workspace.session.probability.copy()
    workspace.estimator.stop()
    workspace.journal.close()
    again = make_workspace()
    again.begin()
    again.estimator.wait(60)
    assert again.estimator.model.source == str(workspace.estimator.model.source)
    assert abs(again.session.probability - thought).max() < 1e-4


def test_learning_from_nothing_says_why(page: Page, workspace: Workspace) -> None:
    workspace.session.states[:] = UNKNOWN
    page.json("/api/learn", {})
    workspace.estimator.wait(60)
    assert "No label has a known positive" in page.json("/api/state")["status"]["error"]


def test_without_the_token_nothing_is_told(page: Page, workspace: Workspace) -> None:
    for path in ("/", "/api/state", "/photo/0", "/heatmap/0?label=red", "/api/answers", "/nothing"):
        for token in (None, "", "wrong", "é"):
            status, content = page.ask(path, token=token if token != "é" else quote("é"))
            assert (status, b"token" in content) == (403, True), path
    body = {"answers": [{"id": "z", "row": 0, "column": 0, "reply": "yes"}]}
    # A token in the address is enough to read, as pictures must, and not to write.
    assert page.ask(f"/api/state?token={page.token}", token=None)[0] == 200
    assert page.ask(f"/api/answer?token={page.token}", body, token=None)[0] == 403
    assert not workspace.journal.answers


def test_other_sites_are_refused(page: Page, workspace: Workspace) -> None:
    body = {"answers": [{"id": "z", "row": 0, "column": 0, "reply": "yes"}]}
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"},
        {"Host": f"evil.example:{page.host.split(':')[1]}"}, {"Sec_Fetch_Site": "cross-site"},
        {"Origin": f"https://{page.host}"},
    ):  # fmt: skip
        assert page.ask("/api/answer", body, **headers)[0] == 403, headers
    assert not workspace.journal.answers
    own = {"Origin": f"http://{page.host}", "Sec_Fetch_Site": "same-origin"}
    assert page.ask("/api/answer", body, **own)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b'"a"', {}, {"answers": 3}, {"answers": [{"id": "a"}]},
        {"answers": [{"id": "a", "row": 10**9, "column": 0, "reply": "yes"}]},
        {"answers": [{"id": "a", "row": 0, "column": 0, "reply": "maybe"}]},
        {"answers": [{"id": "a", "row": "0x", "column": 0, "reply": "yes"}]}, b"\xff", b"9" * 2**21,
    ],
)  # fmt: skip
def test_odd_requests_get_a_line_and_write_nothing(
    page: Page, workspace: Workspace, body: Any
) -> None:
    status, content = page.ask("/api/answer", body)
    assert status in (400, 422)
    assert "\n" not in json.loads(content)["error"]
    assert not workspace.journal.answers


@pytest.mark.parametrize(
    "path", ["/../labels.csv", "/photo/..%2flabels.csv", "/photo/%2e%2e/x", "/try/..%2f"]
)
def test_no_path_leads_to_a_file(page: Page, path: str) -> None:
    status, content = page.ask(path)
    assert status in (404, 422)
    assert b"image" not in content


def test_photos_outside_the_folder_are_refused(
    make_workspace: Callable[..., Workspace], colour_table: MultiLabelDataset, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    for place in (tmp_path / "secret.png", tmp_path / "photos" / ".." / "secret.png"):
        photos = (place, *colour_table.photos[1:])
        with pytest.raises(DataError, match=r"1 photos are outside the folder .*secret\.png"):
            make_workspace(replace(colour_table, photos=photos))
    assert not (tmp_path / "labels.answers.jsonl").exists()
    linked = tmp_path / "photos" / "linked.png"
    linked.symlink_to(tmp_path / "secret.png")
    make_workspace(replace(colour_table, photos=(linked, *colour_table.photos[1:])))


def test_an_unreadable_photo_is_left_out(
    make_workspace: Callable[..., Workspace], colour_table: MultiLabelDataset
) -> None:
    colour_table.photos[3].write_bytes(b"no photo")
    workspace = make_workspace()
    workspace.begin()
    workspace.estimator.wait(60)
    assert workspace.estimator.status["error"] is None
    assert workspace.session.unreadable.nonzero()[0].tolist() == [3]
    assert workspace.session.probability[[2, 4]].min() >= 0
    assert workspace.facts()["unreadable"] == 1


def test_trying_a_photo(
    served: Callable[..., str], colour_model: TextRegionMatcher, tmp_path: Path
) -> None:
    page = Page(served(colour_model))
    assert page.json("/api/state")["view"] == "try"
    buffer = io.BytesIO()
    photo = Image.new("RGB", (40, 30), "red")
    photo.save(buffer, "PNG")
    found = page.json("/api/try", buffer.getvalue())
    expected = colour_model.predict(photo)
    assert {tag["label"]: tag["score"] for tag in found["tags"]} == {
        label: pytest.approx(score, abs=1e-4) for label, score in expected.items()
    }
    for path in (f"/try/{found['id']}", f"/try/{found['id']}?label=red"):
        assert Image.open(io.BytesIO(page.ask(path)[1])).size == (40, 30)
    assert page.ask("/api/try", b"<svg onload=alert(1)>")[0] == 422
    assert page.ask("/try/unknown")[0] == 422
    assert page.ask("/api/questions", {"client": "a"})[0] == 404
