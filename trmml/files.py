"""Files that are either wholly there or not at all, and their checksums."""

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from trmml.errors import ArtifactError, OutputError, TrmmlError

MAX_JSON_BYTES = 64 * 2**20
BUNDLED = Path(__file__).parent / "weights"
"""Folder of the models, and of the CLIP, that come with the package."""


def with_home(path: str | Path) -> Path:
    """Return a path with a folder in place of `~` or `~user`; other names may start with ~ as well."""
    with contextlib.suppress(RuntimeError):  # there is no such user
        return Path(path).expanduser()
    return Path(path)


def is_folder(path: str | Path) -> bool:
    """Say whether a path leads to a folder; no for a name that no file can have."""
    try:
        return with_home(path).is_dir()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def cache_folder(what: str) -> Path:
    """Where things that can be made again are kept, by what they are.

    In the folder `TRMML_CACHE`, or else in `trmml` in the user's cache folder.
    """
    base = os.environ.get("TRMML_CACHE")
    if base:
        return with_home(base) / what
    return with_home(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "trmml" / what


@contextlib.contextmanager
def writing_to(place: str | Path, advice: str = "") -> Iterator[None]:
    """Turn a failure to write into the one error that there is for it.

    Args:
        place: A file or folder, as the user knows it.
        advice: The way out, as a sentence.

    Raises:
        OutputError: If what is done inside raises an OSError.
    """
    try:
        yield
    except TrmmlError:  # some are an OSError as well, and say already what happened
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise OutputError(f"Cannot write to {place}: {reason}. {advice}".rstrip()) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place in one step.

    A process killed at any moment leaves the old file or the new one, never a part of one.

    Raises:
        OSError: If the folder cannot be made or written to, or a device or folder has that name.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is there and no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file, _where_possible():
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a result is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        set_mode(temporary, 0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)


@contextlib.contextmanager
def _where_possible() -> Iterator[None]:
    """Go on where a file system cannot do something; network mounts often cannot. Other errors stay."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise


def set_mode(path: Path, mode: int) -> None:
    """Set who may read and write a file or folder, where its file system knows such a thing."""
    with _where_possible():
        path.chmod(mode)


def open_to_read(path: Path) -> io.BufferedReader:
    """Open a file of which only the name is known: it may be no file at all.

    A pipe is read as far as somebody writes to it; one that nobody writes to is empty, where `open`
    would wait for ever.

    Raises:
        OSError: If it cannot be opened, or is a device, which may have no end.
    """
    return open(path, "rb", opener=_open_at_once)


def _open_at_once(path: str, flags: int) -> int:
    at_once = getattr(os, "O_NONBLOCK", 0)  # Windows knows no such pipes
    handle = os.open(path, flags | at_once)
    mode = os.fstat(handle).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is a device and no file", path)
    if at_once:
        os.set_blocking(handle, True)
    return handle


def read_bytes(path: Path, most: int = -1) -> bytes:
    """Return the content of a file, or its first bytes; see `open_to_read`.

    Raises:
        OSError: If it cannot be read, or does not fit into memory.
    """
    try:
        with open_to_read(path) as file:
            return file.read(most)
    except (MemoryError, OverflowError) as error:
        raise OSError(errno.ENOMEM, "it does not fit into memory", str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically and with the line ends it has.

    What a file name has that is not UTF-8 is written as an escape of JSON, which reads it back.
    """
    content = text.encode(errors="backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically; infinities and NaN are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 64 MiB.

    Raises:
        ArtifactError: If the file is too large, cannot be read or is not JSON.
    """
    try:
        content = read_bytes(path, MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ArtifactError(
                f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB; it is not read."
            )
        return json.loads(content.decode("utf-8-sig"))
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}.") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; an unchanged file is read once.

    Raises:
        ArtifactError: If it cannot be read.
    """
    try:
        resolved = path.resolve()
        found = resolved.stat()
        return _sha256(resolved, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}.") from error


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    del size, changed  # they tell one state of the file from another
    with open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
