"""Pictures for the page: heatmaps, and photos made anew as JPEG: no file is handed on as it is."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from PIL import Image

from trmml.data.photos import load_photo
from trmml.errors import ConfigError
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prediction import Prediction

LARGE, SMALL = 1600, 400
"""Longer side of a photo that stands alone, and of one in a grid, in pixels."""
MOST_KEPT = 64


def jpeg(picture: Image.Image, quality: int = 88) -> bytes:
    """Return a picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def photo_jpeg(source: Any, side: int) -> bytes:
    """Return a photo, upright and no larger than so many pixels a side, as JPEG.

    Raises:
        ImageError: If it cannot be read.
    """
    photo = load_photo(source, side // 2)  # a large one is decoded at no less than twice that
    photo.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2)
    return jpeg(photo)


class Pictures:
    """Pictures of a table's photos, the last ones kept."""

    def __init__(self, photos: tuple[Path, ...]) -> None:
        self.photos = photos
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def photo(self, row: int, side: int) -> bytes:
        """Return a photo as JPEG.

        Raises:
            ImageError: If it cannot be read.
        """
        return self._keep((row, side), lambda: photo_jpeg(self.photos[row], side))

    def heatmap(self, row: int, label: str, model: TextRegionMatcher) -> bytes:
        """Return a photo with a label's heatmap over it.

        Raises:
            ConfigError: If the model has no such label, or its way of matching has no heatmaps.
            ImageError: If the photo cannot be read.
        """
        if label not in model.labels:
            raise ConfigError(f"The model does not know {label!r}.")

        def make() -> bytes:
            prediction = model.predict(self.photos[row], heatmaps=True)
            assert isinstance(prediction, Prediction)
            return jpeg(prediction.shrunk().overlay(label))

        return self._keep((row, label, id(model)), make)

    def _keep(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        content = make()
        with self._lock:
            self._kept[key] = content
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return content
