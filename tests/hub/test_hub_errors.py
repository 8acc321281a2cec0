"""Which errors around the client become ours, and which show as what they are."""

import json
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer

from trmml.errors import OfflineError, OutputError
from trmml.hub.errors import hub_errors
from trmml.hub.repository import Access, fetch_files, upload_files

FILES = {"config.json": 100}


def pushed(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    upload_files("acme/shop", {"config.json": folder / "config.json"}, message="Push", token=TOKEN)


@pytest.mark.parametrize("place", ["repos/create", "/tree/", "/preupload/", "/commit/"])
@pytest.mark.parametrize("answer", ["page", "odd"])
def test_a_push_that_is_answered_by_something_else_is_one_error(
    hub: HubServer, tmp_path: Path, place: str, answer: str
) -> None:
    hub.fail(place, answer)
    with pytest.raises(OfflineError, match="is there a login or a proxy before it"):
        pushed(tmp_path)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b"null", b"3", b'"text"', b"\xff\xfe\x00", b"[" * 100_000]
)
def test_whatever_form_an_odd_answer_has_it_is_one_error(hub: HubServer, answer: bytes) -> None:
    hub.add("acme/shop", {"config.json": b"{}"})
    hub.fail("GET /api/models/acme/shop", answer)
    with pytest.raises(OfflineError, match="is there a login or a proxy before it"):
        fetch_files("acme/shop", None, Access(), required=FILES)


def mistaken(kind: str) -> None:
    if kind == "key":
        _ = {}["siblings"]
    elif kind == "attribute":
        _ = None.siblings
    elif kind == "type":
        _ = 1 + "1"
    else:
        int("one")


@pytest.mark.parametrize(
    ("kind", "error"),
    [("key", KeyError), ("attribute", AttributeError), ("type", TypeError), ("", ValueError)],
)
def test_a_mistake_of_this_package_shows_as_what_it_is(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error), hub_errors("acme/shop", None):
        mistaken(kind)


def test_json_that_cannot_be_read_is_an_answer_of_something_else() -> None:
    message = r"acme/shop@v1 is not understood \(JSONDecodeError: Expecting value"
    with pytest.raises(OfflineError, match=message), hub_errors("acme/shop", "v1"):
        json.loads("<html>")


def test_a_cache_that_cannot_be_written_to_is_named() -> None:
    message = r"^Cannot write to /cache: Permission denied\. Set cache_dir or HF_HOME"
    with pytest.raises(OutputError, match=message), hub_errors("acme/shop", None):
        raise PermissionError(13, "Permission denied", "/cache")
