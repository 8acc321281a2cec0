"""Label Studio shows what a model suggests, and the model learns from what people answer there.

    python examples/label_studio_backend.py config dog cat > config.xml
    LABEL_STUDIO_API_KEY=… python examples/label_studio_backend.py serve PHOTOS RUNS [--help]

The first prints a labelling configuration that asks yes, no or unsure of each label; the second is the
model to connect. docs/label-studio.md goes through it step by step.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from xml.etree import ElementTree

import typer
import uvicorn
from starlette import requests
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import trmml
from trmml.app.workspace import require_inside
from trmml.data.readers.label_studio import read_label_studio
from trmml.data.readers.places import find_photos_of
from trmml.data.readers.rows import Options
from trmml.files import write_text
from trmml.labels import POSITIVE
from trmml.matcher.thresholds import Calibration
from trmml.training.photos import FEW_POSITIVES

ANSWERS = ("yes", "no", "unsure")
load = lru_cache(maxsize=2)(trmml.load_model)


def labelling_config(labels: list[str]) -> str:
    """Return the configuration that asks of each label."""
    view = ElementTree.Element("View", style="display: flex; gap: 24px")
    picture = ElementTree.SubElement(view, "View", style="flex: 3")
    ElementTree.SubElement(picture, "Image", name="photo", value="$image")
    questions = ElementTree.SubElement(view, "View", style="flex: 1; min-width: 220px")
    for label in labels:
        ElementTree.SubElement(questions, "Header", value=label, size="6")
        asked = {"name": label, "toName": "photo", "choice": "single", "showInline": "true"}
        question = ElementTree.SubElement(questions, "Choices", asked)
        for answer in ANSWERS:
            ElementTree.SubElement(question, "Choice", value=answer)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def questions_of(config: str) -> dict[str, str]:
    """Return the labels that a configuration asks of, and the name of the picture for each."""
    try:
        controls = list(ElementTree.fromstring(config).iter("Choices"))
    except ElementTree.ParseError as error:
        raise trmml.DataError(f"The labelling configuration is no XML: {error}.") from error
    asked = {
        control.attrib["name"]: control.attrib["toName"]
        for control in controls
        if {choice.get("value") for choice in control.iter("Choice")} == set(ANSWERS)
    }
    if not asked:
        raise trmml.DataError(
            "No label of the labelling configuration is asked with yes, no and unsure; "
            "`label_studio_backend.py config LABEL …` prints one that does."
        )
    return asked


class Backend:
    """A model that suggests answers, and is trained on those that people gave.

    Args:
        photos: Folder that the tasks' photos are in.
        runs: Folder of the trained models; the newest one suggests.
        export: Returns the answers of a project, by its number, in Label Studio's JSON.
        model: What suggests at first, and what each training starts from.
    """

    def __init__(
        self, photos: Path, runs: Path, export: Callable[[int], bytes], model: str
    ) -> None:
        self.photos, self.runs, self.export, self.model = photos, runs, export, model
        self.predicting, self.training = threading.Lock(), threading.Lock()
        self.waiting: int | None = None

    @property
    def version(self) -> str:
        """Name of what suggests now."""
        finished = sorted(path.parent.name for path in self.runs.glob("answers-*[0-9]/config.json"))
        return finished[-1] if finished else self.model

    def suggest(
        self, tasks: list[dict[str, Any]], questions: dict[str, str]
    ) -> list[dict[str, Any]]:
        """Return for each task the labels that reach their thresholds as yes; the rest stays open."""
        version, labels = self.version, tuple(questions)
        photos = [self._photo(task) for task in tasks]
        found = [photo for photo in photos if photo is not None]
        with self.predicting:
            models = [] if version == self.model else [load(self.runs / version)]
            if not models or not set(labels) <= set(models[0].labels):
                # What nobody has confirmed yet is not learned; the first model suggests it.
                models.append(load(self.model, labels=labels))
            seen = dict(
                zip(found, zip(*(m.predict(found) for m in models), strict=True), strict=True)
            )
        return [_answer(seen.get(photo, ()), questions, version) for photo in photos]

    def _photo(self, task: dict[str, Any]) -> Path | None:
        place = self.photos / "tasks.json"
        try:
            table = read_label_studio([{"data": task["data"]}], place, Options(unlabeled="unknown"))
            ((photo, _),) = find_photos_of(table.rows[:1], place, self.photos)
            require_inside([photo], self.photos)
        except trmml.DataError as error:  # the other tasks go on
            print(f"Task {task.get('id')}: {error}", flush=True)
            return None
        return photo

    def learn(self, project: int) -> None:
        """Train on all answers; requests that come meanwhile are answered by one more training."""
        is_waiting, self.waiting = self.waiting is not None, project
        if is_waiting:
            return
        with self.training:
            if self.waiting is None:  # another that came at the same moment has done it
                return
            project, self.waiting = self.waiting, None
            try:
                print(f"Learned: {self._train(project)}", flush=True)
            except trmml.TrmmlError as error:
                print(f"Nothing was learned: {error}", flush=True)

    def _train(self, project: int) -> Path:
        self.runs.mkdir(parents=True, exist_ok=True)
        table = self.runs / "answers.json"
        write_text(table, self.export(project).decode())
        data = trmml.read_dataset(table, images=self.photos)
        require_inside(data.photos, self.photos)
        seen = (data.states == POSITIVE).any(axis=0)
        labels = [label for label, has_one in zip(data.labels, seen, strict=True) if has_one]
        if not labels:
            raise trmml.DataError("No label has a yes to learn from yet.")
        settings = {"training.val_fraction": 0.2}
        start = trmml.load_model(self.model, labels=labels)
        model = trmml.finetune(data, model=start, labels=labels, config=settings)
        facts = model.report["finetune"]
        if facts["best_epoch"] is None and not facts["has_new_probe"]:
            raise trmml.DataError(
                "nothing was better on the answers held out than the first model; give more answers."
            )
        model.calibration = _thresholds(start, model)
        numbers = [int(path.name[8:]) for path in self.runs.glob("answers-[0-9]*[0-9]")]
        run = self.runs / f"answers-{max(numbers, default=0) + 1:04}"
        trmml.save_model(model, run, facts=model.report)
        return run


def _thresholds(start: trmml.TextRegionMatcher, model: trmml.TextRegionMatcher) -> Calibration:
    """Return the new thresholds of labels with enough answers held out, and the first for the others."""
    positives = zip(model.labels, model.calibration.known_positives, strict=True)
    enough = tuple(label for label, count in positives if count >= FEW_POSITIVES)
    if not enough:
        return start.calibration
    made = model.calibration.relabelled(model.labels, enough)
    return start.calibration.updated(model.labels, enough, made)


def _answer(
    seen: Iterable[trmml.Prediction], questions: dict[str, str], version: str
) -> dict[str, Any]:
    """Return what models say of a photo, the first that knows a label, as Label Studio writes it."""
    tags: dict[str, float | None] = {}
    for one in seen:
        positive = {tag.label: round(float(tag.score), 4) for tag in one.positive}
        tags = {label: positive.get(label) for label in one.labels} | tags
    result = [
        {
            "type": "choices",
            "from_name": label,
            "to_name": picture,
            "value": {"choices": ["yes"]},
            "score": tags[label],
        }
        for label, picture in questions.items()
        if tags.get(label) is not None
    ]
    mean = sum(one["score"] for one in result) / max(len(result), 1)
    return {"result": result, "score": round(mean, 4), "model_version": version}


def make_app(backend: Backend) -> Starlette:
    """Return the server that Label Studio talks to."""

    def health(request: requests.Request) -> Response:
        return JSONResponse({"status": "UP", "model_class": "TextRegionMatcher"})

    def versions(request: requests.Request) -> Response:
        return JSONResponse({"versions": [backend.version]})

    def setup(body: dict[str, Any]) -> Response:
        questions_of(body["schema"])
        return JSONResponse({"model_version": backend.version})

    def predict(body: dict[str, Any]) -> Response:
        results = backend.suggest(body["tasks"], questions_of(body["label_config"]))
        return JSONResponse({"results": results})

    def webhook(body: dict[str, Any]) -> Response:
        if body["action"] != "START_TRAINING":
            return JSONResponse({"status": "noted"}, 201)
        task = BackgroundTask(backend.learn, int(body["project"]["id"]))
        return JSONResponse({"status": "training"}, 201, background=task)

    def post(name: str, answer: Callable[[dict[str, Any]], Response]) -> Route:
        async def endpoint(request: requests.Request) -> Response:
            # A page of another site that is open in a browser here cannot send this type unasked.
            if request.headers.get("content-type") != "application/json":
                return JSONResponse({"error": "Expected application/json."}, 415)
            try:
                return await run_in_threadpool(answer, await request.json())
            except trmml.TrmmlError as error:
                return JSONResponse({"error": str(error)}, 422)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                return JSONResponse({"error": f"The request is not understood: {error!r}."}, 400)

        return Route(f"/{name}", endpoint, methods=["POST"])

    posts = [post("setup", setup), post("predict", predict), post("webhook", webhook)]
    return Starlette(routes=[Route("/health", health), Route("/versions", versions), *posts])


def exported(url: str, key: str, project: int) -> bytes:
    """Fetch the answers of a project.

    Args:
        url: Where Label Studio is.
        key: A personal access token, or a legacy one, which has no dots.
        project: Its number.
    """
    try:
        access = f"Token {key}"
        if "." in key:
            body = json.dumps({"refresh": key}).encode()
            refresh = Request(
                f"{url}/api/token/refresh", body, {"Content-Type": "application/json"}
            )
            with urlopen(refresh, timeout=60) as response:
                access = f"Bearer {json.load(response)['access']}"
        place = f"{url}/api/projects/{project}/export?exportType=JSON"
        with urlopen(Request(place, headers={"Authorization": access}), timeout=600) as response:
            return response.read()
    except OSError as error:
        raise trmml.DataError(
            f"{url} does not export project {project}: {error}. Is LABEL_STUDIO_API_KEY a token of "
            "somebody who may see it?"
        ) from error


app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def config(labels: list[str]) -> None:
    """Print a labelling configuration that asks yes, no or unsure of each label."""
    print(labelling_config(labels))


@app.command()
def serve(
    photos: Path,
    runs: Path,
    label_studio: str = "http://localhost:8080",
    model: str = "everyday-tiny",
    host: str = "127.0.0.1",
    port: int = 9090,
) -> None:
    """Serve a model to Label Studio: suggest from PHOTOS, keep what is trained in RUNS."""
    key = os.environ.get("LABEL_STUDIO_API_KEY") or ""
    if not re.fullmatch(r"[\w.=-]+", key):
        raise typer.BadParameter("set LABEL_STUDIO_API_KEY to an access token of your account")
    backend = Backend(photos, runs, lambda number: exported(label_studio, key, number), model)
    uvicorn.run(make_app(backend), host=host, port=port)


if __name__ == "__main__":
    app()
