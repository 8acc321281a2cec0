"""Keywords into an XMP sidecar and out of it again, with every other byte as it was.

Nothing is written anew: texts are put in between, and taken out again with the white space before them.
Whoever writes checks first that taking out gives back what was there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from trmml.data.libraries.marks import is_marked, marked, marks_for, replaced, was_created
from trmml.data.libraries.xmp import (
    KEYWORD_LISTS,
    MARKS,
    RDF,
    SUBJECT,
    TAGS_LIST,
    Element,
    Packet,
    Property,
    parse_xmp,
)
from trmml.errors import DataError

EMPTY = (
    "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>\n"
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'>\n"
    f"<rdf:RDF xmlns:rdf='{RDF}'>\n"
    "</rdf:RDF>\n"
    "</x:xmpmeta>\n"
    "<?xpacket end='w'?>\n"
).encode()
"""A sidecar without any property; the white space at its start is XMP's mark of UTF-8."""

_DESCRIPTION = f"{RDF} Description"
_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ABOUT = (f"{RDF} about", "about")  # without its namespace in old files


class _Edit(NamedTuple):
    start: int
    end: int
    text: bytes


def with_keywords(
    content: bytes | None,
    added: Mapping[Property, Sequence[str]],
    model: str,
    name: str,
    removed: Sequence[str] = (),
) -> bytes:
    """Return a sidecar with further keywords, and with the marks that say which they are.

    Args:
        content: The sidecar, without any marks; None where there is none.
        added: Keywords for each list, none of which is in it.
        model: What chose them.
        name: What the sidecar is called in errors.
        removed: Keywords that somebody took out after they had been written; their marks stay.

    Raises:
        DataError: If it is no XMP in UTF-8, or has a form in which keywords cannot be taken out again.
    """
    before = EMPTY if content is None else content
    packet = _editable(before, name)
    edits, new, old = [], {}, {}
    for prop, values in added.items():
        items = packet.items(prop)
        found = packet.lists.get(prop)
        if items:
            edits.append(_behind(packet, items[-1], values))
            continue
        new[prop] = values
        if found is not None:
            # A list without a keyword: ours takes its place, and it comes back with --undo.
            old[prop] = before[found.start : found.end].decode()
            edits.append(_Edit(found.start, found.end, _list(prop, values, packet, "").encode()))
            del new[prop]
    noted = {**added, SUBJECT: [*added.get(SUBJECT, ()), *removed]}
    marks = marks_for(noted, old, model, created=content is None)
    edits.append(_description(packet, {**new, MARKS: marks}))
    written = _edited(before, edits)
    if without_keywords(written, name) != content:
        raise DataError(
            f"{name} has a form from which keywords could not be taken out again to the byte, so "
            "nothing is written into it; save it once more with the program that made it."
        )
    return written


def without_keywords(content: bytes, name: str) -> bytes | None:
    """Return a sidecar without what `trmml` wrote into it, if anything; None if nothing else is there.

    Raises:
        DataError: If it is no XMP in UTF-8.
    """
    packet = parse_xmp(content, name)
    if not is_marked(packet):
        return content
    packet = _editable(content, name)
    gone = [packet.lists[MARKS]]
    edits = []
    own, old = marked(packet), replaced(packet)
    for prop in KEYWORD_LISTS:
        if prop not in packet.lists or prop not in own:
            continue
        unwanted = [item for item in packet.items(prop) if item.text.strip() in own[prop]]
        if len(unwanted) < len(packet.items(prop)):
            gone += unwanted
        elif prop in old:
            found = packet.lists[prop]
            edits.append(_Edit(found.start, found.end, old[prop].encode()))
        elif unwanted:
            gone.append(packet.lists[prop])
    gone = _with_emptied(gone)
    if was_created(packet) and not edits and all(one in gone for one in packet.rdf.children):
        return None
    return _edited(content, [*edits, *(_cut(content, element) for element in gone)])


def _editable(content: bytes, name: str) -> Packet:
    """Read a sidecar whose places in the bytes are right, which takes UTF-8."""
    declared = re.match(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*encoding=["']([\w.-]+)""", content)
    try:
        content.decode()
        is_utf8 = declared is None or declared[1].lower() in (b"utf-8", b"utf8", b"us-ascii")
    except UnicodeDecodeError:
        is_utf8 = False
    packet = parse_xmp(content, name)
    if not is_utf8 or b"\0" in content:
        raise DataError(f"{name} is not UTF-8, so nothing is written into it.")
    if packet.rdf.is_empty_tag:
        raise DataError(f"{name} has no place for keywords: its {packet.rdf.tag} is one empty tag.")
    return packet


def _with_emptied(gone: list[Element]) -> list[Element]:
    """Return elements to take out, and the descriptions that hold nothing else in their stead."""
    result = []
    for element in gone:
        parent = element.parent
        if parent is not None and parent.name == _DESCRIPTION:
            facts = parent.attributes.keys() - set(_ABOUT)
            is_emptied = not facts and all(child in gone for child in parent.children)
            element = parent if is_emptied else element
        if element not in result:
            result.append(element)
    return result


def _cut(content: bytes, element: Element) -> _Edit:
    return _Edit(element.start - len(_space_before(content, element.start)), element.end, b"")


def _space_before(content: bytes, place: int) -> bytes:
    start = place
    while start > 0 and content[start - 1 : start] in (b" ", b"\t", b"\r", b"\n"):
        start -= 1
    return content[start:place]


def _behind(packet: Packet, last: Element, values: Sequence[str]) -> _Edit:
    """Put items behind the last one, in its form."""
    space = _space_before(packet.content, last.start).decode()
    items = "".join(f"{space}<{last.tag}>{_escaped(value)}</{last.tag}>" for value in values)
    return _Edit(last.end, last.end, items.encode())


def _description(packet: Packet, lists: Mapping[Property, Sequence[str]]) -> _Edit:
    """Put a description of its own behind the others."""
    rdf = packet.rdf
    children, rdf_prefix = rdf.children, _prefix(rdf)
    about = next(
        (child.attributes[key] for child in children for key in _ABOUT if key in child.attributes),
        "",
    )
    # A namespace can be no attribute's without a prefix.
    own_prefix = rdf_prefix or "rdf:"
    declared = "" if rdf_prefix else f" xmlns:rdf='{RDF}'"
    space = _space_before(packet.content, children[-1].start).decode() if children else "\n "
    line = ("\r\n" if "\r\n" in space else "\n") + space.rpartition("\n")[2]
    inner = "".join(f"{line} {_list(prop, values, packet, line)}" for prop, values in lists.items())
    text = (
        f"{space}<{rdf_prefix}Description{declared} {own_prefix}about={quoteattr(about)}>"
        f"{inner}{line}</{rdf_prefix}Description>"
    )
    place = children[-1].end if children else rdf.inner
    return _Edit(place, place, text.encode())


def _list(prop: Property, values: Sequence[str], packet: Packet, line: str) -> str:
    """Return a property with a list, which declares its own namespaces."""
    prefix = _prefix(packet.rdf)
    array = "Seq" if prop in (TAGS_LIST, MARKS) else "Bag"
    deeper = f"{line}  " if line else ""
    items = "".join(
        f"{deeper} <{prefix}li>{_escaped(value)}</{prefix}li>" if line
        else f"<{prefix}li>{_escaped(value)}</{prefix}li>"
        for value in values
    )  # fmt: skip
    start = f"<{prop} xmlns:{prop.prefix}={quoteattr(prop.namespace)}>"
    end = f"{line} </{prop}>" if line else f"</{prop}>"
    return f"{start}{deeper}<{prefix}{array}>{items}{deeper}</{prefix}{array}>{end}"


def _prefix(element: Element) -> str:
    head, colon, _ = element.tag.rpartition(":")
    return head + colon


def _escaped(text: str) -> str:
    # A reader of XML would make a line feed of a carriage return, and take no other such character.
    return escape(_NOT_IN_XML.sub("\ufffd", text), {"\r": "&#13;"})


def _edited(content: bytes, edits: Sequence[_Edit]) -> bytes:
    for edit in sorted(edits, reverse=True):
        content = content[: edit.start] + edit.text + content[edit.end :]
    return content
