"""Photos in memory, their captions and words, and augmented batches."""

import csv
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transform
from tqdm import tqdm

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a an and are as at be been beside by down for from front has have her his in into is it its",
        "near next of off on one onto other out over several some that the their them there these they",
        "this to top two three four each up very while who with about all around another back behind",
        "him image large looking lot lots many picture photo s side small view being",
    )
    for word in line.split()
)


@dataclass(frozen=True)
class Photos:
    """Photos as squares of uint8, with what is said about each.

    Attributes:
        pixels: Number of photos × 3 × side × side.
        texts: Caption or class name of each.
        classes: Number of each photo's class, where photos have classes instead of captions.
    """

    pixels: np.ndarray
    texts: list[str]
    classes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)


def read_captions(folder: Path, splits: set[str], side: int, cache: Path) -> Photos:
    """Read the photos of some splits with their captions, squashed to squares."""
    rows = _rows(folder / "captions.csv", splits)
    paths = [folder / row["image"] for row in rows]
    name = "-".join(sorted(splits))
    return Photos(_pixels(paths, side, cache / f"{name}-{side}.npy"), [r["caption"] for r in rows])


def read_classes(folder: Path, cache: Path) -> Photos:
    """Read photos of one class each (tiny-imagenet), 64 pixels wide."""
    rows = _rows(folder / "labels.csv", None)
    pixels = _pixels([folder / row["image"] for row in rows], 64, cache / "classes-64.npy")
    names = sorted({row["wnid"] for row in rows})
    classes = np.array([names.index(row["wnid"]) for row in rows])
    return Photos(pixels, [row["name"] for row in rows], classes)


def _rows(table: Path, splits: set[str] | None) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if splits is None or row["split"] in splits]


def _pixels(paths: list[Path], side: int, cache: Path) -> np.ndarray:
    if cache.is_file():
        return np.load(cache, mmap_mode=None)
    pixels = np.empty((len(paths), 3, side, side), dtype=np.uint8)

    def decode(i: int) -> None:
        with Image.open(paths[i]) as photo:
            square = photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        pixels[i] = np.asarray(square).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        list(tqdm(pool.map(decode, range(len(paths))), "photos", len(paths)))
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial.npy")
    np.save(partial, pixels)
    partial.replace(cache)
    return pixels


def words_of(text: str) -> set[str]:
    """Return the content words of a caption, plurals in -s taken as their singular."""
    words = set(re.findall(r"[a-z]+", text.lower())) - _FUNCTION_WORDS
    return {word[:-1] if len(word) > 3 and word[-1] == "s" != word[-2] else word for word in words}


def vocabulary(texts: list[str], size: int) -> list[str]:
    """Return the commonest content words, by the number of captions that have them."""
    counts = Counter(word for text in texts for word in sorted(words_of(text)))
    return [word for word, _ in counts.most_common(size)]


def word_targets(texts: list[str], words: list[str]) -> Tensor:
    """Mark each text's words; texts × words, 0 or 1."""
    index = {word: i for i, word in enumerate(words)}
    targets = torch.zeros(len(texts), len(words), dtype=torch.bool)
    for row, text in zip(targets, texts, strict=True):
        row[[index[word] for word in words_of(text) if word in index]] = True
    return targets


class Batch(NamedTuple):
    """Photos ready for the tower; `rows` count through the captioned photos, then the others."""

    images: Tensor
    rows: Tensor


class Batches:
    """Shuffled, augmented batches of an epoch, made one ahead of the training step."""

    def __init__(
        self, sets: list[Photos], size: int, batch_size: int, smallest_crop: float, seed: int
    ) -> None:
        """Take several sets of photos as one.

        Args:
            sets: Photos; rows count through them in this order.
            size: Side of the photos that come out.
            batch_size: Photos a batch; a last smaller batch is left out.
            smallest_crop: Smallest share of the area that a random crop keeps.
            seed: Of order and augmentation, together with the epoch.
        """
        self.sets, self.size, self.batch_size = sets, size, batch_size
        self.smallest_crop, self.seed = smallest_crop, seed
        self.starts = np.cumsum([0, *(len(s) for s in sets)])

    def __len__(self) -> int:
        return int(self.starts[-1]) // self.batch_size

    def epoch(self, epoch: int, first: int = 0):
        """Yield the batches of an epoch from the given one on; the same for the same epoch."""
        if first >= len(self):
            return
        order = np.random.default_rng([self.seed, epoch]).permutation(self.starts[-1])
        chosen = order[: len(self) * self.batch_size].reshape(len(self), self.batch_size)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._make, chosen[first], [self.seed, epoch, first])
            for i in range(first, len(self)):
                batch = ahead.result()
                if i + 1 < len(self):
                    ahead = pool.submit(self._make, chosen[i + 1], [self.seed, epoch, i + 1])
                yield batch

    def _make(self, rows: np.ndarray, seed: list[int]) -> Batch:
        rng = np.random.default_rng(seed)
        images = torch.stack([self._crop(int(row), rng) for row in rows])
        return Batch(_recoloured(images, rng), torch.from_numpy(rows))

    def _crop(self, row: int, rng: np.random.Generator) -> Tensor:
        which = int(np.searchsorted(self.starts, row, side="right")) - 1
        pixels = torch.from_numpy(self.sets[which].pixels[row - self.starts[which]])
        side = pixels.shape[1]
        area, ratio = rng.uniform(self.smallest_crop, 1), np.exp(rng.uniform(-0.29, 0.29))
        height = min(side, round(side * (area / ratio) ** 0.5))
        width = min(side, round(side * (area * ratio) ** 0.5))
        top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
        size = [self.size, self.size]
        crop = transform.resized_crop(pixels, int(top), int(left), height, width, size)
        return transform.horizontal_flip(crop) if rng.random() < 0.5 else crop


def _recoloured(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast and saturation of each photo a little, and normalize."""
    factors = torch.from_numpy(rng.uniform(0.7, 1.3, (3, len(images), 1, 1, 1)).astype(np.float32))
    images = normalized(images) * factors[0]
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * factors[1]
    centre = grey.mean(dim=(2, 3), keepdim=True)
    return centre + (images - centre) * factors[2]


def normalized(images: Tensor) -> Tensor:
    """Scale bytes to CLIP's range, in channels-last order."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    images = (images.float() / 255 - mean) / std
    return images.contiguous(memory_format=torch.channels_last)
