"""Batches of frozen features for training: from the cache, or from photos augmented anew.

A batch comes as the rows of all of it and the features of this process's part of them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.config.groups import PhotoConfig, TrainingConfig
from trmml.data.photos import load_photo, refuse_unreadable
from trmml.data.tensors import Augmentation, load_tensor
from trmml.errors import ImageError
from trmml.reports.progress import followed
from trmml.training import distributed
from trmml.training.features import FeatureStore

Batch = tuple[Int64[np.ndarray, " batch"], ImageFeatures]


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """Return the randomness of one epoch: the same after a resume as in one go."""
    return np.random.default_rng((seed, epoch))


def use_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    """Say whether towers and matcher run in bfloat16 on a device."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


class CachedFeatures:
    """Photos whose features are on disk; each epoch draws one fixed view per photo."""

    def __init__(self, store: FeatureStore, positions: Int64[np.ndarray, " photo"]) -> None:
        """Serve some rows of a store.

        Args:
            store: Features on disk.
            positions: Which of its rows, in the order of the data set's photos.
        """
        self.store = store
        self.positions = positions

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield all photos once, in the order of the seed and epoch."""
        generator = epoch_generator(seed, epoch)
        order = generator.permutation(len(self.positions))
        views = generator.integers(self.store.num_views, size=len(order))
        for start in range(0, len(order), batch_size):
            # Sorted within a batch: nothing depends on that order, and the disk likes it.
            chosen = np.sort(order[start : start + batch_size])
            own = distributed.own_rows(chosen)
            yield chosen, self.store.read(self.positions[own], views[own])

    def sample(self) -> ImageFeatures:
        """Return the features of up to 2,048 photos, evenly chosen; see `start_from_data`."""
        return self.store.read(*_first_views(self.positions[_evenly(len(self.positions), 2048)]))

    def in_order(self, batch_size: int) -> Iterator[ImageFeatures]:
        """Yield the plain view of this process's part of the photos, in order."""
        own = distributed.own_rows(self.positions)
        for start in range(0, len(own), batch_size):
            yield self.store.read(*_first_views(own[start : start + batch_size]))


def _first_views(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows, np.zeros(len(rows), dtype=np.int64)


def _evenly(num_photos: int, at_most: int) -> np.ndarray:
    return np.linspace(0, num_photos - 1, min(num_photos, at_most)).astype(np.int64)


class AugmentedPhotos:
    """Photos augmented anew in every epoch, encoded as they come."""

    def __init__(
        self,
        photos: Sequence[Path],
        backbone: FrozenCLIP,
        config: TrainingConfig,
        progress: bool = False,
    ) -> None:
        """Serve photos, each of which is opened once now: a bad one must not end an epoch.

        Args:
            photos: Paths, in the order of the data set's photos.
            backbone: The frozen CLIP, on the device where it is to run.
            config: Number of worker processes, and the precision.
            progress: Whether to show how many have been opened.

        Raises:
            DataError: If photos cannot be read; they are named.
        """
        self.photos = photos
        self.backbone = backbone
        self.num_workers = config.num_workers
        self.use_bfloat16 = use_bfloat16(config, backbone.device)
        _require_readable(photos, backbone.photo.image_size, self.num_workers, progress)

    def sample(self) -> ImageFeatures:
        """Return the plain features of up to 256 photos, evenly chosen; see `start_from_data`."""
        photos = [self.photos[i] for i in _evenly(len(self.photos), 256)]
        device = self.backbone.device
        parts = []
        for start in range(0, len(photos), 16):
            some = photos[start : start + 16]
            batch = [load_tensor(photo, self.backbone.photo) for photo in some]
            parts.append(self.backbone(torch.stack(batch).to(device)))
        return ImageFeatures(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def in_order(self, batch_size: int) -> Iterator[ImageFeatures]:
        """Yield the plain view of this process's part of the photos, in order."""
        own = distributed.own_rows(np.arange(len(self.photos)))
        with ThreadPoolExecutor(max(self.num_workers, 1)) as pool:
            for start in range(0, len(own), batch_size):
                yield self._plain([self.photos[i] for i in own[start : start + batch_size]], pool)

    def _plain(self, photos: Sequence[Path], pool: ThreadPoolExecutor) -> ImageFeatures:
        load = partial(load_tensor, config=self.backbone.photo)
        images = torch.stack(list(pool.map(load, photos))).to(self.backbone.device)
        return self.backbone(images)

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield all photos once, in the order of the seed and epoch."""
        generator = epoch_generator(seed, epoch)
        order = generator.permutation(len(self.photos))
        seeds = generator.integers(2**62, size=len(order))
        views = _AugmentedViews(self.photos, self.backbone.photo, order, seeds)
        device = self.backbone.device
        positions = np.arange(len(order))
        batches = [positions[i : i + batch_size] for i in range(0, len(order), batch_size)]
        loader = DataLoader(
            views,
            batch_sampler=[distributed.own_rows(batch).tolist() for batch in batches],
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",
        )
        for batch, images in zip(batches, loader, strict=True):
            images = images.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.use_bfloat16):
                features = self.backbone(images)
            yield order[batch], ImageFeatures(*(part.float() for part in features))


def _require_readable(
    photos: Sequence[Path], image_size: int, num_threads: int, progress: bool
) -> None:
    """Open every photo once; of several processes each opens its part.

    Raises:
        DataError: If some cannot be read.
    """

    def look(path: Path) -> str | None:
        try:
            load_photo(path, image_size)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        own = photos[distributed.rank() :: distributed.count()]
        looked = followed(pool.map(look, own), "photos opened", len(own), show=progress)
        reasons = [reason for reason in looked if reason is not None]
    refuse_unreadable(distributed.gather_lists(reasons), len(photos))


class _AugmentedViews(Dataset[Tensor]):
    def __init__(
        self,
        photos: Sequence[Path],
        config: PhotoConfig,
        order: Int64[np.ndarray, " photo"],
        seeds: Int64[np.ndarray, " photo"],
    ) -> None:
        self.photos, self.order, self.seeds = photos, order, seeds
        self.augmentation, self.image_size = Augmentation(config), config.image_size

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Float[Tensor, "3 height width"]:
        # The seed comes with the photo, so views do not depend on the number of workers.
        photo = load_photo(self.photos[self.order[position]], self.image_size)
        return self.augmentation(photo, int(self.seeds[position]))
