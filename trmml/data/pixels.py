"""The pixels of a picture: turned upright and made RGB, whatever they were."""

import logging
import os
import re
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image

from trmml.errors import ConfigError, ImageError

logger = logging.getLogger(__name__)

STRIP_PIXELS = 2**22
"""What is not plain RGB is converted in strips of so many pixels, as the steps between take memory."""

DARK = 2**12
"""Greys of 12 bits, as of many microscopes and X-rays, stay below it."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What to do with a photo, by its EXIF orientation."""


def grey_range() -> tuple[int, int]:
    """Return the values of 16-bit greys that are black and white: `TRMML_GREY_RANGE`, or 0 and 65535.

    Raises:
        ConfigError: If the variable is something else than two such numbers.
    """
    text = os.environ.get("TRMML_GREY_RANGE") or "0-65535"
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if found is None or not int(found[1]) < int(found[2]) <= 65535:
        raise ConfigError(
            f"TRMML_GREY_RANGE must be the values of black and white, as 0-4095, got {text!r}."
        )
    return int(found[1]), int(found[2])


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Apply orientation and transparency of an image whose size has been checked."""
    image.load()
    # Pillow scales a grey PGM to 16 bits; the 32 bits of other formats have no known range. Asked
    # here, because an image that has been turned no longer knows its format.
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if turn is not None else image.copy()
    if is_16_bit:
        _warn_of_dark(image, name)
        return _in_strips(image, _rgb_of_16_bits)
    # Converted straight to RGB, what is transparent would show whatever colour lies below it.
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        return _in_strips(image, _over_white)
    if image.mode in ("1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    raise ImageError(f"{name} has the pixel format {image.mode!r}; convert it to 8-bit RGB.")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none that makes sense.

    Nothing else of the EXIF is read: cameras write values there that Pillow fails at.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever its parser raises, it is not about the picture
        return 1
    return value if isinstance(value, int) else 1


def _warn_of_dark(image: Image.Image, name: str) -> None:
    """Say of 16-bit greys that use little of their range that they come out nearly black."""
    greys = np.asarray(image)
    low, high = int(greys.min()), int(greys.max())
    if 0 < high < DARK and grey_range() == (0, 65535):
        white = 2 ** high.bit_length() - 1
        logger.warning(
            "%s has 16-bit greys from %d to %d of 65535, and so is nearly black; if they have fewer "
            "bits, set TRMML_GREY_RANGE=0-%d, or scale them first, as (greys / %d * 255)"
            ".astype('uint8').",
            name, low, high, white, white,
        )  # fmt: skip


def _in_strips(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a picture pixel by pixel, a large one strip by strip."""
    rows = max(STRIP_PIXELS // image.width, 1)
    if rows >= image.height:
        return to_rgb(image)
    photo = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        photo.paste(to_rgb(strip), (0, top))
    return photo


def _rgb_of_16_bits(image: Image.Image) -> Image.Image:
    low, high = grey_range()
    values = np.asarray(image).clip(low, high).astype(np.int64) - low
    # 256 equal steps, so that the whole range of 16 bits keeps its upper eight.
    grey = (values * 256 // (high - low + 1)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
