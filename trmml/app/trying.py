"""Photos that somebody drops on the page to see their tags: scored, shown and forgotten."""

import threading
from collections import OrderedDict
from typing import Any

from trmml.app.pictures import jpeg
from trmml.app.session import new_id
from trmml.errors import DataError
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prediction import Prediction

MOST_TRIED = 200
MAX_UPLOAD_BYTES = 100 * 2**20


class Tried:
    """The last photos that were tried, with what the model says of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Prediction] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes, model: TextRegionMatcher) -> dict[str, Any]:
        """Score a photo.

        Returns:
            `id`, and `tags`: label, score and threshold of each label, the best first.

        Raises:
            ImageError: If it cannot be read.
        """
        prediction = model.predict(content, heatmaps=True)
        assert isinstance(prediction, Prediction)
        photo_id = new_id()
        with self._lock:
            self._kept[photo_id] = prediction.shrunk()
            while len(self._kept) > MOST_TRIED:
                self._kept.popitem(last=False)
        values = zip(prediction.labels, prediction.scores, prediction.thresholds, strict=True)
        tags = [
            {"label": label, "score": round(float(score), 4), "threshold": round(float(limit), 4)}
            for label, score, limit in values
        ]
        tags.sort(key=lambda tag: -tag["score"])
        return {"id": photo_id, "tags": tags, "heatmaps": model.matching.has_evidence}

    def picture(self, photo_id: str, label: str | None = None) -> bytes:
        """Return a photo that was tried as JPEG, or with a label's heatmap over it.

        Raises:
            DataError: If it is not kept any more, or there is no such label.
        """
        with self._lock:
            prediction = self._kept.get(photo_id)
        if prediction is None or (label is not None and label not in prediction.labels):
            raise DataError("This photo is not kept any more; drop it again.")
        if label is None:
            assert prediction._photo is not None  # it was scored with heatmaps
            return jpeg(prediction._photo)
        return jpeg(prediction.overlay(label))
