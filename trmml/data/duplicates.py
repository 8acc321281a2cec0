"""Photos that are there twice: copies of one file, and pictures that look the same."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trmml.data.dataset import MultiLabelDataset
from trmml.data.photos import load_photo
from trmml.errors import ArtifactError, ImageError
from trmml.files import sha256_of
from trmml.labels import NEGATIVE, POSITIVE
from trmml.reports.progress import followed

HASHED_SIDE = 36
"""Side at which photos are decoded for their hash, which is of 9 × 8 means."""
MOST_BITS_APART = 4
"""Of 64: photos whose hashes differ in so many bits or fewer count as the same picture."""

_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


class Copies(NamedTuple):
    """Photos of one table that are the same file under several names."""

    photos: tuple[Path, ...]
    disagree: tuple[str, ...]
    """Labels that one of them has as positive and another as negative."""

    def __str__(self) -> str:
        """Return what is wrong with them."""
        same = f"{' = '.join(map(str, self.photos))}: the same photo"
        names = ", ".join(map(repr, self.disagree[:4])) + (" …" if len(self.disagree) > 4 else "")
        return f"{same}, and the rows disagree about {names}" if self.disagree else same


class NearDuplicate(NamedTuple):
    """A training photo that looks like a validation photo."""

    train: Path
    val: Path


def opened(
    photos: Sequence[Path], progress: bool
) -> tuple[list[str], list[UInt8[np.ndarray, "8"] | None]]:
    """Open every photo; return why some cannot be, and `photo_hash` of the others, in their order."""

    def look(path: Path) -> tuple[str | None, UInt8[np.ndarray, "8"] | None]:
        try:
            return None, photo_hash(load_photo(path, HASHED_SIDE))
        except ImageError as error:
            return str(error), None

    # Threads and not processes: Pillow lets go of Python's lock while it decodes.
    with ThreadPoolExecutor() as pool:
        looked = pool.map(look, photos)
        found = list(followed(looked, "photos opened", len(photos), show=progress))
    return [reason for reason, _ in found if reason is not None], [bits for _, bits in found]


def copies_in(dataset: MultiLabelDataset) -> tuple[Copies, ...]:
    """Return photos with the same bytes; by size first, so that few files are read as a whole."""
    by_size: dict[int, list[int]] = {}
    for i, photo in enumerate(dataset.photos):
        with contextlib.suppress(OSError):  # which is said of photos that cannot be opened
            by_size.setdefault(photo.stat().st_size, []).append(i)
    by_content: dict[str, list[int]] = {}
    for i in (i for alike in by_size.values() if len(alike) > 1 for i in alike):
        with contextlib.suppress(ArtifactError):
            by_content.setdefault(sha256_of(dataset.photos[i]), []).append(i)
    found = []
    for rows in (rows for rows in by_content.values() if len(rows) > 1):
        states = dataset.states[rows]
        both = (states == POSITIVE).any(axis=0) & (states == NEGATIVE).any(axis=0)
        names = tuple(dataset.labels[i] for i in np.flatnonzero(both))
        found.append(Copies(tuple(dataset.photos[i] for i in rows), names))
    return tuple(sorted(found, key=lambda item: not item.disagree))


def photo_hash(photo: Image.Image) -> UInt8[np.ndarray, "8"] | None:
    """Return 64 bits that stay nearly the same when a photo is resized or saved again.

    A difference hash: whether each of 8 × 8 grey cells is darker than its right neighbour. None for a
    picture without contrast, whose bits would say nothing.
    """
    grey = np.asarray(photo.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    # Noise of the compression would decide the bits of a plain wall, and make all walls alike.
    if grey.max() - grey.min() < 8:
        return None
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def near_duplicates(
    photos: Sequence[Path],
    hashes: list[UInt8[np.ndarray, "8"] | None],
    val_photos: Sequence[Path],
    val_hashes: list[UInt8[np.ndarray, "8"] | None],
) -> tuple[NearDuplicate, ...]:
    """Return pairs of a training and a validation photo that look the same, from their hashes."""
    rows = [i for i, bits in enumerate(hashes) if bits is not None]
    if not rows:
        return ()
    known = np.stack([bits for bits in hashes if bits is not None])
    pairs = []
    for photo, bits in zip(val_photos, val_hashes, strict=True):
        if bits is None:
            continue
        # One row of the table of all pairs at a time: as a whole it would not fit in memory.
        apart = _BITS[known ^ bits].sum(axis=1)
        pairs += [
            NearDuplicate(photos[rows[i]], photo)
            for i in np.flatnonzero(apart <= MOST_BITS_APART)
            if photos[rows[i]] != photo  # which is another problem, and named as such
        ]
    return tuple(pairs)
