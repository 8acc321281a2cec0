"""What the locked tower sees in every photo, computed once: shards on disk that training reads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transform
from tower import MEAN, STD
from tqdm import tqdm

PHOTOS_PER_SHARD = 500
PHOTOS_AT_ONCE = 50


def read_photo(path: Path, side: int) -> Float[Tensor, "3 side side"]:
    """Read a photo, squash it to a square and normalize it."""
    with Image.open(path) as photo:
        square = photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return transform.normalize(
        transform.to_dtype(transform.pil_to_tensor(square), scale=True), MEAN, STD
    )


def pooled_features(
    tower: Any, paths: Sequence[Path], side: int, cache: Path
) -> Float16[np.ndarray, "photo width"]:
    """Return the tower's pooled features of photos, from the shards that are there and new ones.

    A shard is written in one step, so a stopped run loses no more than one.

    Args:
        tower: In evaluation mode, without its classifier.
        paths: The photos; the same photos in the same order for the same cache.
        side: Of the squares that the tower sees, in pixels.
        cache: Folder of the shards.
    """
    tower = tower.to(memory_format=torch.channels_last)
    shards = [np.zeros((0, tower.num_features), dtype=np.float16)]
    return np.concatenate([*shards, *map(np.load, _shards(tower, paths, side, cache))])


class KeptMaps:
    """What the first blocks of a tower say of photos, kept on disk and read as it is asked for."""

    def __init__(
        self,
        tower: Any,
        first: int,
        paths: Sequence[Path],
        side: int,
        cache: Path,
        *,
        mirrored: bool = False,
    ) -> None:
        """Compute the shards that are not there.

        Args:
            tower: In evaluation mode.
            first: Number of the first block that is left out.
            paths: The photos; the same photos in the same order for the same cache.
            side: Of the squares that the tower sees, in pixels.
            cache: Folder of the shards.
            mirrored: See the photos' mirror images.
        """
        tower = tower.to(memory_format=torch.channels_last)

        def see(photos: Tensor) -> Tensor:
            seen = tower.bn1(tower.conv_stem(photos.flip(-1) if mirrored else photos))
            for block in tower.blocks[:first]:
                seen = block(seen)
            return seen.permute(0, 2, 3, 1)  # as it lies in memory

        shards = _shards(see, paths, side, cache)
        self._shards = [np.load(shard, mmap_mode="r") for shard in shards]
        self._length = len(paths)

    def __len__(self) -> int:
        return self._length

    def __getitem__(
        self, rows: Int[np.ndarray, " photo"]
    ) -> Float[Tensor, "photo channel height width"]:
        """Return the maps of some photos."""
        places = [divmod(int(row), PHOTOS_PER_SHARD) for row in rows]
        maps = np.stack([self._shards[shard][place] for shard, place in places])
        return torch.from_numpy(maps).float().permute(0, 3, 1, 2)


def _shards(
    see: Callable[[Tensor], Tensor], paths: Sequence[Path], side: int, cache: Path
) -> list[Path]:
    """Write the shards that are not there, each in one step, and return all of them."""
    cache.mkdir(parents=True, exist_ok=True)
    shards = []
    with ThreadPoolExecutor(2) as pool:
        for start in tqdm(range(0, len(paths), PHOTOS_PER_SHARD), cache.name, mininterval=20):
            shards.append(cache / f"{start:06d}.npy")
            if not shards[-1].is_file():
                part = paths[start : start + PHOTOS_PER_SHARD]
                partial = shards[-1].with_suffix(".partial")
                with partial.open("wb") as file:
                    np.save(file, _features(see, part, side, pool))
                partial.replace(shards[-1])
    return shards


@torch.inference_mode()
def _features(
    see: Callable[[Tensor], Tensor], paths: Sequence[Path], side: int, pool: ThreadPoolExecutor
) -> Float16[np.ndarray, "photo ..."]:
    ahead = list(pool.map(lambda path: read_photo(path, side), paths))
    parts = []
    for start in range(0, len(ahead), PHOTOS_AT_ONCE):
        photos = torch.stack(ahead[start : start + PHOTOS_AT_ONCE])
        with torch.autocast("cpu", torch.bfloat16):
            seen = see(photos.contiguous(memory_format=torch.channels_last))
        parts.append(seen.half().contiguous().numpy())
    return np.concatenate(parts)
