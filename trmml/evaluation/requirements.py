"""Which labels of a table a model can be measured by, and that it is a model at all."""

from typing import NamedTuple

from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError, DataError, close_name, nearest
from trmml.matcher.model import TextRegionMatcher

MOST_NAMED = 8
"""Labels that a message names; it counts the others."""


def require_known(
    dataset: MultiLabelDataset, labels: tuple[str, ...], holder: str = "the model"
) -> None:
    """Check that a model, or another holder of labels, has all those of a data set.

    Raises:
        DataError: If the data set has another label.
    """
    for name in dataset.labels:
        if name not in labels:
            raise DataError(
                f"{dataset.source} has the label {name!r}, which {holder} does not know. "
                f"{nearest(name, labels)} Or name the labels to use with `labels` (--labels)."
            )


class Shared(NamedTuple):
    """The labels that a model and a data set share.

    Attributes:
        dataset: With these labels alone, in its own order.
        unknown_to_model: Labels of the data set that the model lacks.
        not_in_data: Labels of the model that the data set lacks.
    """

    dataset: MultiLabelDataset
    unknown_to_model: tuple[str, ...]
    not_in_data: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line on what is left out, empty if nothing is."""
        parts = []
        if self.unknown_to_model:
            known = (*self.dataset.labels, *self.not_in_data)
            names = _some([_with_hint(name, known) for name in self.unknown_to_model])
            parts.append(f"the model does not know {names} of the table")
        if self.not_in_data:
            parts.append(f"the table does not name {_some(list(map(repr, self.not_in_data)))}")
        labels = f"{len(self.dataset.labels)} labels are in both model and table"
        return f"{labels}; left out: {'; '.join(parts)}." if parts else ""


def shared_labels(dataset: MultiLabelDataset, labels: tuple[str, ...]) -> Shared:
    """Return a data set with those of its labels that a model has, and say which either lacks.

    Labels of the model that a list of positives never names count where they are negative there.

    Raises:
        DataError: If no label that the data set names is the model's.
    """
    unknown = tuple(name for name in dataset.labels if name not in labels)
    if len(unknown) == len(dataset.labels):
        raise DataError(
            f"{dataset.source} has no label that the model knows: "
            f"{_some([_with_hint(name, labels) for name in unknown])}. {nearest('', labels)} "
            "Rename the table's labels as the model's."
        )
    dataset = dataset.naming(labels)
    named = [name for name in dataset.labels if name in labels]
    missing = tuple(name for name in labels if name not in dataset.labels)
    return Shared(dataset.with_labels(named) if unknown else dataset, unknown, missing)


def _with_hint(name: str, known: tuple[str, ...]) -> str:
    near = close_name(name, known)
    return repr(name) if near is None else f"{name!r} (is it {near!r}?)"


def _some(names: list[str]) -> str:
    more = f" … ({len(names)} in all)" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def require_loaded(model: object) -> None:
    """Check that a model is one, and not the name of one.

    Raises:
        ConfigError: If it is something else.
    """
    if not isinstance(model, TextRegionMatcher):
        raise ConfigError(f"Load the model first: trmml.load_model({str(model)!r}).")
