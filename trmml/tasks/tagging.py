"""Tags into the XMP files beside photos, where photo programs look for them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from trmml.data.libraries.changes import Change, sidecars_below, tagging, untagging
from trmml.errors import TrmmlError
from trmml.matcher.prediction import Prediction


class Tagged(NamedTuple):
    """What became of one photo, or of one sidecar.

    Attributes:
        path: The photo, or the sidecar that tags were taken out of.
        change: What was, or would be, written; None if nothing can be.
        error: Why not, as a sentence.
    """

    path: Path
    change: Change | None
    error: str | None = None


def write_tags(
    predictions: Iterable[Prediction], model: str, roots: Iterable[Path], *, dry_run: bool = False
) -> Iterator[Tagged]:
    """Write the positive labels of each prediction into the photo's sidecar; one photo at a time.

    What was written by an earlier call is replaced; keywords of people, and whatever else is in a
    sidecar, stay as they are, byte for byte. A photo that cannot be tagged never stops the others.

    Args:
        predictions: Of photos that came from paths.
        model: What the model is called in the sidecars.
        roots: Folders outside of which nothing is written.
        dry_run: Whether to write nothing, and say what would be written.
    """
    folders = tuple(roots)
    for prediction in predictions:
        photo = Path(prediction.source or "")
        if prediction.error is not None:
            yield Tagged(photo, None, prediction.error)
            continue
        try:
            labels = [tag.label for tag in prediction.positive]
            change = tagging(photo, labels, model, folders)
            if not dry_run:
                change.apply()
        except TrmmlError as error:
            yield Tagged(photo, None, str(error))
            continue
        yield Tagged(photo, change)


def remove_tags(
    places: Iterable[Path], roots: Iterable[Path], *, dry_run: bool = False
) -> Iterator[Tagged]:
    """Take out of sidecars all that `write_tags` wrote, and nothing else.

    A sidecar that nobody has changed since is again what it was, to the byte, or is gone if it was made
    for the tags.

    Args:
        places: Folders, photos or sidecars.
        roots: Folders outside of which nothing is written.
        dry_run: Whether to write nothing, and say what would be written.

    Yields:
        The sidecars that hold tags, or that cannot be read.
    """
    folders = tuple(roots)
    for sidecar in sidecars_below(places):
        try:
            change = untagging(sidecar, folders)
            if change.does_nothing:
                continue
            if not dry_run:
                change.apply()
        except TrmmlError as error:
            yield Tagged(sidecar, None, str(error))
            continue
        yield Tagged(sidecar, change)
