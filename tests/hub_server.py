"""A loopback Hub: a small real HTTP server that speaks what huggingface_hub's client speaks.

Models only: create, preupload, LFS batch and upload, commit, revision info, tree, resolve with entity
tags, redirects and ranges. What is stored lies in memory. Faults are asked for by the path of a
request, so that a test can cut a connection or change bytes and see what becomes of it.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopbackCanaryToken0123456789"
LARGE = (".safetensors", ".bin", ".pt")


@dataclass
class Repository:
    """Files by commit, and what branches point to."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Store files as a new commit at the end of a branch and return it."""
        digest = hashlib.sha1(f"{len(self.commits)}{branch}".encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + hashlib.sha256(content).digest())
        oid = digest.hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid


@dataclass
class Fault:
    """What happens to the next requests whose method and path match.

    Attributes:
        pattern: Searched for in `METHOD /path`.
        action: A status code, or `cut` (half of the body), `change` (one byte of it is another),
            `page` (a web page in place of an answer), `odd` (JSON that is none of the Hub), or the
            bytes of an answer.
        times: How often it happens.
    """

    pattern: str
    action: int | str | bytes
    times: int = 1


class HubServer:
    """The server, its repositories and the faults it is to show."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Forget everything."""
        for part in (self.repositories, self.large, self.faults, self.requests):
            part.clear()

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> str:
        """Publish files as a commit on `main` and return the commit."""
        repository = self.repositories.setdefault(name, Repository(**settings))
        for path, content in files.items():
            if path.endswith(LARGE):
                self.large[hashlib.sha256(content).hexdigest()] = content
        return repository.commit(files)

    def fail(self, pattern: str, action: int | str | bytes, times: int = 1) -> None:
        """Ask for a fault."""
        self.faults.append(Fault(pattern, action, times))


def _handler_for(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        server_of = hub

    return Handler


class _Stop(Exception):
    """An answer has been given."""


class _Handler(BaseHTTPRequestHandler):
    server_of: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = unquote(parts.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            self.body = self._chunks()
        line = f"{self.command} {path}"
        self.server_of.requests.append(line)
        self.fault: int | str | bytes | None = None
        for fault in self.server_of.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                self.fault = fault.action
                break
        try:
            if isinstance(self.fault, int):
                self._error(self.fault, "A fault was asked for")
            if self.fault == "page":
                self._answer(b"<html>Log in to this network</html>")
            if isinstance(self.fault, bytes):
                self._answer(self.fault)
            if self.fault == "odd":
                self._json([1])
            for pattern, answer in _ROUTES:
                match = re.fullmatch(pattern, line)
                if match:
                    answer(self, **match.groupdict())
            self._error(404, f"No route for {line}")
        except _Stop:
            pass

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # Answers

    def _answer(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            if self.fault == "change":
                middle = len(content) // 2
                content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            if self.fault == "cut":
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
                raise _Stop
            self.wfile.write(content)
        raise _Stop

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message}
        if code is not None:
            headers["X-Error-Code"] = code
        content = json.dumps({"error": message}).encode()
        self._answer(content, status, headers)

    # Who may do what

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _readable(self, name: str) -> Repository:
        repository = self.server_of.repositories.get(name)
        if repository is None or (repository.private and not self._has_token()):
            self._error(404, "Repository Not Found", "RepoNotFound")
        assert repository is not None
        return repository

    def _writable(self, name: str) -> Repository:
        if not self._has_token():
            self._error(401, "Invalid credentials in Authorization header")
        return self._readable(name)

    def _at(self, repository: Repository, revision: str) -> str:
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    # Routes

    def create(self) -> None:
        wish = json.loads(self.body)
        name = (
            f"{wish['organization']}/{wish['name']}" if wish.get("organization") else wish["name"]
        )
        if not self._has_token():
            self._error(401, "Invalid username or password.")
        if name in self.server_of.repositories:
            self._json({"url": f"{self.server_of.url}/{name}", "error": "exists"}, 409)
        is_private = bool(wish.get("private")) or wish.get("visibility") == "private"
        repository = Repository(private=is_private)
        repository.commit({})
        self.server_of.repositories[name] = repository
        self._json({"url": f"{self.server_of.url}/{name}", "name": name})

    def info(self, name: str, revision: str | None = None) -> None:
        repository = self._readable(name)
        oid = self._at(repository, revision or "main")
        files = [
            {"rfilename": path} | _size_facts(path, content)
            for path, content in repository.commits[oid].items()
        ]
        from huggingface_hub import ModelCard  # not before conftest.py has set its environment

        card = repository.commits[oid].get("README.md", b"").decode()
        facts = {"id": name, "sha": oid, "private": repository.private, "siblings": files}
        self._json(facts | {"cardData": ModelCard(card).data.to_dict() if card else None})

    def tree(self, name: str, revision: str) -> None:
        repository = self._readable(name)
        files = repository.commits[self._at(repository, revision)]
        self._json(
            [
                {"type": "file", "path": path, "oid": _git_hash(content), "size": len(content)}
                for path, content in files.items()
            ]
        )

    def preupload(self, name: str, revision: str) -> None:
        self._at(self._writable(name), revision)
        files = json.loads(self.body)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        self._json({"files": modes})

    def batch(self, name: str) -> None:
        self._writable(name)
        objects = []
        for wish in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.server_of.url}/upload/{wish['oid']}"}}
            known = wish["oid"] in self.server_of.large
            objects.append(wish if known else {**wish, "actions": upload})
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, digest: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != digest:
            self._error(400, "Other bytes than announced")
        self.server_of.large[digest] = self.body
        self._json({})

    def commit(self, name: str, revision: str) -> None:
        repository = self._writable(name)
        files = dict(repository.commits[self._at(repository, revision)])
        for line in self.body.splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.server_of.large[value["oid"]]
            elif change["key"] == "deletedFile":
                del files[value["path"]]
        asks = "create_pr" in self.query
        branch = f"refs/pr/{len(repository.branches)}" if asks else revision
        oid = repository.commit(files, branch)
        answer = {"success": True, "commitOid": oid, "hookOutput": ""}
        answer["commitUrl"] = f"{self.server_of.url}/{name}/commit/{oid}"
        if asks:
            number = branch.rpartition("/")[2]
            answer["pullRequestUrl"] = f"{self.server_of.url}/{name}/discussions/{number}"
        self._json(answer)

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._readable(name)
        if repository.gated and not self._has_token():
            self._error(403, f"Access to model {name} is restricted", "GatedRepo")
        oid = self._at(repository, revision)
        content = repository.commits[oid].get(path)
        if content is None:
            self._error(404, "Entry not found", "EntryNotFound")
        assert content is not None
        headers = {"X-Repo-Commit": oid}
        if not path.endswith(LARGE):
            self._answer(content, headers=headers | {"ETag": f'"{_git_hash(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        # Another host, as on the Hub: the client takes the headers above and does not follow yet.
        other_host = self.server_of.url.replace("127.0.0.1", "localhost")
        headers["Location"] = f"{other_host}/cdn/{digest}"
        self._answer(b"", HTTPStatus.FOUND, headers)

    def cdn(self, digest: str) -> None:
        content = self.server_of.large[digest]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self._answer(content, headers={"ETag": f'"{digest}"', "Accept-Ranges": "bytes"})
        assert asked is not None
        first = int(asked[1])
        last = int(asked[2]) if asked[2] else len(content) - 1
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "ETag": f'"{digest}"'}
        self._answer(content[first : last + 1], HTTPStatus.PARTIAL_CONTENT, span)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _size_facts(path: str, content: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"size": len(content), "blobId": _git_hash(content)}
    if path.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        facts["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return facts


_NAME, _REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES = (
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET /api/models/{_NAME}", _Handler.info),
    (rf"GET /api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    (rf"GET /api/models/{_NAME}/tree/{_REVISION}/?", _Handler.tree),
    (rf"POST /api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    (rf"POST /api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /upload/(?P<digest>\w+)", _Handler.upload),
    (r"(?:GET|HEAD) /cdn/(?P<digest>\w+)", _Handler.cdn),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
)

HUB = HubServer()
"""The one that the tests share; `conftest.py` tells huggingface_hub of it."""
