import hashlib
import os
from pathlib import Path

import pytest

from trmml.errors import ArtifactError
from trmml.files import (
    MAX_JSON_BYTES,
    read_json,
    sha256_of,
    write_atomically,
    write_json,
    write_text,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with pytest.raises(OSError, match="no regular file"):
        write_text(place, "x")
    assert place.is_fifo()


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        seen.append((path.read_bytes(), temporary.parent == path.parent))

    write_atomically(path, write)
    assert seen == [(b"old", True)]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "card.md", "hello")
    assert (tmp_path / "a" / "b" / "card.md").read_text() == "hello"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_text_is_written_as_utf_8_with_its_own_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "t.txt", "日本\r\n語\n")
    assert (tmp_path / "t.txt").read_bytes() == b"\xe6\x97\xa5\xe6\x9c\xac\r\n\xe8\xaa\x9e\n"


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    no_utf_8 = b"caf\xe9.png".decode(errors="surrogateescape")
    value = {"names": ["日本語", "<b>", 'a "quote"', no_utf_8], "share": 0.1, "none": None}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json") == value
    assert "日本語" in (tmp_path / "v.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "v.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe\xfa", b"[" * 100_000])
def test_what_is_not_json_is_an_artifact_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"v\.json is not valid JSON"):
        read_json(tmp_path / "v.json")


def test_json_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "v.json") == {"a": 1}


def test_json_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.touch()
    os.truncate(path, MAX_JSON_BYTES + 1)
    with pytest.raises(ArtifactError, match="larger than 64 MiB"):
        read_json(path)


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(251)) * 1009
    (tmp_path / "w").write_bytes(data)
    assert sha256_of(tmp_path / "w") == hashlib.sha256(data).hexdigest()
