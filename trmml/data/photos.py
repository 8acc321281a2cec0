"""Photos: from whatever a user has to an upright RGB picture.

This module needs no torch, so that looking at a label table starts at once.
"""

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trmml.errors import DataError, ImageError
from trmml.files import with_home

logger = logging.getLogger(__name__)

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".jpx", ".png", ".apng", ".webp"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
"""Of photos, as far as Pillow has them; HEIF is there once pillow-heif has registered itself. Pillow
knows others, which start programs (EPS) or take minutes (FITS)."""
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"),
    *(".psd", ".xcf", ".jxl", ".jxr", ".svg", ".eps", ".tga", ".pcx", ".exr", ".hdr", ".ico"),
)
"""Pictures as well, of kinds that are not read; a folder of nothing else should not look empty."""
SYSTEM_FOLDERS = (
    *("__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", "__pycache__"),
)
"""Folders of macOS' archives, of network disks' thumbnails, and bins."""
MAX_PIXELS = 178_956_970
"""Pillow's own limit of 2²⁷ · 4/3 pixels, above which a file is taken for a decompression bomb."""

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

    EXIF orientation is applied, transparency is laid over white, 16-bit greys are scaled to 8 bits.

    Args:
        source: A path, the bytes of a file, a PIL image, an HWC uint8 array (H×W for grey), or a
            CHW tensor (uint8, or float in [0, 1]).
        image_size: The side in pixels that it will be resized to. A large JPEG file is then decoded
            at a part of its size, which is many times faster; by default it comes whole.

    Raises:
        ImageError: If it cannot be read, is too large or is of a kind that is not understood.
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
    if isinstance(source, str | Path):
        return _from_file(source, image_size)
    raise ImageError(
        f"A photo must be a path, bytes, a PIL image, a uint8 array or a tensor; "
        f"got {type(source).__name__}."
    )


def is_system_file(path: PurePath) -> bool:
    """Say whether a path, relative to what the user named, is hidden or lies in a system's folder.

    As macOS' shadows of files in archives, `__MACOSX` and `._1.jpg`.
    """
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in path.parts)


def find_photos(folder: Path) -> list[Path]:
    """Return the photos below a folder, also through links, sorted by path.

    What is hidden or in a system's folder is left out. How many pictures of kinds that are not read
    were passed over is logged as a warning.
    """
    kinds = (*PHOTO_SUFFIXES, *OTHER_SUFFIXES)
    found = (path for path in _files_below(folder) if path.suffix.lower() in kinds)
    files = [path for path in found if path.is_file()]
    photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
    others = sorted({path.suffix.lower() for path in files} - set(PHOTO_SUFFIXES))
    if others:
        logger.warning(
            "%d pictures in %s are left out: %s cannot be read; convert them to JPEG or PNG.",
            len(files) - len(photos), folder, ", ".join(others),
        )  # fmt: skip
    return sorted(photos)


def _files_below(folder: Path) -> Iterator[Path]:
    # A link may lead to a folder that was seen, or to one above itself: each is gone through once,
    # and under its own name if it has one here.
    seen = {os.path.realpath(folder)}
    links: list[Path] = [folder]
    while links:
        for place, folders, files in os.walk(links.pop(0)):
            passed = sorted(set(SYSTEM_FOLDERS) & set(folders))
            if passed:
                logger.warning("%s in %s is a system's and left out.", ", ".join(passed), place)
            inner = sorted(name for name in folders if not is_system_file(PurePath(name)))
            linked = [name for name in inner if Path(place, name).is_symlink()]
            links += [Path(place, name) for name in linked]
            folders[:] = [name for name in inner if name not in linked]
            seen |= {os.path.realpath(Path(place, name)) for name in folders}
            yield from (Path(place, name) for name in files if not is_system_file(PurePath(name)))
        while links and os.path.realpath(links[0]) in seen:
            links.pop(0)
        seen |= {os.path.realpath(link) for link in links[:1]}


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


def _from_file(source: str | Path, image_size: int | None) -> Image.Image:
    if "://" in str(source):
        raise ImageError(f"{source} is a URL; download the photo and pass its path.")
    path = with_home(source)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ImageError(f"{path}: {_reason(error)}.") from error
    except ValueError as error:  # a zero byte in the path
        raise ImageError(f"{str(path)!r}: {error}.") from error
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not a photo.")
    return _decoded(path, str(path), size, image_size)


def _from_pil(image: Image.Image) -> Image.Image:
    name = "The PIL image"
    with _image_errors(name):
        _refuse_size(image, name)
        with _loading:
            image.load()
        return _upright_rgb(image, name)


def _decoded(
    file: Path | io.BytesIO, name: str, num_bytes: int, image_size: int | None
) -> Image.Image:
    if num_bytes == 0:
        raise ImageError(f"{name} is empty (0 bytes).")
    with _image_errors(name), Image.open(file, formats=_formats()) as image:
        # By the header alone: a bomb is refused before it is decoded, at whatever size it would be.
        _refuse_size(image, name)
        if image_size is not None:
            side = REDUCING_GAP * image_size
            image.draft(None, (side, side))  # does nothing for other formats than JPEG
        return _upright_rgb(image, name)


def _formats() -> list[str]:
    with _loading:
        Image.init()  # does nothing the second time
    return [name for name in FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a photo into an `ImageError` that names it."""
    try:
        yield
    except ImageError:
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


def _refuse_size(image: Image.Image, name: str) -> None:
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} × {image.height} pixels; the most is {MAX_PIXELS}."
        )


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Apply orientation and transparency of an image whose size has been checked."""
    image.load()
    # Pillow scales a grey PGM to 16 bits; the 32 bits of other formats have no known range. Asked
    # here, because an image that has been turned no longer knows its format.
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_16_bit:
        grey = (np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    # Converted straight to RGB, what is transparent would show whatever colour lies below it.
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    raise ImageError(f"{name} has the pixel format {image.mode!r}; convert it to 8-bit RGB.")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(
            f"An array must be uint8 of shape height × width × 3, got {array.dtype} {array.shape}."
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"An array must have its 1, 3 or 4 channels last, got shape {array.shape}."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(array))
    _refuse_size(image, "The array")
    return _upright_rgb(image, "The array")


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
