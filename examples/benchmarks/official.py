"""The benchmarks of the field in the layouts in which they are published.

`read_benchmark("coco2014", root)` gives training and test photos with complete labels; hide some with
`train.hide_labels(0.1)` (one uniform number per cell, NumPy seed 0, nested: the masks of the field)
or read a list of single positives. Nothing is downloaded; a missing part is named.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset
from trmml.errors import DataError, nearest
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

Pair = tuple[MultiLabelDataset, MultiLabelDataset]


def read_benchmark(name: str, root: str | Path) -> Pair:
    """Read the training and the test photos of a benchmark, with complete labels.

    Args:
        name: `coco2014`, `voc2007`, `voc2012`, `vg200`, `nuswide` or `cub`.
        root: Folder that holds what its authors publish, unpacked.

    Raises:
        DataError: If the name is unknown or a part is missing.
    """
    if name not in BENCHMARKS:
        raise DataError(f"No benchmark {name!r}. {nearest(name, BENCHMARKS)}")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"The folder {root} does not exist.")
    train, test = BENCHMARKS[name](root)
    return train, test.aligned_to(train.labels)


def read_single_positives(table: str | Path, dataset: MultiLabelDataset) -> MultiLabelDataset:
    """Keep of each photo the one positive that a list names; all else is unknown.

    Args:
        table: Lines of a path and the number of a category, as SCPNet publishes them.
        dataset: The photos; those that the list does not name are left out.

    Raises:
        DataError: If a line has another form or names a photo that is not there.
    """
    rows = {photo.name: i for i, photo in enumerate(dataset.photos)}
    chosen, labels = [], []
    for number, line in enumerate(Path(table).read_text(encoding="utf-8").splitlines(), start=1):
        place, _, category = line.strip().rpartition(" ")
        if not place or not category.isdigit() or int(category) >= len(dataset.labels):
            raise DataError(
                f"{table}, line {number}: expected a path and a category, got {line!r}."
            )
        row = rows.get(Path(place.replace("\\", "/")).name)
        if row is None:
            raise DataError(f"{table}, line {number}: {place} is not among the photos.")
        chosen.append(row)
        labels.append(int(category))
    kept = dataset.subset(np.array(chosen))
    single = np.full(kept.states.shape, UNKNOWN, dtype=np.int8)
    single[np.arange(len(labels)), labels] = POSITIVE
    return MultiLabelDataset(
        kept.photos,
        single,
        kept.labels,
        source=str(table),
        interpretation="One positive per photo from a list; all else is unknown.",
        hidden_states=kept.states,
    )


def _coco2014(root: Path) -> Pair:
    """All 82,783 and 40,504 photos, those without any object included; crowds count."""
    parts = []
    for split in ("train2014", "val2014"):
        table = _needed(root / "annotations" / f"instances_{split}.json")
        photos = _needed(root / split)
        parts.append(read_dataset(table, images=photos, unlabeled="negative"))
    return parts[0], parts[1]


def _voc(year: str, train: str, test: str) -> Callable[[Path], Pair]:
    """A class that is only there as difficult is unknown, and so never counts."""

    def read(root: Path) -> Pair:
        places = (root, root / year, root / "VOCdevkit" / year)
        folder = next((place for place in places if (place / "Annotations").is_dir()), None)
        if folder is None:
            raise DataError(f"There is no VOCdevkit/{year}/Annotations in {root}.")
        pair = [read_dataset(folder, split=split, unlabeled="negative") for split in (train, test)]
        return pair[0], pair[1]

    return read


def _vg200(root: Path) -> Pair:
    """Lists of 98,249 and 10,000 photos and numbers of categories; names in a file of their own."""
    index = json.loads(_needed(root / "vg_category_200_labels_index.json").read_text("utf-8"))
    names_file = root / "vg_category_200_names.txt"
    if not names_file.is_file():
        raise DataError(
            f"There is no {names_file}: the published index has numbers only, and prompts need names. "
            "Write the 200 names, one a line, in the order of their numbers."
        )
    names = names_file.read_text(encoding="utf-8").split("\n")
    names = tuple(name.strip() for name in names if name.strip())
    pair = []
    for split in ("train", "test"):
        listed = _needed(root / f"{split}_list_500.txt").read_text(encoding="utf-8").split()
        photos = [_in_folders(root, ("VG_100K", "VG_100K_2"), name) for name in listed]
        pair.append(_numbered(photos, [index[name] for name in listed], names, str(root)))
    return pair[0], pair[1]


def _nuswide(root: Path) -> Pair:
    """161,789 and 107,859 photos, 81 concepts; one file of 0 and 1 per concept and split."""
    pair = []
    for split in ("Train", "Test"):
        listed = _needed(root / "ImageList" / f"{split}Imagelist.txt")
        lines = listed.read_text(encoding="utf-8").split()
        photos = [
            _in_folders(root, ("Flickr", "images"), line.replace("\\", "/")) for line in lines
        ]
        folder = _needed(root / "Groundtruth" / "TrainTestLabels")
        files = sorted(folder.glob(f"Labels_*_{split}.txt"))
        if not files:
            raise DataError(f"{folder} holds no Labels_<concept>_{split}.txt.")
        columns = []
        for file in files:
            column = np.array(file.read_text().split(), dtype=np.int8)
            if len(column) != len(lines):
                raise DataError(f"{file} has {len(column)} lines, {listed} has {len(lines)}.")
            columns.append(column)
        labels = np.where(np.stack(columns, axis=1) == 1, POSITIVE, NEGATIVE).astype(np.int8)
        names = tuple(file.stem.split("_", 1)[1].rpartition("_")[0] for file in files)
        pair.append(MultiLabelDataset(tuple(photos), labels, names, source=str(root)))
    return pair[0], pair[1]


def _cub(root: Path) -> Pair:
    """5,994 and 5,794 photos; the 312 attributes are the categories, as stated by one annotator."""
    folder = root if (root / "images.txt").is_file() else _needed(root / "CUB_200_2011")
    images = dict(line.split(maxsplit=1) for line in _lines(folder / "images.txt"))
    is_train = dict(line.split() for line in _lines(folder / "train_test_split.txt"))
    places = (folder / "attributes" / "attributes.txt", folder.parent / "attributes.txt")
    listed = next(
        (place for place in (*places, folder / "attributes.txt") if place.is_file()), None
    )
    if listed is None:
        raise DataError(f"There is no attributes.txt in {folder}, beside it or in attributes/.")
    names = tuple(_attribute_name(line.split(maxsplit=1)[1]) for line in _lines(listed))
    labels = {number: np.full(len(names), UNKNOWN, dtype=np.int8) for number in images}
    for line in _lines(folder / "attributes" / "image_attribute_labels.txt"):
        number, attribute, is_present = line.split()[:3]
        labels[number][int(attribute) - 1] = POSITIVE if is_present == "1" else NEGATIVE
    pair = []
    for flag in ("1", "0"):
        numbers = [number for number in images if is_train[number] == flag]
        photos = [_needed(folder / "images" / images[number]) for number in numbers]
        rows = np.stack([labels[number] for number in numbers])
        pair.append(MultiLabelDataset(tuple(photos), rows, names, source=str(root)))
    return pair[0], pair[1]


def _attribute_name(text: str) -> str:
    """Turn `has_bill_shape::curved_(up_or_down)` into `bill shape curved (up or down)`."""
    return text.strip().removeprefix("has_").replace("::", " ").replace("_", " ")


def _numbered(
    photos: list[Path], positives: list[list[int]], names: tuple[str, ...], source: str
) -> MultiLabelDataset:
    labels = np.full((len(photos), len(names)), NEGATIVE, dtype=np.int8)
    for row, numbers in zip(labels, positives, strict=True):
        row[numbers] = POSITIVE
    return MultiLabelDataset(tuple(photos), labels, names, source=source)


def _in_folders(root: Path, folders: tuple[str, ...], name: str) -> Path:
    for folder in folders:
        if (root / folder / name).is_file():
            return root / folder / name
    raise DataError(f"The photo {name} is not in {' or '.join(folders)} of {root}.")


def _lines(path: Path) -> list[str]:
    return [line for line in _needed(path).read_text("utf-8").splitlines() if line.strip()]


def _needed(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"There is no {path}; unpack what the authors publish as it is.")
    return path


BENCHMARKS: dict[str, Callable[[Path], Pair]] = {
    "coco2014": _coco2014,
    "voc2007": _voc("VOC2007", "trainval", "test"),
    "voc2012": _voc("VOC2012", "train", "val"),
    "vg200": _vg200,
    "nuswide": _nuswide,
    "cub": _cub,
}
