"""What `trmml` notes in a sidecar of what it wrote there, so that exactly this can be taken away.

A list `trmml:marks` of texts, each a word and a value: `dc:subject dog` for a keyword, `model shop`,
`created` for a file that was not there, `replaced dc:subject …` for what stood in place of a list.
"""

from collections.abc import Mapping, Sequence

from trmml.data.libraries.xmp import KEYWORD_LISTS, MARKS, Packet, Property

CREATED = "created"
REPLACED = "replaced"
MODEL = "model"
_BY_NAME = {str(prop): prop for prop in KEYWORD_LISTS}


def is_marked(packet: Packet) -> bool:
    """Say whether `trmml` wrote into a sidecar."""
    return MARKS in packet.lists


def was_created(packet: Packet) -> bool:
    """Say whether `trmml` made a sidecar."""
    return CREATED in packet.values(MARKS)


def marked(packet: Packet) -> dict[Property, list[str]]:
    """Return the keywords that `trmml` wrote, as they stand in each list."""
    found: dict[Property, list[str]] = {}
    for mark in packet.values(MARKS):
        word, _, value = mark.partition(" ")
        if word in _BY_NAME and value:
            found.setdefault(_BY_NAME[word], []).append(value)
    return found


def replaced(packet: Packet) -> dict[Property, str]:
    """Return what stood in place of a list that had no keyword."""
    found: dict[Property, str] = {}
    for mark in packet.values(MARKS):
        word, _, rest = mark.partition(" ")
        name, _, text = rest.partition(" ")
        if word == REPLACED and name in _BY_NAME:
            found[_BY_NAME[name]] = text
    return found


def marks_for(
    added: Mapping[Property, Sequence[str]],
    before: Mapping[Property, str],
    model: str,
    created: bool,
) -> list[str]:
    """Return the marks of keywords that are written; the other way round than the functions above."""
    marks = [f"{MODEL} {model}"] + ([CREATED] if created else [])
    marks += [f"{prop} {value}" for prop, values in added.items() for value in values]
    return marks + [f"{REPLACED} {prop} {text}" for prop, text in before.items()]
