"""Objects in PASCAL VOC's XML, one file for each photo."""

import os
from collections import Counter
from pathlib import Path, PurePath
from xml.etree import ElementTree

from trmml.data.finding import is_system_file
from trmml.data.readers.rows import Options, Row, Table, unmentioned_state
from trmml.errors import DataError
from trmml.files import read_bytes
from trmml.labels import POSITIVE, UNKNOWN

MAX_XML_BYTES = 2**20
ANNOTATIONS = "Annotations"

_DIFFICULT = {"1": True, "true": True, "yes": True}
_DIFFICULT |= dict.fromkeys(("0", "false", "no", "", "unspecified"), False)


def holds_voc(folder: Path) -> bool:
    """Say whether a folder has VOC's `Annotations`, or is one."""
    return (folder / ANNOTATIONS).is_dir() or any(
        not is_system_file(path.relative_to(folder)) for path in folder.glob("*.xml")
    )


def read_voc(folder: Path, options: Options) -> Table:
    """Read objects of PASCAL VOC; a class whose every object is marked difficult is unknown.

    Raises:
        DataError: For a file that is not VOC's, or a split that is not there.
    """
    annotations = folder / ANNOTATIONS
    annotations = annotations if annotations.is_dir() else folder
    every = files = sorted(
        path
        for path in annotations.rglob("*.xml")
        if not is_system_file(path.relative_to(annotations))
    )
    if options.split is not None:
        files = _files_of_split(folder, annotations, options.split)
    if not files:
        raise DataError(f"{annotations} holds no XML file.")
    unmentioned = unmentioned_state(options.unlabeled, folder)
    # As in a table, every split has the classes of the whole folder.
    roots = {file: _parsed(file) for file in dict.fromkeys([*files, *every])}
    states = {file: _objects(file, root) for file, root in roots.items()}
    images = {file: _image_of(file, root) for file, root in roots.items()}
    # Tools that copy one file for all photos leave the name of the first one in it.
    places = {file: file.relative_to(annotations).parent for file in roots}
    shared = Counter((places[file], image) for file, image in images.items())
    renamed = [f for f in files if shared[places[f], images[f]] > 1 and f.stem != _stem(images[f])]
    for file in renamed:
        images[file] = file.stem + PurePath(images[file]).suffix
    rows = []
    for number, file in enumerate(files, start=1):
        image, inner = images[file], (places[file] / images[file]).as_posix()
        names = dict.fromkeys((inner, image))
        others = [
            f"{base}{name}" for name in names for base in ("JPEGImages/", "", "../JPEGImages/")
        ]
        source = file.relative_to(annotations).as_posix()
        rows.append(
            Row(number, others[0], states[file], other_names=tuple(others[1:]), source=source)
        )
    meaning = (
        "VOC: an object is positive, one that is only there as difficult unknown; "
        f"a class without object is {options.unlabeled}."
    )
    if renamed:
        meaning += (
            f" {len(renamed)} files name the photo of another file; theirs is the one of their own "
            f"name, as {images[renamed[0]]}."
        )
    labels = {name for found in states.values() for name in found}
    return Table(rows, sorted(labels), meaning, unmentioned, unit="file")


def _files_of_split(folder: Path, annotations: Path, split: str) -> list[Path]:
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not os.path.isfile(listed):  # noqa: PTH113 (says no, too, to a name that no file can have)
        # The others are lists of one class, as dog_train.txt.
        known = sorted(path.stem for path in listed.parent.glob("*.txt") if "_" not in path.stem)
        raise DataError(f"There is no {listed}; splits here: {', '.join(known) or 'none'}.")
    try:
        lines = read_bytes(listed).decode("utf-8-sig").replace("\0", " ").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{listed} is not UTF-8.") from error
    except OSError as error:
        raise DataError(f"Cannot read {listed}: {error.strerror or error}.") from error
    names = [line.strip() for line in lines if line.strip()]
    files = []
    for name in names:
        # A name may have blanks in it; lists of one class have a state behind it.
        first = name.rsplit(maxsplit=1)[0]
        tried = [annotations / f"{one}.xml" for one in (name, _stem(name), first)]
        files.append(next((file for file in tried if file.is_file()), tried[0]))
    return files


def _image_of(file: Path, root: ElementTree.Element) -> str:
    return (root.findtext("filename") or f"{file.stem}.jpg").strip()


def _stem(name: str) -> str:
    return PurePath(name).stem


def _objects(file: Path, root: ElementTree.Element) -> dict[str, int]:
    states: dict[str, int] = {}
    for thing in root.iter("object"):
        name = (thing.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{file}: an object has no name.")
        cell = (thing.findtext("difficult") or "").strip()
        is_difficult = _DIFFICULT.get(cell.lower())
        if is_difficult is None:
            raise DataError(f"{file}: an object {name!r} is difficult {cell!r}; write 1 or 0.")
        if is_difficult:
            states.setdefault(name, UNKNOWN)
        else:
            states[name] = POSITIVE
    return states


def _parsed(file: Path) -> ElementTree.Element:
    try:
        content = read_bytes(file, MAX_XML_BYTES + 1)
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror}.") from error
    if len(content) > MAX_XML_BYTES:
        raise DataError(f"{file} is larger than {MAX_XML_BYTES >> 20} MiB; it is not read.")
    # In UTF-16 the search for entities below would find nothing.
    if b"\0" in content:
        raise DataError(f"{file} is not UTF-8, nor another encoding that has ASCII in it.")
    # Entities can grow without bound, and annotations have none.
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DataError(f"{file} has a document type or entities; such XML is not read.")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # of unknown encodings
        raise DataError(f"{file} is not XML: {error}.") from error
