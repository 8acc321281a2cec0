"""Seeing: region attention as a heatmap over the photo. Attention, not segmentation."""

import numpy as np
from jaxtyping import Float
from PIL import Image

OPACITY = 0.65
# Anchor colours of the scale, from no attention to the most: perceptually ordered, readable in grey.
_COLOURS = np.array(
    [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float32
)


def heatmap(
    attention: Float[np.ndarray, "row column"], width: int, height: int
) -> Float[np.ndarray, "height width"]:
    """Enlarge region attention to the photo's size and scale it to [0, 1].

    Args:
        attention: Weights over the grid of patches.
        width: Of the photo, in pixels.
        height: Of the photo, in pixels.
    """
    grid = Image.fromarray(np.ascontiguousarray(attention, dtype=np.float32))
    enlarged = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    lowest, highest = float(enlarged.min()), float(enlarged.max())
    if highest <= lowest:
        return np.zeros_like(enlarged)
    return (enlarged - lowest) / (highest - lowest)


def overlay(photo: Image.Image, heat: Float[np.ndarray, "height width"]) -> Image.Image:
    """Lay a heatmap over a photo: the more attention, the more colour."""
    places = heat * (len(_COLOURS) - 1)
    low = np.floor(places).astype(int).clip(0, len(_COLOURS) - 2)
    part = (places - low)[..., None]
    colours = _COLOURS[low] * (1 - part) + _COLOURS[low + 1] * part
    opacity = OPACITY * heat[..., None]
    mixed = np.asarray(photo.convert("RGB"), dtype=np.float32) * (1 - opacity) + colours * opacity
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
