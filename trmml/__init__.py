"""Multi-label image recognition when most labels are missing: text-region matching on a frozen CLIP.

Public names are loaded on first use, so that `import trmml` starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trmml.version import __version__

_HOME = {
    "FinetuneConfig": "config.groups",
    "ModelConfig": "config.groups",
    "MultiLabelDataset": "data.dataset",
    "Prediction": "matcher.prediction",
    "TextRegionMatcher": "matcher.model",
    "complete": "tasks.completion",
    "evaluate": "evaluation.measuring",
    "export": "tasks.exporting",
    "finetune": "training.finetuning",
    "list_models": "zoo.catalog",
    "load_exported": "tasks.exporting",
    "load_model": "zoo.loading",
    "predict": "tasks.inference",
    "push_to_hub": "zoo.publishing",
    "read_dataset": "data.readers.tables",
    "save_model": "zoo.folder",
    "to_pandas": "matcher.prediction",
    **dict.fromkeys(
        (
            "ArtifactError",
            "ConfigError",
            "DataError",
            "DependencyError",
            "ImageError",
            "ModelAccessError",
            "ModelNotFoundError",
            "OfflineError",
            "OutputError",
            "TrmmlError",
            "UnsupportedBackboneError",
        ),
        "errors",
    ),
}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from trmml.config.groups import FinetuneConfig, ModelConfig
    from trmml.data.dataset import MultiLabelDataset
    from trmml.data.readers.tables import read_dataset
    from trmml.errors import (
        ArtifactError,
        ConfigError,
        DataError,
        DependencyError,
        ImageError,
        ModelAccessError,
        ModelNotFoundError,
        OfflineError,
        OutputError,
        TrmmlError,
        UnsupportedBackboneError,
    )
    from trmml.evaluation.measuring import evaluate
    from trmml.matcher.model import TextRegionMatcher
    from trmml.matcher.prediction import Prediction, to_pandas
    from trmml.tasks.completion import complete
    from trmml.tasks.exporting import export, load_exported
    from trmml.tasks.inference import predict
    from trmml.training.finetuning import finetune
    from trmml.zoo.catalog import list_models
    from trmml.zoo.folder import save_model
    from trmml.zoo.loading import load_model
    from trmml.zoo.publishing import push_to_hub


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trmml' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trmml.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
