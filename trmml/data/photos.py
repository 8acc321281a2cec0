"""Photos: from whatever a user has to an upright RGB picture.

This module needs no torch, so that looking at a label table starts at once.
"""

import contextlib
import glob
import io
import os
import struct
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from trmml.data.pixels import upright_rgb
from trmml.errors import ConfigError, DataError, ImageError, TrmmlError
from trmml.files import open_to_read, with_home

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
"""Of photos, as far as Pillow has them; HEIF is there once pillow-heif has registered itself. Pillow
knows others, which start programs (EPS) or take minutes (FITS)."""
MAX_PIXELS = 178_956_970
"""Pillow's own limit of 2²⁷ · 4/3 pixels, above which a file is taken for a decompression bomb."""
MAX_MEGABYTES = 400
"""Of a photo's pixels as they are decoded; `TRMML_MAX_PHOTO_MB` sets another limit."""

REDUCING_GAP = 2
"""A JPEG may be decoded at a half, quarter or eighth, but to no less than so many times the side that
it is resized to; Pillow's own advice for a result that can hardly be told from the slow one."""

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}

_loading = threading.Lock()
"""The same PIL image may come twice, and two threads must not read its file at once."""


def load_photo(source: Any, image_size: int | None = None) -> Image.Image:
    """Return a photo upright, as RGB.

    EXIF orientation is applied, transparency is laid over white, 16-bit greys are scaled to 8 bits
    (`TRMML_GREY_RANGE`, as 0-4095, says which of them are black and white).

    Args:
        source: A path, a file open for reading bytes or its content, a PIL image, an HWC array (H×W
            for grey) or a CHW tensor, either of them uint8, or float in [0, 1].
        image_size: The side in pixels that it will be resized to. A large JPEG file is then decoded
            at a part of its size, which is many times faster; by default it comes whole.

    Raises:
        ImageError: If it cannot be read, is too large or is of a kind that is not understood.
        ConfigError: If `TRMML_MAX_PHOTO_MB` or `TRMML_GREY_RANGE` is not what it must be.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    torch = sys.modules.get("torch")  # whoever has a tensor has loaded it
    if torch is not None and isinstance(source, torch.Tensor):
        return _from_tensor(source)
    if isinstance(source, bytes | bytearray):
        name = f"The photo ({len(source)} bytes)"
        return _decoded(io.BytesIO(source), name, len(source), image_size)
    if isinstance(source, str | os.PathLike):
        return _from_file(os.fspath(source), image_size)
    if is_file_object(source):
        return load_photo(content_of(source), image_size)
    advice = (
        "; pass what it holds under the name of the photo" if isinstance(source, Mapping) else ""
    )
    raise ImageError(
        f"A photo must be a path, bytes, a PIL image, a uint8 array or a tensor; "
        f"got {type(source).__name__}{advice}."
    )


def is_file_object(source: object) -> bool:
    """Say whether a value is an open file, or can be read like one."""
    return callable(getattr(source, "read", None)) and not isinstance(source, os.PathLike)


def content_of(file: Any) -> bytes:
    """Return all bytes of an open file, from its start if it can go there.

    Raises:
        ImageError: If it is closed, gives text or fails.
    """
    try:
        with _loading:  # the same file may come twice
            if getattr(file, "seekable", lambda: False)():
                file.seek(0)
            content = file.read()
    except (OSError, ValueError) as error:  # ValueError: closed, or text that is none
        raise ImageError(f"The open file cannot be read: {str(error).rstrip('.')}.") from error
    if not isinstance(content, bytes):
        raise ImageError(
            "The file was opened as text; open a photo with mode 'rb', or pass its path."
        )
    return content


def refuse_unreadable(reasons: Sequence[str], num_photos: int) -> None:
    """Raise a `DataError` that names the photos that cannot be read, if there are any."""
    if reasons:
        raise DataError(
            f"{len(reasons)} of {num_photos} photos cannot be read; mend them or remove their "
            f"rows: {'; '.join(reasons[:10])}{' …' if len(reasons) > 10 else ''}"
        )


def resized(photo: Image.Image, image_size: int, interpolation: str) -> Image.Image:
    """Squash a photo to a square of so many pixels a side; nothing is cut off.

    Args:
        photo: Of any size.
        image_size: Side of the square.
        interpolation: `bicubic` or `bilinear`.
    """
    size = (image_size, image_size)
    return photo if photo.size == size else photo.resize(size, _RESAMPLING[interpolation])


def _from_file(source: str | bytes, image_size: int | None) -> Image.Image:
    source = os.fsdecode(source)
    if "://" in source:
        raise ImageError(f"{source} is a URL; download the photo and pass its path.")
    path = with_home(source)
    try:
        size = path.stat().st_size
    except OSError as error:
        advice = ""
        if isinstance(error, FileNotFoundError) and glob.has_magic(source):
            advice = f" Patterns are not followed; pass sorted(glob.glob({source!r}))."
        raise ImageError(f"{path}: {_reason(error)}.{advice}") from error
    except ValueError as error:  # a zero byte in the path
        raise ImageError(f"{str(path)!r}: {error}.") from error
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not a photo.")
    return _decoded(path, str(path), size, image_size)


def _from_pil(image: Image.Image) -> Image.Image:
    name = "The PIL image"
    with _image_errors(name):
        _refuse_pixels(image, name)
        with _loading:
            image.load()
        return upright_rgb(image, name)


def _decoded(
    file: Path | io.BytesIO, name: str, num_bytes: int, image_size: int | None
) -> Image.Image:
    if num_bytes == 0:
        raise ImageError(f"{name} is empty (0 bytes).")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_image_errors(name))
        data = stack.enter_context(open_to_read(file)) if isinstance(file, Path) else file
        image = stack.enter_context(open_picture(data))
        # By the header alone: a bomb is refused before it is decoded, at whatever size it would be.
        _refuse_pixels(image, name)
        if image_size is not None:
            side = REDUCING_GAP * image_size
            image.draft(None, (side, side))  # does nothing for other formats than JPEG
        _refuse_bytes(image, name)
        return upright_rgb(image, name)


def open_picture(file: Any) -> Image.Image:
    """Read a picture's header from an open file, as `Image.open` does.

    That would also warn of an attack at honest photos of more than 89 million pixels; how large they
    may be is decided here.
    """
    prefix = file.read(16)
    for name in _formats():
        make, accepts = Image.OPEN[name]
        try:
            # What is no bool is a text that says why not.
            if accepts is None or accepts(prefix) is True:
                file.seek(0)
                return make(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # another format, to Pillow
    raise UnidentifiedImageError


def _formats() -> list[str]:
    with _loading:
        Image.init()  # does nothing the second time
    return [name for name in FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a photo into an `ImageError` that names it."""
    try:
        yield
    except TrmmlError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is too large to be a photo: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture in a known format.") from error
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {_reason(error)}.") from error
    except Exception as error:
        # On damaged files the decoders raise almost any class; which one depends on the format.
        raise ImageError(f"{name} is damaged: {str(error).rstrip('. ')}.") from error


def _refuse_pixels(image: Image.Image, name: str) -> None:
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} × {image.height} pixels; the most is {MAX_PIXELS}."
        )


def _refuse_bytes(image: Image.Image, name: str) -> None:
    text = os.environ.get("TRMML_MAX_PHOTO_MB") or str(MAX_MEGABYTES)
    if not text.isdecimal():
        raise ConfigError(f"TRMML_MAX_PHOTO_MB must be a whole number, got {text!r}.")
    wide = {"I": 4, "F": 4}.get(image.mode, 2 if image.mode.startswith("I;16") else 1)
    num_bytes = image.width * image.height * len(image.getbands()) * wide
    if num_bytes > int(text) * 10**6:
        raise ImageError(
            f"{name} has {image.width} × {image.height} pixels, {num_bytes / 1e6:.0f} MB when decoded; "
            f"the most is {text} MB. Make it smaller, or set TRMML_MAX_PHOTO_MB."
        )


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype.kind == "f" and array.ndim in (2, 3) and array.size:
        array = _bytes_of_floats(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(
            "An array must be uint8, or float in [0, 1], of shape height × width × 3, "
            f"got {array.dtype} {array.shape}."
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        advice = " Turn it with array.transpose(1, 2, 0)." if array.shape[0] in (1, 3, 4) else ""
        raise ImageError(
            f"An array must have its 1, 3 or 4 channels last, got shape {array.shape}.{advice}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(array))
    _refuse_pixels(image, "The array")
    return upright_rgb(image, "The array")


def _bytes_of_floats(array: np.ndarray) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= 1:  # false for NaN
        raise ImageError(
            f"A float array must have values in [0, 1], got {low:g} to {high:g}; values up to 255 go "
            "in as array.astype('uint8')."
        )
    return (array.astype(np.float32) * 255).round().astype(np.uint8)


def _from_tensor(tensor: Any) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ImageError(f"A tensor must be 3 × height × width, got {tuple(tensor.shape)}.")
    if tensor.is_floating_point():
        tensor = tensor.detach().float()
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):
            raise ImageError("A float tensor must have values in [0, 1], before any normalization.")
        tensor = (tensor * 255).round().byte()
    elif str(tensor.dtype) != "torch.uint8":
        raise ImageError(f"A tensor must be uint8 or float, got {tensor.dtype}.")
    return _from_array(tensor.cpu().permute(1, 2, 0).numpy())


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".")
