"""`predict`: one photo or many, with a model or by its name."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from trmml.errors import ConfigError, refuse_text
from trmml.files import with_home
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prediction import Prediction
from trmml.zoo.folder import CONFIG
from trmml.zoo.loading import DEFAULT_MODEL, load_model


def predict(
    images: Any,
    model: TextRegionMatcher | str | Path | None = None,
    *,
    labels: Sequence[str] | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    batch_size: int = 16,
    heatmaps: bool = False,
    rules: bool = False,
) -> Prediction | list[Prediction]:
    """Score every label of one photo or of many.

    Args:
        images: A photo (path, open file, bytes, PIL image, HWC array, CHW tensor), a folder, or an
            iterable of photos.
        model: A loaded model, or what `load_model` takes; the bundled model by default.
        labels: Labels to score, with a model that is named; see `load_model`.
        threshold: One threshold for all labels instead of the model's own, in [0, 1].
        top_k: At most so many positive labels per photo; without a threshold, the best ones whatever
            their scores.
        batch_size: Photos per pass through the model.
        heatmaps: Whether to keep what `Prediction.heatmap` needs.
        rules: Whether scores and tags keep the rules of the model (`a implies b`, `a excludes b`).

    Returns:
        One prediction for one photo, else a list in the same order. In a list, a photo that cannot
        be read has a prediction with `error` set. `trmml.to_pandas` makes a table of it.

    Raises:
        ImageError: If a single photo cannot be read, or a folder holds no photo.
        ConfigError: If labels are given for a loaded model.

    Example:
        >>> print(trmml.predict("photos/new.jpg"))
        >>> for found in trmml.predict("holiday/", "runs/shop"):
        ...     print(found.source, found.positive)
    """
    if not isinstance(model, TextRegionMatcher):
        source = str(model or DEFAULT_MODEL)
        refuse_text(labels, "labels")
        wanted = None if labels is None else tuple(labels)
        model = _cached_model(source, _state_of(with_home(source)), wanted)
    elif labels is not None:
        raise ConfigError(
            "labels= goes with the name of a model, and this one is loaded: load_model(name, labels=…)."
        )
    return model.predict(
        images,
        threshold=threshold,
        top_k=top_k,
        batch_size=batch_size,
        heatmaps=heatmaps,
        rules=rules,
    )


# One model only, since each keeps its CLIP in memory.
@lru_cache(maxsize=1)
def _cached_model(
    source: str, state: tuple[int, ...], labels: tuple[str, ...] | None
) -> TextRegionMatcher:
    """Load a model by name once for a series of calls, and again when its files have changed."""
    del state
    return load_model(source, labels=labels)


def _state_of(folder: Path) -> tuple[int, ...]:
    """Return when the files of a model folder changed; nothing for a name."""
    if not (folder / CONFIG).is_file():
        return ()
    return tuple(file.stat().st_mtime_ns for file in sorted(folder.iterdir()) if file.is_file())
