"""Photos made ready for a model in batches, decoded while the model works on the ones before."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trmml.config.groups import PhotoConfig
from trmml.data.photos import load_photo
from trmml.data.tensors import load_tensor
from trmml.errors import ImageError

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
