"""Photos in, predictions out: decoded in batches while the network works on the ones before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32
from numpy import isfinite, ndarray
from PIL import Image
from torch import Tensor

from trmml.config.groups import PhotoConfig
from trmml.data.photos import load_photo
from trmml.data.tensors import load_tensor
from trmml.errors import ArtifactError, ImageError
from trmml.matcher.prediction import Prediction

NUM_THREADS = 4


class PreparedPhoto(NamedTuple):
    """A photo as a model takes it, or why it cannot be read.

    Attributes:
        source: What it came from, if that was a path.
        tensor: Normalized; None if it cannot be read.
        photo: The picture itself, if it was to be kept.
        error: Why it cannot be read, if so.
    """

    source: str | None
    tensor: Float[Tensor, "3 height width"] | None
    photo: Image.Image | None
    error: str | None


class PhotoScores(NamedTuple):
    """What a network says of a batch: scores in [0, 1] and, if asked, the evidence of each patch."""

    scores: Float32[ndarray, "batch label"]
    evidence: Float[ndarray, "batch label row column"] | None


def stream_predictions(
    images: Iterable[Any],
    config: PhotoConfig,
    score: Callable[[Float[Tensor, "batch 3 height width"]], PhotoScores],
    like: Prediction,
    *,
    batch_size: int,
    keep_photos: bool,
) -> Iterator[Prediction]:
    """Yield a prediction for every photo, in order and in constant memory.

    Args:
        images: Anything that `load_photo` takes.
        config: How a photo becomes a tensor.
        score: The network.
        like: Labels and thresholds; its scores stand for a photo that cannot be read.
        batch_size: Photos given to the network at a time.
        keep_photos: Whether a prediction keeps its picture.

    Raises:
        ArtifactError: If a score is no finite number.
    """
    for batch in prepared_batches(images, config, batch_size, keep_photos=keep_photos):
        tensors = [item.tensor for item in batch if item.tensor is not None]
        found = score(torch.stack(tensors)) if tensors else None
        # NaN would reach no threshold, and so be taken for a photo without any label.
        if found is not None and not isfinite(found.scores).all():
            raise ArtifactError(
                "The model gives a score that is no finite number; its file, or that of its CLIP, is "
                "damaged or does not hold a trained model."
            )
        row = 0
        for item in batch:
            prediction = replace(like, source=item.source, error=item.error, _photo=item.photo)
            if item.tensor is not None and found is not None:
                evidence = None if found.evidence is None else found.evidence[row]
                prediction = replace(prediction, scores=found.scores[row], _evidence=evidence)
                row += 1
            yield prediction


def prepared_batches(
    images: Iterable[Any], config: PhotoConfig, batch_size: int, *, keep_photos: bool
) -> Iterator[list[PreparedPhoto]]:
    """Yield all photos in order, in constant memory: two batches are held at a time.

    Args:
        images: Anything that `load_photo` takes.
        config: How a photo becomes a tensor.
        batch_size: Photos in a batch; the last one may have fewer.
        keep_photos: Whether the pictures are needed as well.
    """
    left = iter(images)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        waiting: deque[Future[PreparedPhoto]] = deque()

        def refill() -> None:
            for image in islice(left, 2 * batch_size - len(waiting)):
                waiting.append(pool.submit(_prepared, image, config, keep_photos))

        refill()
        while waiting:
            batch = [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
            refill()  # these are decoded while the batch is worked on
            yield batch


def _prepared(image: Any, config: PhotoConfig, keep_photo: bool) -> PreparedPhoto:
    source = str(image) if isinstance(image, str | Path) else None
    try:
        tensor = load_tensor(image, config)
        photo = load_photo(image) if keep_photo else None
    except ImageError as error:
        return PreparedPhoto(source, None, None, str(error))
    return PreparedPhoto(source, tensor, photo, None)
