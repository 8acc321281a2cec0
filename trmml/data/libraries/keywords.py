"""The keywords of a photo: in it, and in the XMP files beside it."""

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import ImageFile, IptcImagePlugin

from trmml.data.libraries.marks import marked
from trmml.data.libraries.xmp import (
    KEYWORD_LISTS,
    MAX_KEYWORDS,
    MAX_XMP_BYTES,
    SUBJECT,
    Packet,
    Property,
    parse_xmp,
)
from trmml.data.photos import open_picture
from trmml.errors import DataError, TrmmlError

SEPARATOR = "|"
"""Between the parts of a hierarchy, from the most general one on."""
INTERNAL = ("darktable", "_Digikam_Internal_Tags_")
"""Tops of the hierarchies in which programs keep their own affairs."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_IPTC_KEYWORDS = (2, 25)
_IPTC_PLACES = ((2, 90), (2, 92), (2, 95), (2, 101))
_IPTC_ENCODING, _UTF8 = (1, 90), b"\x1b%G"


@dataclass(frozen=True)
class Keywords:
    """What people said of a photo in words.

    Attributes:
        paths: Keywords, a hierarchy as `animals|dog`; none twice.
        people: Names in its fields of persons and faces.
        places: Names in its fields of places.
        problems: Why something was not read, in sentences.
    """

    paths: tuple[str, ...] = ()
    people: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The last part of each keyword."""
        return tuple(dict.fromkeys(path.split(SEPARATOR)[-1] for path in self.paths))

    @property
    def whole_paths(self) -> tuple[str, ...]:
        """The keywords without the flat ones that only repeat a part of a hierarchy."""
        parts = {
            part.casefold()
            for path in self.paths
            if SEPARATOR in path
            for part in path.split(SEPARATOR)
        }
        return tuple(p for p in self.paths if SEPARATOR in p or p.casefold() not in parts)


def sidecars_of(photo: Path) -> list[Path]:
    """Return the XMP files that may be a photo's: `photo.jpg.xmp` and `photo.xmp`, if they exist."""
    return [path for path in sidecar_names(photo) if path.is_file()]


def sidecar_names(photo: Path) -> list[Path]:
    """Return what an XMP file of a photo may be called; cameras and cards write capitals."""
    stems = (photo.name, photo.stem)
    return [photo.with_name(stem + suffix) for stem in stems for suffix in (".xmp", ".XMP")]


def read_keywords(photo: Path) -> Keywords:
    """Return the keywords in a photo and in its sidecars, but those that `trmml` wrote.

    What cannot be read says nothing, and is named in `problems`.
    """
    problems: list[str] = []
    found: list[Keywords] = []
    sources = [("photo", photo), *(("sidecar", path) for path in sidecars_of(photo))]
    for kind, path in sources:
        try:
            found.append(embedded(path) if kind == "photo" else _of_packet(read_sidecar(path)))
        except TrmmlError as error:
            problems.append(str(error))
    return Keywords(
        paths=tuple(dict.fromkeys(path for part in found for path in part.paths)),
        people=frozenset().union(*(part.people for part in found)),
        places=frozenset().union(*(part.places for part in found)),
        problems=tuple(problems),
    )


def read_sidecar(path: Path) -> Packet:
    """Read an XMP file.

    Raises:
        DataError: If it cannot be read or is no XMP.
    """
    try:
        with path.open("rb") as file:  # not all of it, before its size is known
            content = file.read(MAX_XMP_BYTES + 1)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    return parse_xmp(content, str(path))


def embedded(photo: Path) -> Keywords:
    """Return the keywords in a photo's own bytes, XMP and IPTC; a damaged photo has none.

    Raises:
        DataError: If its XMP cannot be read.
    """
    xmp, iptc = _blocks(photo)
    parts = [_of_iptc(iptc)]
    if xmp is not None:
        parts.append(_of_packet(parse_xmp(xmp.rstrip(b"\0 \r\n\t"), f"The XMP in {photo}")))
    return Keywords(
        paths=tuple(dict.fromkeys(path for part in parts for path in part.paths)),
        people=frozenset().union(*(part.people for part in parts)),
        places=frozenset().union(*(part.places for part in parts)),
    )


def _of_packet(packet: Packet) -> Keywords:
    own = marked(packet)
    paths = [
        path
        for prop in KEYWORD_LISTS
        for path in paths_of(packet.values(prop), prop, leave_out=own.get(prop, ()))
    ]
    return Keywords(tuple(dict.fromkeys(paths)), packet.people, packet.places)


def paths_of(values: Iterable[str], prop: Property, leave_out: Iterable[str] = ()) -> list[str]:
    """Return keywords as they stand in a list, with one separator between parts."""
    left_out = set(leave_out)
    paths = []
    for value in values:
        if value in left_out:
            continue
        parts = [part.strip() for part in value.split(prop.separator)]
        path = SEPARATOR.join(part for part in parts if part)
        if path and path.split(SEPARATOR)[0] not in INTERNAL:
            paths.append(path)
    return paths


def _of_iptc(fields: dict[tuple[int, int], bytes | list[bytes]]) -> Keywords:
    is_utf8 = fields.get(_IPTC_ENCODING) == _UTF8

    def texts(key: tuple[int, int]) -> list[str]:
        values = fields.get(key, [])
        values = [values] if isinstance(values, bytes) else values
        return [_text(value, is_utf8) for value in values[:MAX_KEYWORDS]]

    places = frozenset(text for key in _IPTC_PLACES for text in texts(key) if text)
    paths = paths_of(texts(_IPTC_KEYWORDS), SUBJECT)
    return Keywords(tuple(dict.fromkeys(paths)), places=places)


def _text(value: bytes, is_utf8: bool) -> str:
    try:
        return value.decode().strip()  # many programs write UTF-8 and do not say so
    except UnicodeDecodeError:
        return value.decode("utf-8" if is_utf8 else "cp1252", errors="replace").strip()


def _blocks(photo: Path) -> tuple[bytes | None, dict[tuple[int, int], bytes | list[bytes]]]:
    """Return a photo's XMP packet and IPTC fields, as far as its header can be read."""
    try:
        with photo.open("rb") as file:
            if file.read(len(_PNG)) == _PNG:
                return _xmp_of_png(file), {}
            file.seek(0)
            picture = open_picture(file)
            xmp = picture.info.get("xmp")
            is_file = isinstance(picture, ImageFile.ImageFile)
            iptc = (IptcImagePlugin.getiptcinfo(picture) or {}) if is_file else {}
    except (
        Exception
    ):  # of almost any class, as decoders raise them; it is said where photos are read
        return None, {}
    return (bytes(xmp) if isinstance(xmp, bytes | bytearray) else None), iptc


def _xmp_of_png(file: BinaryIO) -> bytes | None:
    """Return the XMP of a PNG; programs write it behind the pixels as well, which are not decoded."""
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind != b"iTXt" or size > MAX_XMP_BYTES:
            file.seek(size + 4, io.SEEK_CUR)
            continue
        chunk = file.read(size)
        file.seek(4, io.SEEK_CUR)
        if not chunk.startswith(_PNG_XMP):
            continue
        is_packed = chunk[len(_PNG_XMP)] == 1
        text = chunk[len(_PNG_XMP) + 2 :].split(b"\0", 2)[2]
        return zlib.decompressobj().decompress(text, MAX_XMP_BYTES + 1) if is_packed else text
    return None


def left_out(keywords: Keywords, leave_out: Sequence[str]) -> Keywords:
    """Return keywords without those that name what is to be left out.

    Args:
        keywords: Of one photo.
        leave_out: Names of keywords or of parts of hierarchies, in any case: what is below them goes
            with them. `@people` and `@places` stand for what the photo's own fields of persons and
            faces, and of places, name.
    """
    wanted = {name.strip().strip(SEPARATOR).casefold() for name in leave_out}
    unwanted = wanted - {"@people", "@places"}
    for group, names in (("@people", keywords.people), ("@places", keywords.places)):
        if group in wanted:
            unwanted |= {name.casefold() for name in names}

    def is_unwanted(path: str) -> bool:
        parts = path.casefold().split(SEPARATOR)
        starts = {SEPARATOR.join(parts[: i + 1]) for i in range(len(parts))}
        return not unwanted.isdisjoint(starts | set(parts))

    # "Anna" beside "People|Anna" is the same keyword once more, as most programs write it.
    repeated = {
        part.casefold()
        for path in keywords.paths
        if is_unwanted(path)
        for part in path.split(SEPARATOR)
    }
    kept = tuple(
        path
        for path in keywords.paths
        if not is_unwanted(path) and not (SEPARATOR not in path and path.casefold() in repeated)
    )
    return Keywords(kept, keywords.people, keywords.places, keywords.problems)
