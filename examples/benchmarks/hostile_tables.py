"""Label tables of every form, broken by a seed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from hostile_files import LABELS, STRANGE, as_strange_text, mangled, put_special


def write_table(folder: Path, photos: Sequence[str], rng: Random) -> Path:
    """Write a hostile table of some form about photos in a folder, and return where it is."""
    forms: list[Callable[[Path, Sequence[str], Random], Path]] = [
        *(_csv, _csv, _csv, _jsonl, _json, _json, _voc, _folders)
    ]
    place = rng.choice(forms)(folder, photos, rng)
    if place.is_file() and rng.random() < 0.03:
        put_special(place, rng)
    return place


def _rows(photos: Sequence[str], rng: Random) -> list[list[str]]:
    """Return the cells of a good CSV of one of four forms."""
    form = rng.randrange(4)
    if form == 0:
        cells = [[photo, *(rng.choice(("1", "0", "")) for _ in LABELS)] for photo in photos]
        return [["image", *LABELS], *cells]
    if form == 1:
        lists = ["|".join(rng.sample(LABELS, rng.randrange(len(LABELS)))) for _ in photos]
        return [["image", "labels"], *map(list, zip(photos, lists, strict=True))]
    if form == 2:
        head = ["ImageID", "Source", "LabelName", "Confidence"]
        return [head, *([p, "human", rng.choice(LABELS), rng.choice("01")] for p in photos)]
    head = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS]
    cells = [
        [p, "F", "60", "Frontal", "AP", *(rng.choice(("1.0", "-1.0", "")) for _ in LABELS)]
        for p in photos
    ]
    return [head, *cells]


def _csv(folder: Path, photos: Sequence[str], rng: Random) -> Path:
    rows = _rows(photos, rng)
    for _ in range(rng.choice((0, 1, 3))):
        row = rng.choice(rows)
        cell = rng.choice(
            [s for s in STRANGE if isinstance(s, str)] + ["[" * 9999, "{}", "['a', 'b']"]
        )
        row[rng.randrange(len(row))] = cell
    how = rng.randrange(14)
    if how == 0:
        rows.pop(0)
    elif how == 1:
        rows = rows * 3000
    elif how == 2:
        rows = [row + ["0"] * 5000 for row in rows]
        rows[0] = rows[0][:-5000] + [f"label {i}" for i in range(5000)]
    elif how == 3:
        rng.choice(rows).pop()
    elif how == 4:
        rng.choice(rows).append("1")
    elif how == 5:
        rows[0] = [rows[0][0]] * len(rows[0])
    elif how == 6:
        rng.choice(rows)[-1] = "x" * 5_000_000
    elif how == 7:
        rows = [[cell * 1000 for cell in rows[0]], *rows[1:]]
    separator = rng.choices((",", ";", "\t", "|", " ", "\x01", ""), (20, 2, 2, 1, 1, 1, 1))[0]
    end = rng.choices(("\n", "\r\n", "\r", "\n\n", "\0\n"), (20, 5, 1, 1, 1))[0]
    text = end.join(separator.join(row) for row in rows) + end
    if rng.random() < 0.1:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(('"', '""', "'", "\0", "\ufeff", '"\n')) + text[place:]
    encoding = rng.choices(("utf-8", "utf-16", "utf-8-sig", "utf-32", "cp1252"), (12, 1, 1, 1, 1))[
        0
    ]
    data = text.encode(encoding, "replace" if encoding == "cp1252" else "surrogatepass")
    path = folder / rng.choice(("labels.csv", "labels.csv", "labels.tsv", "labels.txt", "labels"))
    path.write_bytes(mangled(data, rng) if rng.random() < 0.12 else data)
    return path


def _jsonl(folder: Path, photos: Sequence[str], rng: Random) -> Path:
    rows = [{"image": p, "positive": [LABELS[0]], "negative": list(LABELS[1:])} for p in photos]
    if rng.random() < 0.3:
        rows = [{"image": p, "labels": list(LABELS[:2])} for p in photos]
    lines = [
        as_strange_text(row, rng) if rng.random() < 0.15 else json.dumps(row).encode()
        for row in rows
    ]
    path = folder / rng.choice(("labels.jsonl", "labels.ndjson"))
    data = rng.choice((b"\n", b"\n", b"\r\n", b"\n\n", b"")).join(lines)
    path.write_bytes(mangled(data, rng) if rng.random() < 0.2 else data)
    return path


def _json(folder: Path, photos: Sequence[str], rng: Random) -> Path:
    path = folder / "labels.json"
    make = rng.choice((_coco, _coco, _label_studio, _label_studio_min, _records))
    path.write_bytes(as_strange_text(make(photos), rng))
    return path


def _coco(photos: Sequence[str]) -> Any:
    box = {"bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    return {
        "images": [
            {"id": i, "file_name": photo, "width": 60, "height": 44}
            for i, photo in enumerate(photos)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % 3 + 1, **box} for i in range(len(photos))
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(LABELS)],
    }


def _label_studio(photos: Sequence[str]) -> Any:
    def task(photo: str, choice: str) -> dict[str, Any]:
        result = {"from_name": "what", "to_name": "image", "type": "choices"}
        result |= {"value": {"choices": [choice]}}
        return {"id": 1, "data": {"image": photo}, "annotations": [{"id": 1, "result": [result]}]}

    return [task(photo, LABELS[i % 3]) for i, photo in enumerate(photos)]


def _label_studio_min(photos: Sequence[str]) -> Any:
    return [
        {"image": photo, "id": i, "what": {"choices": list(LABELS[:2])}, "annotator": 1}
        for i, photo in enumerate(photos)
    ]


def _records(photos: Sequence[str]) -> Any:
    return [{"image": photo, **dict.fromkeys(LABELS, 1)} for photo in photos]


def _voc(folder: Path, photos: Sequence[str], rng: Random) -> Path:
    root = folder / "voc"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for photo in photos:
        (folder / photo).rename(root / "JPEGImages" / photo)
        objects = "".join(
            f"<object><name>{name}</name><difficult>{rng.choice(('0', '1'))}</difficult>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
            for name in rng.sample(LABELS, 2)
        )
        text = f"<annotation><filename>{photo}</filename>{objects}</annotation>"
        path = root / "Annotations" / f"{Path(photo).stem}.xml"
        path.write_bytes(_strange_xml(text, rng) if rng.random() < 0.1 else text.encode())
        if rng.random() < 0.02:
            put_special(path, rng)
    names = "\n".join(Path(photo).stem for photo in photos).encode()
    path = root / "ImageSets" / "Main" / "train.txt"
    path.write_bytes(mangled(names, rng) if rng.random() < 0.2 else names)
    return root


def _strange_xml(text: str, rng: Random) -> bytes:
    how = rng.randrange(8)
    if how == 0:
        entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
        head = f'<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a0 "ha">{entities}]>'
        return (head + text.replace("<name>", "<name>&a11;")).encode()
    if how == 1:
        head = '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        return (head + text.replace("<name>", "<name>&x;")).encode()
    if how == 2:
        deep = rng.choice((100, 100_000))
        return text.replace("<object>", "<object>" * deep).encode()
    if how == 3:
        value = rng.choice([s for s in STRANGE if isinstance(s, str)])
        return text.replace(rng.choice((*LABELS, "filename", "0", "1")), value).encode(
            "utf-8", "replace"
        )
    return mangled(text.encode(), rng) if how < 7 else text.encode()


def _folders(folder: Path, photos: Sequence[str], rng: Random) -> Path:
    root = folder / "labelled"
    for photo in photos:
        name = rng.choice(
            (*LABELS * 9, "a" * 200, "..x", "train", "\u202e", "dog ", "Dog", "-", "%00", "\n")
        )
        for part in range(rng.choice((1, 1, 2, 60))):
            name += f"/{part}" if part else ""
        (root / name).mkdir(parents=True, exist_ok=True)
        target = root / name / rng.choice((photo, f"\udcff{photo}", f"{'é' * 100}.png"))
        if target.exists() or target.is_symlink():
            continue
        target.write_bytes((folder / photo).read_bytes())
        if rng.random() < 0.1:
            put_special(target, rng)
    if rng.random() < 0.3:
        (root / "loop").symlink_to(root)
    return root
