"""Labels in folders: VOC's annotations in XML, and one folder per label."""

import hashlib
import os
from pathlib import Path
from xml.etree import ElementTree

from trmml.data.photos import find_photos
from trmml.data.readers.rows import Options, Row, Table, refuse_encoding, unmentioned_state
from trmml.errors import DataError
from trmml.labels import POSITIVE, UNKNOWN

MAX_XML_BYTES = 2**20


def read_folder(folder: Path, options: Options, form: str | None) -> Table:
    """Read a folder; `form` says whose layout it has, else its contents do."""
    refuse_encoding(options, folder, "is a folder")
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        raise DataError(f"{folder} is a model and no table; the model is the other argument.")
    annotations = folder / "Annotations"
    holds_xml = annotations.is_dir() or any(folder.glob("*.xml"))
    if form == "voc" or (form is None and holds_xml):
        return _voc(folder, annotations if annotations.is_dir() else folder, options)
    if options.split is not None:
        raise DataError(f"{folder} has no splits; pass the folder of one split.")
    return _label_folders(folder, options)


def _voc(folder: Path, annotations: Path, options: Options) -> Table:
    """Read objects of PASCAL VOC; a class whose every object is marked difficult is unknown."""
    every = files = sorted(annotations.glob("*.xml"))
    if options.split is not None:
        listed = folder / "ImageSets" / "Main" / f"{options.split}.txt"
        if not os.path.isfile(listed):  # noqa: PTH113 (says no, too, to a name that no file can have)
            # The others are lists of one class, as dog_train.txt.
            known = sorted(
                path.stem for path in listed.parent.glob("*.txt") if "_" not in path.stem
            )
            raise DataError(f"There is no {listed}; splits here: {', '.join(known) or 'none'}.")
        try:
            wanted = listed.read_text(encoding="utf-8").replace("\0", " ").split()
        except UnicodeDecodeError as error:
            raise DataError(f"{listed} is not UTF-8.") from error
        files = [annotations / f"{name}.xml" for name in wanted]
    if not files:
        raise DataError(f"{annotations} holds no XML file.")
    unmentioned = unmentioned_state(options.unlabeled, folder)
    rows = []
    # As in a table, every split has the classes of the whole folder.
    names = {name for file in set(every) - set(files) for name in _objects(file, _parsed(file))}
    for number, file in enumerate(files, start=1):
        root = _parsed(file)
        states = _objects(file, root)
        names |= states.keys()
        image = (root.findtext("filename") or f"{file.stem}.jpg").strip()
        place = f"JPEGImages/{image}"
        rows.append(Row(number, place, states, other_names=(image, f"../JPEGImages/{image}")))
    meaning = (
        "VOC: an object is positive, one that is only there as difficult unknown; "
        f"a class without object is {options.unlabeled}."
    )
    return Table(rows, sorted(names), meaning, unmentioned, unit="file")


def _objects(file: Path, root: ElementTree.Element) -> dict[str, int]:
    states: dict[str, int] = {}
    for thing in root.iter("object"):
        name = (thing.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{file}: an object has no name.")
        if (thing.findtext("difficult") or "0").strip() != "1":
            states[name] = POSITIVE
        else:
            states.setdefault(name, UNKNOWN)
    return states


def _parsed(file: Path) -> ElementTree.Element:
    try:
        content = file.read_bytes()
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


def _label_folders(folder: Path, options: Options) -> Table:
    """Read `label/photo.jpg`; the same file in two folders is one photo with two labels."""
    unmentioned = unmentioned_state(options.unlabeled, folder)
    labels = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not labels:
        raise DataError(f"{folder} holds no table and no folders; expected label/photo.jpg.")
    rows: dict[tuple[str, str], Row] = {}
    for label in labels:
        for photo in find_photos(label):
            # By content as well: cameras give the same names in every folder.
            digest = hashlib.sha256(photo.read_bytes()).hexdigest()
            place = str(photo.relative_to(folder))
            row = rows.setdefault((photo.name, digest), Row(len(rows) + 1, place, {}))
            row.states[label.name] = POSITIVE
    names = [label.name for label in labels]
    meaning = (
        f"Folders: a photo has the label of its folder; other labels are {options.unlabeled}. The same "
        "file in several folders has all of their labels."
    )
    return Table(list(rows.values()), names, meaning, unmentioned, unit="photo")
