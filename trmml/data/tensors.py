"""Photos as tensors, as they are or augmented: what an image tower takes."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from trmml.config.groups import PhotoConfig
from trmml.data.photos import load_photo, resized

SMALLEST_CROP = 0.64
"""Least share of a photo in a crop: one that cuts an object away would make its label false."""


def load_tensor(source: Any, config: PhotoConfig) -> Float[Tensor, "3 height width"]:
    """Read a photo for a model: `load_photo`, squashed and normalized.

    Raises:
        ImageError: As `load_photo`.
    """
    return photo_tensor(load_photo(source, config.image_size), config)


def photo_tensor(photo: Image.Image, config: PhotoConfig) -> Float[Tensor, "3 height width"]:
    """Squash a photo to a square (nothing is cut off) and normalize it."""
    return normalized(resized(photo, config.image_size, config.interpolation), config)


def normalized(photo: Image.Image, config: PhotoConfig) -> Float[Tensor, "3 height width"]:
    """Return (value / 255 − mean) / std of each channel."""
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float().div_(255)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return pixels.sub_(mean[:, None, None]).div_(std[:, None, None])


class Augmentation:
    """Flip, random resized crop, RandAugment and cutout, then normalization."""

    def __init__(self, config: PhotoConfig) -> None:
        """Prepare for photos of the backbone's size."""
        self.config = config
        self.pixels = v2.Compose([self.crop, v2.RandomHorizontalFlip(), v2.RandAugment()])
        self.cutout = v2.RandomErasing(p=0.5, scale=(0.05, 0.2), value=0)

    def crop(self, photo: Image.Image) -> Image.Image:
        """Return a part of at least 64 % of the photo, squashed to the backbone's size."""
        # Within torchvision's own 3/4 … 4/3, no crop of a long photo would be large enough.
        shape = photo.width / photo.height
        crop = v2.RandomResizedCrop(
            self.config.image_size,
            scale=(SMALLEST_CROP, 1.0),
            ratio=(min(3 / 4, shape), max(4 / 3, shape)),
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        )
        return crop(photo)

    def __call__(self, photo: Image.Image, seed: int) -> Float[Tensor, "3 height width"]:
        """Return one random view; the same photo and seed give the same view."""
        # torchvision draws from the global generator, which is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            view = self.pixels(photo)
            tensor = normalized(view, self.config)
            return self.cutout(tensor)
