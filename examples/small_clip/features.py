"""What the locked tower sees in every photo, computed once: shards on disk that training reads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16
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
    cache.mkdir(parents=True, exist_ok=True)
    tower = tower.to(memory_format=torch.channels_last)
    shards = [np.zeros((0, tower.num_features), dtype=np.float16)]
    with ThreadPoolExecutor(2) as pool:
        for start in tqdm(range(0, len(paths), PHOTOS_PER_SHARD), cache.name, mininterval=20):
            shard = cache / f"{start:06d}.npy"
            if not shard.is_file():
                part = paths[start : start + PHOTOS_PER_SHARD]
                partial = shard.with_suffix(".partial")
                with partial.open("wb") as file:
                    np.save(file, _features(tower, part, side, pool))
                partial.replace(shard)
            shards.append(np.load(shard))
    return np.concatenate(shards)


@torch.inference_mode()
def _features(
    tower: Any, paths: Sequence[Path], side: int, pool: ThreadPoolExecutor
) -> Float16[np.ndarray, "photo width"]:
    ahead = list(pool.map(lambda path: read_photo(path, side), paths))
    parts = []
    for start in range(0, len(ahead), PHOTOS_AT_ONCE):
        photos = torch.stack(ahead[start : start + PHOTOS_AT_ONCE])
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(tower(photos.contiguous(memory_format=torch.channels_last)).float())
    return torch.cat(parts).half().numpy()
