"""Photos whose bytes lie in a table, as in the Parquet files of Hugging Face datasets."""

import hashlib
from pathlib import Path
from typing import Any

from trmml.files import cache_folder, write_atomically, writing_to

_KINDS = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"RIFF", ".webp"),
)


def place_of(photo: dict[str, Any]) -> Any:
    """Return where an undecoded photo lies; one that is kept in its table is written to a file first.

    The file's name is the hash of its bytes, in the cache folder, so that the same photo is written once
    and has the same name on every machine.

    Raises:
        OutputError: If the file cannot be written.
    """
    path, data = photo.get("path"), photo.get("bytes")
    if not isinstance(data, bytes) or (isinstance(path, str | Path) and Path(path).is_file()):
        return path
    suffix = next((suffix for start, suffix in _KINDS if data.startswith(start)), "")
    suffix = suffix or Path(str(path or "")).suffix
    place = cache_folder("photos") / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    if not place.is_file() or place.stat().st_size != len(data):
        with writing_to(place.parent, "Set TRMML_CACHE to a folder that can be written to."):
            write_atomically(place, lambda temporary: temporary.write_bytes(data))
    return str(place.absolute())
