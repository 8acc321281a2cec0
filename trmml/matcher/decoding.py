"""Photos in, predictions out: decoded in batches while the network works on the ones before."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32
from numpy import isfinite, ndarray
from PIL import Image
from torch import Tensor

from trmml.config.groups import PhotoConfig
from trmml.data.checks import Rule
from trmml.data.finding import find_photos
from trmml.data.photos import content_of, is_file_object, load_photo
from trmml.data.tensors import load_tensor
from trmml.errors import ArtifactError, ConfigError, ImageError
from trmml.files import is_folder, with_home
from trmml.matcher.prediction import Prediction
from trmml.matcher.rules import with_rules

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


class PredictsPhotos:
    """What predicts many photos, one after the other, also predicts one, a folder or a list."""

    def predict_many(
        self,
        images: Iterable[Any],
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        batch_size: int = 16,
        heatmaps: bool = False,
        rules: bool = False,
    ) -> Iterator[Prediction]:
        """Predict photos in order and in constant memory."""
        raise NotImplementedError

    def predict(
        self,
        images: Any,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        batch_size: int = 16,
        heatmaps: bool = False,
        rules: bool = False,
    ) -> Prediction | list[Prediction]:
        """Score every label of one photo or of many; `trmml.predict` with this model.

        Args:
            images: A photo (whatever `load_photo` takes), a folder, or an iterable of photos.
            threshold: As in `predict_many`, like the rest.
            top_k: At most so many positive labels per photo.
            batch_size: Photos per pass through the model.
            heatmaps: Whether to keep what `Prediction.heatmap` needs.
            rules: Whether scores and tags keep the rules of the model.

        Returns:
            One prediction for one photo, else a list in the same order.

        Raises:
            ImageError: If a single photo cannot be read, or a folder holds no photo.
        """
        is_one = is_one_photo(images)
        predictions = self.predict_many(
            [images] if is_one else photos_of(images),
            threshold=threshold,
            top_k=top_k,
            batch_size=batch_size,
            heatmaps=heatmaps,
            rules=rules,
        )
        if not is_one:  # among many, one unreadable photo must not cost the others
            return list(predictions)
        prediction = next(predictions)
        if prediction.error is not None:
            raise ImageError(prediction.error)
        return prediction

    @staticmethod
    def require_in_range(threshold: float | None, top_k: int | None, batch_size: int) -> None:
        """Check what `predict_many` takes.

        Raises:
            ConfigError: If one is out of range.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be in [0, 1], got {threshold}.")
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")

    def __call__(self, *images: Any, **settings: Any) -> Any:
        """Run a network on a batch of normalized photos; predict anything that is no tensor."""
        if images and not isinstance(images[0], Tensor):
            return self.predict(*images, **settings)
        return super().__call__(*images, **settings)  # pyright: ignore[reportAttributeAccessIssue]


def is_one_photo(images: Any) -> bool:
    """Say whether a value is a single photo, and no folder and nothing that holds several."""
    if isinstance(images, str | os.PathLike):
        return not is_folder(os.fsdecode(images))
    if isinstance(images, ndarray | Tensor):
        return images.ndim < 4 and not _holds_paths(images)
    return is_file_object(images) or isinstance(images, bytes | bytearray | Image.Image)


def _holds_paths(images: ndarray | Tensor) -> bool:
    return isinstance(images, ndarray) and images.ndim == 1 and images.dtype.kind in "OUST"


def photos_of(images: Any) -> Iterable[Any]:
    """Return the photos of a folder, or an iterable as it is.

    Raises:
        ImageError: If a folder holds no photo, or the value is nothing that holds photos.
    """
    if isinstance(images, str | os.PathLike):
        folder = with_home(os.fsdecode(images))
        photos = find_photos(folder)
        if not photos:
            raise ImageError(f"There is no photo in the folder {folder}.")
        return photos
    wanted = f"Expected a photo, a folder or a list, got {type(images).__name__}"
    if isinstance(images, Mapping):  # to iterate over it would give its keys
        raise ImageError(f"{wanted}; pass the photos that it holds: list(photos.values()).")
    if hasattr(images, "columns"):  # a data frame would give the names of its columns
        raise ImageError(f"{wanted}; pass the column of the photos: table['image'].")
    if not isinstance(images, Iterable):
        raise ImageError(f"{wanted}.")
    return images


def stream_predictions(
    images: Iterable[Any],
    config: PhotoConfig,
    score: Callable[[Float[Tensor, "batch 3 height width"]], PhotoScores],
    like: Prediction,
    rules: Sequence[Rule] = (),
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
        rules: What its scores and tags keep; see `with_rules`.
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
            yield with_rules(prediction, rules)


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
    # An open file has a name as well, and bytes that can be read only once.
    name = getattr(image, "name", None) if is_file_object(image) else image
    source = os.fsdecode(name) if isinstance(name, str | os.PathLike) else None
    try:
        image = content_of(image) if is_file_object(image) else image
        tensor = load_tensor(image, config)
        photo = load_photo(image) if keep_photo else None
    except ImageError as error:
        return PreparedPhoto(source, None, None, str(error))
    return PreparedPhoto(source, tensor, photo, None)
