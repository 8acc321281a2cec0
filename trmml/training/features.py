"""Frozen features, computed once: float16 shards on disk that an epoch of training reads.

The towers are frozen and the views fixed, so a photo's patch features never change. A shard is one
file, written in one step; a killed or a second process finds the finished ones and makes the rest.
Processes that train one model share the work.
"""

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from torch import Tensor

from trmml import files
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.data.photos import load_photo, refuse_unreadable
from trmml.data.pixels import grey_range
from trmml.data.tensors import photo_tensor
from trmml.errors import DataError, ImageError, OutputError
from trmml.files import write_atomically, writing_to
from trmml.reports.progress import Progress
from trmml.training import distributed

logger = logging.getLogger(__name__)

FORMAT = 2
PHOTOS_PER_SHARD = 256
MOST_OPEN = 128
END_BYTES = 1024
VIEWS = {"plain": ("plain",), "plain+flip": ("plain", "flip")}
_ADVICE = "Set TRMML_CACHE to a folder that can be written to."


def cache_folder() -> Path:
    """Where features are kept: `TRMML_CACHE`, or `trmml` in the user's cache folder."""
    return files.cache_folder("features")


def cache_bytes(num_photos: int, backbone: FrozenCLIP, views: str) -> int:
    """Size of the features of so many photos on disk."""
    per_view = (backbone.num_patches + 1) * backbone.dim * np.dtype(np.float16).itemsize
    return num_photos * len(VIEWS[views]) * per_view


class FeatureStore:
    """The features of a list of photos, read by position.

    A row holds, per view, the image feature and then the patch features.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        """Name finished shards; they are memory-mapped, not read."""
        self.shards = list(shards)
        # Each open one takes a file handle, of which a process has a thousand or less.
        self._open = lru_cache(maxsize=MOST_OPEN)(_open_shard)

    @property
    def num_views(self) -> int:
        """Fixed views kept per photo."""
        return self._open(self.shards[0]).shape[1]

    def read(
        self, positions: Int[np.ndarray, " batch"], views: Int[np.ndarray, " batch"]
    ) -> ImageFeatures:
        """Return the features of some photos, one view each, as float32."""
        batch = np.empty((len(positions), *self._open(self.shards[0]).shape[2:]), dtype=np.float16)
        shard_of, row_of = np.divmod(positions, PHOTOS_PER_SHARD)
        for shard in np.unique(shard_of):
            here = shard_of == shard
            batch[here] = self._open(self.shards[shard])[row_of[here], views[here]]
        rows = torch.from_numpy(batch).float()
        return ImageFeatures(rows[:, 1:], rows[:, 0])


def compute_features(
    photos: Sequence[Path],
    backbone: FrozenCLIP,
    *,
    views: str = "plain",
    folder: Path | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    progress: bool = False,
) -> FeatureStore:
    """Compute the features of photos, or find them from an earlier run.

    Args:
        photos: Paths, in the order in which rows are to be read.
        backbone: The frozen CLIP.
        views: Name of the fixed views.
        folder: Cache folder; `cache_folder()` by default.
        batch_size: Photos per pass through the tower.
        num_workers: Threads that decode photos while the tower works.
        progress: Whether to show how far it is.

    Raises:
        DataError: If photos cannot be read; all of them are named, and the other shards are kept.
        OutputError: If the cache cannot be written to, or its disk has too little room.
    """
    folder = (folder or cache_folder()) / _backbone_key(backbone, views)
    parts = [photos[i : i + PHOTOS_PER_SHARD] for i in range(0, len(photos), PHOTOS_PER_SHARD)]
    shards = [(folder / f"{_photos_key(part)}.npy", part) for part in parts]
    _check_free_space(folder, sum(not _is_whole(path) for path, _ in shards), backbone, views)
    unreadable: list[str] = []
    with ThreadPoolExecutor(max(num_workers, 1)) as pool:

        def make(some: Sequence[tuple[Path, Sequence[Path]]]) -> None:
            total = sum(len(part) for _, part in some)
            with Progress("features", total, show=progress) as counted:
                for path, part in some:
                    if not _is_whole(path):
                        try:
                            rows = _shard(part, backbone, views, batch_size, pool)
                        except _UnreadablePhotos as error:
                            unreadable.extend(error.reasons)
                        else:
                            with writing_to(folder, _ADVICE):
                                write_atomically(path, partial(_save_array, rows))
                    counted.advance(len(part))

        make(shards[distributed.rank() :: distributed.count()])
        unreadable = distributed.gather_lists(unreadable)
        if distributed.count() > 1 and not unreadable:
            make(shards)  # what the others made, where they have another disk
    refuse_unreadable(unreadable, len(photos))
    return FeatureStore([path for path, _ in shards])


class _UnreadablePhotos(Exception):
    def __init__(self, reasons: list[str]) -> None:
        super().__init__()
        self.reasons = reasons


def _shard(
    photos: Sequence[Path],
    backbone: FrozenCLIP,
    views: str,
    batch_size: int,
    pool: ThreadPoolExecutor,
) -> Float[np.ndarray, "photo view row dim"]:
    def prepare(path: Path) -> Tensor | str:
        try:
            photo = load_photo(path, backbone.photo.image_size)
        except ImageError as error:
            return str(error)
        tensors = [photo_tensor(_view(photo, view), backbone.photo) for view in VIEWS[views]]
        return torch.stack(tensors)

    rows, reasons = [], []
    # All photos of a shard are submitted at once, so that decoding stays ahead of the tower.
    futures = [pool.submit(prepare, path) for path in photos]
    for start in range(0, len(photos), batch_size):
        prepared = [future.result() for future in futures[start : start + batch_size]]
        futures[start : start + batch_size] = [None] * len(prepared)  # type: ignore[list-item]
        reasons += [p for p in prepared if isinstance(p, str)]
        tensors = [p for p in prepared if isinstance(p, Tensor)]
        if reasons or not tensors:
            continue
        images = torch.stack(tensors)
        features = backbone(images.flatten(0, 1).to(backbone.device))
        joined = torch.cat([features.image_features[:, None], features.patch_features], dim=1)
        rows.append(joined.unflatten(0, images.shape[:2]).half().cpu().numpy())
    if reasons:
        raise _UnreadablePhotos(reasons)
    return np.concatenate(rows)


def _view(photo: Image.Image, view: str) -> Image.Image:
    return ImageOps.mirror(photo) if view == "flip" else photo


class _UnmappedShard:
    """A shard on a disk that cannot map files into memory, as some network mounts; read row by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(file)
            self.start = file.tell()
        self.per_view = math.prod(self.shape[2:])
        if path.stat().st_size != self.start + math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"{path} is cut off")

    def __getitem__(self, rows_and_views: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        rows = [
            np.fromfile(self.path, self.dtype, self.per_view, offset=self.start + int(place))
            for place in np.ravel_multi_index(rows_and_views, self.shape[:2])
            * (self.per_view * self.dtype.itemsize)
        ]
        return np.stack(rows).reshape(-1, *self.shape[2:])


def _open_shard(path: Path) -> "np.ndarray | _UnmappedShard":
    """Open an array in a file, of which only the rows that are used are read.

    Raises:
        OSError, EOFError, ValueError: If there is no such file, or it is not whole.
    """
    try:
        return np.load(path, mmap_mode="r")
    except OSError:
        return _UnmappedShard(path)


def _is_whole(shard: Path) -> bool:
    try:
        _open_shard(shard)
    except (OSError, EOFError, ValueError):  # not there, empty, cut off or overwritten
        return False
    return True


def _save_array(rows: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, rows)


def _backbone_key(backbone: FrozenCLIP, views: str) -> str:
    facts = (FORMAT, backbone.config.sha256, backbone.config.quick_gelu, backbone.photo, views)
    # What is as usual has no place in the names of older folders.
    facts = facts if grey_range() == (0, 65535) else (*facts, grey_range())
    facts = facts if backbone.precision == torch.float32 else (*facts, backbone.precision)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _photos_key(photos: Sequence[Path]) -> str:
    """Name of a shard: changes when a photo is moved, replaced or touched.

    Size and time alone would not tell: many disks count in seconds, and copies can keep their times.
    """
    digest = hashlib.sha256()
    for photo in photos:
        try:
            stat = photo.stat()
        except OSError as error:
            raise DataError(f"{photo} has gone: {error.strerror}.") from error
        digest.update(os.fsencode(f"{photo.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
        digest.update(_ends_of(photo, stat.st_size))
    return digest.hexdigest()[:32]


def _ends_of(photo: Path, size: int) -> bytes:
    """Return the first and last kilobyte of a file; nothing if it cannot be read, which shows later."""
    try:
        with photo.open("rb") as file:
            first = file.read(END_BYTES)
            file.seek(max(size - END_BYTES, 0))
            return first + file.read(END_BYTES)
    except OSError:
        return b""


def _check_free_space(folder: Path, missing_shards: int, backbone: FrozenCLIP, views: str) -> None:
    with writing_to(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
    needed = cache_bytes(missing_shards * PHOTOS_PER_SHARD, backbone, views)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"The features need {needed / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB "
            "free; set TRMML_CACHE to a larger disk, or training.features=augmented."
        )
