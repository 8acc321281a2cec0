"""What would be written beside a photo, first to be looked at and then done."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trmml.data.finding import OTHER_SUFFIXES, PHOTO_SUFFIXES, files_below
from trmml.data.libraries.keywords import (
    SEPARATOR,
    Keywords,
    embedded,
    read_keywords,
    sidecar_names,
    sidecars_of,
)
from trmml.data.libraries.marks import is_marked, marked
from trmml.data.libraries.sidecars import EMPTY, with_keywords, without_keywords
from trmml.data.libraries.xmp import HIERARCHICAL, MARKS, SUBJECT, TAGS_LIST, Property, parse_xmp
from trmml.errors import DataError, OutputError
from trmml.files import set_mode, write_atomically, writing_to


@dataclass(frozen=True)
class Change:
    """One sidecar, before and after.

    Attributes:
        sidecar: Where it is, or will be.
        before: Its bytes; None where there is none.
        after: What its bytes become; None where it goes.
        tags: The labels that are written.
        present: Labels that somebody, or another program, had given the photo already.
        removed: Labels that were written once and that somebody has taken out since.
    """

    sidecar: Path
    before: bytes | None
    after: bytes | None
    tags: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def does_nothing(self) -> bool:
        """Whether the sidecar stays as it is."""
        return self.before == self.after

    def apply(self) -> None:
        """Write the sidecar, whole or not at all, or remove it.

        Raises:
            OutputError: If that cannot be done, or somebody has changed it in the meantime.
        """
        if self.does_nothing:
            return
        if _content(self.sidecar) != self.before:
            raise OutputError(
                f"{self.sidecar} has been changed just now; nothing is written there."
            )
        content = self.after
        with writing_to(self.sidecar):
            if content is None:
                self.sidecar.unlink()
                return
            mode = self.sidecar.stat().st_mode & 0o777 if self.before is not None else None
            write_atomically(self.sidecar, lambda temporary: temporary.write_bytes(content))
            if mode is not None:
                set_mode(self.sidecar, mode)


def tagging(photo: Path, labels: Sequence[str], model: str, roots: Iterable[Path]) -> Change:
    """Return what writing labels beside a photo changes; those it wrote earlier are replaced.

    Labels go into `dc:subject`; into Lightroom's hierarchies too if one of them is one or that list is
    there; into digiKam's list if that is there. A new list takes in the keywords of the photo itself,
    since programs that look at a sidecar pass over the photo's own list.

    Args:
        photo: Its own bytes are never touched.
        labels: What a model found; `animals|dog` is a hierarchy.
        model: Which model that was.
        roots: Folders outside of which nothing is written.

    Raises:
        DataError: If the sidecar cannot be read or leads out of the folders.
    """
    sidecar = _inside(_sidecar_for(photo), roots)
    before = _content(sidecar)
    name = str(sidecar)
    base = None if before is None else without_keywords(before, name)
    packet = parse_xmp(EMPTY if base is None else base, name)
    people = read_keywords(photo)
    taken_out = _taken_out(before, name)
    new, present, removed = [], [], []
    for label in labels:
        if _has(people, label):
            present.append(label)
        elif label.split(SEPARATOR)[-1] in taken_out:
            removed.append(label)
        else:
            new.append(label)
    if not new and not taken_out:
        return Change(sidecar, before, base, present=tuple(present))
    own = _embedded(photo) if new else Keywords()
    in_lists: dict[Property, list[str]] = {}
    for prop in (SUBJECT, HIERARCHICAL, TAGS_LIST):
        there = packet.values(prop)
        wanted = [] if there else _copied(own, prop)
        if there or prop is SUBJECT or (prop is HIERARCHICAL and any(SEPARATOR in n for n in new)):
            wanted = [*wanted, *(_as_written(label, prop) for label in new)]
            in_lists[prop] = [value for value in dict.fromkeys(wanted) if value not in there]
    in_lists = {prop: values for prop, values in in_lists.items() if values}
    after = with_keywords(base, in_lists, model, name, removed=sorted(taken_out))
    return Change(sidecar, before, after, tuple(new), tuple(present), tuple(removed))


def untagging(sidecar: Path, roots: Iterable[Path]) -> Change:
    """Return what taking out all that `trmml` wrote changes.

    Raises:
        DataError: If the sidecar cannot be read or leads out of the folders.
    """
    before = _content(sidecar)
    # Libraries hold many sidecars, most of them of others, and some that are not even XMP.
    if before is None or MARKS.namespace.encode() not in before:
        return Change(sidecar, before, before)
    sidecar = _inside(sidecar, roots)
    packet = parse_xmp(before, str(sidecar))
    if not is_marked(packet):
        return Change(sidecar, before, before)
    tags = tuple(marked(packet).get(SUBJECT, ()))
    return Change(sidecar, before, without_keywords(before, str(sidecar)), tags)


def sidecars_below(places: Iterable[Path]) -> Iterator[Path]:
    """Return the XMP files below folders, and those of photos that are named."""
    for place in places:
        if place.is_dir():
            yield from sorted(p for p in files_below(place) if p.suffix.lower() == ".xmp")
        elif place.suffix.lower() == ".xmp":
            yield place
        else:
            yield from sidecars_of(place)


def _sidecar_for(photo: Path) -> Path:
    """Return the sidecar that keywords go into: one that is this photo's alone, or a new one."""
    for path in sidecars_of(photo):
        if path.stem == photo.name or not _shares_its_stem(photo):
            return path
    return sidecar_names(photo)[0]


def _shares_its_stem(photo: Path) -> bool:
    suffixes = (*PHOTO_SUFFIXES, *OTHER_SUFFIXES)
    names = {photo.stem + form for suffix in suffixes for form in (suffix, suffix.upper())}
    others = (photo.with_name(name) for name in names - {photo.name})
    return any(path.is_file() and not path.samefile(photo) for path in others)


def _inside(sidecar: Path, roots: Iterable[Path]) -> Path:
    """Return where a sidecar really is."""
    try:
        target = sidecar.resolve()
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise DataError(f"{sidecar} cannot be found: {error}.") from error
    if not any(target.is_relative_to(root.resolve()) for root in roots):
        raise DataError(
            f"{sidecar} leads to {target}, out of the folder that was named; nothing is written there. "
            "Name that folder itself to write into it."
        )
    return sidecar if target.parent == sidecar.parent.resolve() else target


def _content(sidecar: Path) -> bytes | None:
    if not sidecar.is_file():
        return None
    try:
        return sidecar.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {sidecar}: {error.strerror or error}.") from error


def _taken_out(before: bytes | None, name: str) -> set[str]:
    """Return the keywords that were written and are not there any more."""
    if before is None or MARKS.namespace.encode() not in before:
        return set()
    packet = parse_xmp(before, name)
    return set(marked(packet).get(SUBJECT, ())) - set(packet.values(SUBJECT))


def _has(people: Keywords, label: str) -> bool:
    """Say whether people have given a photo a label, or one of which it is the last part."""
    said = {path.casefold() for path in people.paths}
    name = label.casefold()
    leaf = name.split(SEPARATOR)[-1]
    flat = {path.split(SEPARATOR)[-1] for path in said} if leaf == name else said
    return name in said or leaf in flat


def _embedded(photo: Path) -> Keywords:
    with contextlib.suppress(DataError):
        return embedded(photo)
    return Keywords()


def _copied(own: Keywords, prop: Property) -> list[str]:
    """Return what a new list takes in of the photo's own keywords."""
    if prop is SUBJECT:
        return list(own.names)
    return [path for path in own.paths if SEPARATOR in path] if prop is HIERARCHICAL else []


def _as_written(label: str, prop: Property) -> str:
    if prop is SUBJECT:
        return label.split(SEPARATOR)[-1]
    return label.replace(SEPARATOR, prop.separator)
