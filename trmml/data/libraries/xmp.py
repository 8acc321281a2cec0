"""XMP, as far as keywords need it, with the places in the bytes at which they stand.

Read by expat alone, without a document type: no entity is ever made, and nothing else is opened.
Forms: XMP specification, part 1 (ISO 16684-1); IPTC, digiKam, Lightroom and MWG in theirs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

from trmml.errors import DataError

MAX_XMP_BYTES = 16 * 2**20
"""Of a sidecar or packet; those of programs that keep long histories have a few MB."""
MAX_KEYWORDS = 2000
"""In one list of one photo."""
MAX_DEPTH = 100
MAX_ELEMENTS = 200_000

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
LIGHTROOM = "http://ns.adobe.com/lightroom/1.0/"
DIGIKAM = "http://www.digikam.org/ns/1.0/"
OWN = "urn:trmml:xmp/1.0/"
_IPTC_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_MICROSOFT = "http://ns.microsoft.com/photo/1.2/t/Region#"


class Property(NamedTuple):
    """A property of XMP: its namespace and name, the usual prefix, and what parts its hierarchies."""

    namespace: str
    name: str
    prefix: str
    separator: str

    @property
    def full(self) -> str:
        """The name as expat gives it."""
        return f"{self.namespace} {self.name}"

    def __str__(self) -> str:
        """Return the name as people write it."""
        return f"{self.prefix}:{self.name}"


SUBJECT = Property(DC, "subject", "dc", "|")
HIERARCHICAL = Property(LIGHTROOM, "hierarchicalSubject", "lr", "|")
TAGS_LIST = Property(DIGIKAM, "TagsList", "digiKam", "/")
MARKS = Property(OWN, "marks", "trmml", "")
KEYWORD_LISTS = (SUBJECT, HIERARCHICAL, TAGS_LIST)
"""Where keywords are: flat ones, Lightroom's and darktable's, and digiKam's."""

_LISTS = {prop.full: prop for prop in (*KEYWORD_LISTS, MARKS)}
_PEOPLE = {
    *(f"{_IPTC_EXT} {name}" for name in ("PersonInImage", "PersonName")),
    f"{_REGIONS} Name",
    f"{_MICROSOFT} PersonDisplayName",
}
_PLACES = {
    *(f"{_PHOTOSHOP} {name}" for name in ("City", "State", "Country")),
    f"{_IPTC_CORE} Location",
    *(f"{_IPTC_EXT} {n}" for n in ("City", "Sublocation", "ProvinceState", "CountryName")),
    *(f"{_IPTC_EXT} {name}" for name in ("WorldRegion", "LocationName")),
}
_START_TAG = re.compile(rb"""<([^\s/>]+)(?:[^"'>]|"[^"]*"|'[^']*')*>""")


@dataclass(eq=False)
class Element:
    """An element and where it stands, in bytes: from `start` to `end`, content from `inner` to `close`.

    Attributes:
        name: Namespace and name, a space between them.
        tag: Its name as it is written, with its prefix.
        attributes: By name as `name`.
        text: What stands in it beside other elements.
    """

    name: str
    tag: str
    attributes: dict[str, str]
    start: int
    inner: int
    is_empty_tag: bool
    close: int = -1
    end: int = -1
    parent: "Element | None" = field(default=None, repr=False)
    children: list["Element"] = field(default_factory=list, repr=False)
    text: str = ""

    def below(self) -> Iterator["Element"]:
        """Return all elements in it, in the order of the file."""
        left = self.children[::-1]
        while left:
            element = left.pop()
            yield element
            left += element.children[::-1]


@dataclass(eq=False)
class Packet:
    """An XMP packet or sidecar.

    Attributes:
        content: Its bytes.
        rdf: The element that holds all properties.
        lists: The first list of each kind of keywords, and our marks.
        people: Names in the fields of persons and faces.
        places: Names in the fields of places.
    """

    content: bytes
    rdf: Element
    lists: dict[Property, Element]
    people: frozenset[str]
    places: frozenset[str]

    def items(self, prop: Property) -> list[Element]:
        """Return the items of a list that are not blank."""
        found = self.lists.get(prop)
        return [] if found is None else [item for item in _items(found) if item.text.strip()]

    def values(self, prop: Property) -> list[str]:
        """Return the texts of a list."""
        return [item.text.strip() for item in self.items(prop)]


def parse_xmp(content: bytes, name: str) -> Packet:
    """Read a packet or sidecar.

    Args:
        content: Its bytes, in any encoding that XML may have.
        name: What it is called in errors.

    Raises:
        DataError: If it is too large, has a document type or entities, is no XML or no XMP.
    """
    if len(content) > MAX_XMP_BYTES:
        raise DataError(f"{name} is larger than {MAX_XMP_BYTES >> 20} MiB; it is not read.")
    root = _Reader(content, name).root
    rdf = next((one for one in (root, *root.below()) if one.name == f"{RDF} RDF"), None)
    if rdf is None:
        raise DataError(f"{name} is XML, but no XMP: there is no rdf:RDF in it.")
    lists: dict[Property, Element] = {}
    people, places = set(), set()
    for element in rdf.below():
        prop = _LISTS.get(element.name)
        if prop is not None:
            lists.setdefault(prop, element)
            if len(_items(element)) > MAX_KEYWORDS:
                raise DataError(f"{name} has more than {MAX_KEYWORDS} keywords; it is not read.")
        for names, found in ((_PEOPLE, people), (_PLACES, places)):
            if element.name in names:
                inner = [element, *element.below()]
                found |= {one.text.strip() for one in inner}
            found |= {value.strip() for key, value in element.attributes.items() if key in names}
    return Packet(content, rdf, lists, frozenset(people - {""}), frozenset(places - {""}))


def _items(found: Element) -> list[Element]:
    return [item for array in found.children for item in array.children]


class _Reader:
    """Makes elements of what expat calls for, with their places."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.name = content, name
        self.open: list[Element] = []
        self.texts: list[list[str]] = []
        self.num_elements = 0
        self.parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        # Before anything that it declares: what calls for more than the bytes at hand is not read.
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise DataError(f"{name} is not XML: {error}.") from error
        except DataError:  # of a handler below
            raise
        except (LookupError, ValueError) as error:  # of unknown encodings
            raise DataError(f"{name} is in an encoding that is not read: {error}.") from error

    def _refuse(self, *_: object) -> None:
        raise DataError(f"{self.name} has a document type or entities; such XML is not read.")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise DataError(f"{self.name} is nested deeper than {MAX_DEPTH}; it is not read.")
        self.num_elements += 1
        if self.num_elements > MAX_ELEMENTS:
            raise DataError(f"{self.name} has more than {MAX_ELEMENTS} elements; it is not read.")
        start = self.parser.CurrentByteIndex
        # In UTF-16 there is none, and the places, which only UTF-8 is edited by, are of no use.
        tag = _START_TAG.match(self.content, start)
        inner = start if tag is None else tag.end()
        written = "" if tag is None else tag[1].decode(errors="replace")
        is_empty_tag = tag is not None and tag[0].endswith(b"/>")
        parent = self.open[-1] if self.open else None
        element = Element(name, written, attributes, start, inner, is_empty_tag, parent=parent)
        if parent is None:
            self.root = element
        else:
            parent.children.append(element)
        self.open.append(element)
        self.texts.append([])

    def _end(self, _: str) -> None:
        element, place = self.open.pop(), self.parser.CurrentByteIndex
        element.text = "".join(self.texts.pop())
        if element.is_empty_tag:
            element.close = element.end = element.inner
        else:
            element.close = place
            element.end = self.content.find(b">", place) + 1

    def _text(self, text: str) -> None:
        if self.texts:
            self.texts[-1].append(text)
