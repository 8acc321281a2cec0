"""Whether a table can measure a model: which labels they share, and whether it is new to the model."""

import logging
from collections import Counter
from typing import Any, NamedTuple

from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError, DataError, close_name, nearest
from trmml.matcher.model import TextRegionMatcher

logger = logging.getLogger(__name__)
MOST_NAMED = 8
"""Labels that a message names; it counts the others."""


def require_known(
    dataset: MultiLabelDataset, labels: tuple[str, ...], holder: str = "the model"
) -> None:
    """Check that a model, or another holder of labels, has all those of a data set.

    Raises:
        DataError: If the data set has another label.
    """
    unknown = [name for name in dataset.labels if name not in labels]
    if unknown:
        names = _some(list(map(repr, unknown)))
        raise DataError(
            f"{dataset.source} has the label{'s' * (len(unknown) > 1)} {names}, which {holder} does not "
            f"know. {nearest(unknown[0], labels)} Rename what is the same, or name the labels to use "
            "with `labels` (--labels)."
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


def warn_if_learned_from(model: TextRegionMatcher, dataset: MultiLabelDataset) -> None:
    """Warn where a data set seems to be one from which a model has learned, or that validated it.

    A model keeps no list of its photos, so their number and those of the known labels are compared: of
    the training photos alone, together with the validation photos, and of these alone.
    """
    facts = (model.report or {}).get("finetune", {})
    learned, held_out = (_numbers(facts.get(part)) for part in ("data", "validation"))
    here = _numbers(dataset.summary().to_dict())
    for numbers, which in (
        (learned, "what the model has learned from"),
        (learned + held_out, "what the model has learned from"),
        (held_out, "the validation photos that chose the model's best epoch and thresholds"),
    ):
        if all(numbers[key] == count for key, count in here.items()):
            logger.warning(
                "%s has just as many photos and known labels as %s. If it is the same table, these "
                "figures are too good: measure on other photos.", dataset.source, which
            )  # fmt: skip
            return


def _numbers(summary: Any) -> Counter[tuple[str, ...]]:
    """Return what is counted in the summary of a data set, as far as it is one."""
    summary = summary if isinstance(summary, dict) else {}
    labels = summary.get("labels")
    counted = {(): {"images": summary.get("images")}}
    counted |= {(name,): of for name, of in (labels if isinstance(labels, dict) else {}).items()}
    return Counter(
        {
            (*name, what): count
            for name, counts in counted.items()
            for what, count in (counts if isinstance(counts, dict) else {}).items()
            if isinstance(count, int)
        }
    )


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
