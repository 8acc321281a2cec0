"""The page's server: reads a request, calls the session or the model, answers JSON or a picture."""

import contextlib
import json
import math
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from functools import wraps
from pathlib import Path
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from trmml.app.guarding import Guard
from trmml.app.journal import Reply
from trmml.app.pictures import LARGE, SMALL
from trmml.app.ranking import DEFAULT_ORDER, ORDERS
from trmml.app.session import Given, Question
from trmml.app.trying import MAX_UPLOAD_BYTES, Tried
from trmml.app.workspace import Workspace
from trmml.errors import DataError, OutputError, TrmmlError
from trmml.matcher.model import TextRegionMatcher

PAGE = Path(__file__).with_name("page.html")
MAX_JSON_BYTES = 2**20
MOST_QUESTIONS = 100
MOST_ANSWERS = 500

Endpoint = Callable[..., Any]


def make_app(
    model: TextRegionMatcher, workspace: Workspace | None, token: str, hosts: tuple[str, ...]
) -> Guard:
    """Return the guarded app.

    Args:
        model: What is tried, where there is no workspace.
        workspace: A table with its session; None for the view that tries photos alone.
        token: What every request must have.
        hosts: `name:port` of the page.
    """

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        if workspace is not None:
            workspace.begin()
        yield
        if workspace is not None:
            await run_in_threadpool(workspace.close)

    routes = [Route("/", _page), *_trying(model, workspace)]
    if workspace is None:
        facts = {"view": "try", "model": _name(model), "labels": len(model.labels)}
        routes.append(Route("/api/state", lambda request: JSONResponse(facts)))
    else:
        routes += _answering(workspace)
    app = Starlette(routes=routes, lifespan=life)
    app.router.redirect_slashes = False
    return Guard(app, token, hosts)


def _page(request: Request) -> Response:
    nonce = secrets.token_urlsafe(12)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    text = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
    return HTMLResponse(
        text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    )


def _told(endpoint: Endpoint) -> Endpoint:
    """Turn expected errors of an endpoint into a status and one line; it runs beside the event loop."""

    @wraps(endpoint)
    async def run(request: Request) -> Response:
        try:
            body = await _json_body(request) if request.method == "POST" else {}
            return await run_in_threadpool(endpoint, request, body)
        except OutputError as error:
            return _error(error, 507)
        except TrmmlError as error:
            return _error(error, 422)
        except (KeyError, TypeError, ValueError) as error:
            return _error(DataError(f"The request is not understood: {error!r}."), 400)

    return run


def _error(error: Exception, status: int) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, status)


async def _json_body(request: Request) -> dict[str, Any]:
    body = json.loads(await _body(request, MAX_JSON_BYTES) or b"{}")
    if not isinstance(body, dict):
        raise ValueError("expected an object")
    return body


async def _body(request: Request, limit: int) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise DataError(f"More than {limit >> 20} MiB were sent; that is too much.")
    return bytes(content)


def _picture(content: bytes) -> Response:
    return Response(
        content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"}
    )


def _name(model: TextRegionMatcher) -> str:
    return model.source or repr(model)


def _trying(model: TextRegionMatcher, workspace: Workspace | None) -> list[Route]:
    """Return the routes of the view that tries photos."""
    tried, predicting = Tried(), threading.Lock()

    def score(content: bytes) -> dict[str, Any]:
        with predicting:
            return tried.add(content, model if workspace is None else workspace.estimator.model)

    async def add(request: Request) -> Response:
        try:
            content = await _body(request, MAX_UPLOAD_BYTES)
            return JSONResponse(await run_in_threadpool(score, content))
        except TrmmlError as error:
            return _error(error, 422)

    @_told
    def picture(request: Request, body: dict[str, Any]) -> Response:
        label = request.query_params.get("label")
        return _picture(tried.picture(request.path_params["photo"], label))

    return [
        Route("/api/try", add, methods=["POST"]),
        Route("/try/{photo:str}", picture),
    ]


def _answering(workspace: Workspace) -> list[Route]:
    """Return the routes of the views that answer and learn."""

    @_told
    def state(request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse(workspace.facts() | {"orders": ORDERS, "order": DEFAULT_ORDER})

    @_told
    def questions(request: Request, body: dict[str, Any]) -> Response:
        order, label = body.get("order", DEFAULT_ORDER), body.get("label")
        if order not in ORDERS:
            raise ValueError(f"order {order!r}")
        count = min(int(body.get("count", 1)), MOST_QUESTIONS)
        with workspace.lock:
            for row, column in body.get("passed", []):
                workspace.session.pass_over(str(body["client"]), int(row), int(column))
            found = workspace.session.questions(
                str(body["client"]), order, None if label is None else str(label), count
            )
        return JSONResponse({"questions": [_question(workspace, one) for one in found]})

    @_told
    def answer(request: Request, body: dict[str, Any]) -> Response:
        given = [
            Given(str(one["id"])[:64], int(one["row"]), int(one["column"]), _reply(one["reply"]))
            for one in body["answers"][:MOST_ANSWERS]
        ]
        workspace.answer(given)
        return JSONResponse({"progress": workspace.progress()})

    @_told
    def undo(request: Request, body: dict[str, Any]) -> Response:
        found = workspace.undo(str(body["id"]))
        return JSONResponse(
            {"question": found and _question(workspace, found), "progress": workspace.progress()}
        )

    @_told
    def answers(request: Request, body: dict[str, Any]) -> Response:
        with workspace.lock:
            found = workspace.session.answers(200)
        rows = [
            {"id": one.id, "row": row, "column": column, "photo": one.image, "label": one.label,
             "reply": one.reply, "time": one.time}
            for one, (row, column) in found
        ]  # fmt: skip
        return JSONResponse({"answers": rows})

    @_told
    def learn(request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse({"started": workspace.estimator.learn()})

    @_told
    def save(request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse({"wrote": str(workspace.save())})

    @_told
    def photo(request: Request, body: dict[str, Any]) -> Response:
        side = SMALL if "small" in request.query_params else LARGE
        return _picture(workspace.pictures.photo(_row(workspace, request), side))

    @_told
    def heatmap(request: Request, body: dict[str, Any]) -> Response:
        return _picture(workspace.heatmap(_row(workspace, request), request.query_params["label"]))

    posts = {"questions": questions, "answer": answer, "undo": undo, "learn": learn, "save": save}
    return [
        Route("/api/state", state),
        Route("/api/answers", answers),
        *(Route(f"/api/{name}", endpoint, methods=["POST"]) for name, endpoint in posts.items()),
        Route("/photo/{row:int}", photo),
        Route("/heatmap/{row:int}", heatmap),
    ]


def _row(workspace: Workspace, request: Request) -> int:
    row = int(request.path_params["row"])
    if row >= len(workspace.session.table):
        raise DataError(f"There is no photo {row}.")
    return row


def _reply(value: Any) -> Reply:
    if value not in get_args(Reply):
        raise ValueError(f"reply {value!r}")
    return value


def _question(workspace: Workspace, question: Question) -> dict[str, Any]:
    stated = {1: "yes", 0: "no"}.get(question.stated)
    return {
        "row": question.row,
        "column": question.column,
        "photo": workspace.session.names[question.row],
        "label": workspace.session.table.labels[question.column],
        "stated": stated,
        "measures": question.measures,
        "probability": None if math.isnan(question.probability) else round(question.probability, 4),
    }
