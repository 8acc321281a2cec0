"""Photos as tensors: what an image tower takes."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trmml.config import PhotoConfig
from trmml.data.photos import load_photo, resized


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
