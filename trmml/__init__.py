"""Multi-label image recognition when most labels are missing: text-region matching on a frozen CLIP.

Public names are loaded on first use, so that `import trmml` starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "FinetuneConfig": "config",
    "ModelConfig": "config",
    "MultiLabelDataset": "data.dataset",
    "Prediction": "predictions",
    "TextRegionMatcher": "model",
    "complete": "completion",
    "evaluate": "evaluation",
    "export": "exporting",
    "finetune": "training",
    "list_models": "catalog",
    "load_model": "zoo",
    "predict": "inference",
    "push_to_hub": "publishing",
    "read_dataset": "data.tables",
    "save_model": "model_folder",
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
            "TrmmlError",
            "UnsupportedBackboneError",
        ),
        "errors",
    ),
}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from trmml.catalog import list_models
    from trmml.completion import complete
    from trmml.config import FinetuneConfig, ModelConfig
    from trmml.data.dataset import MultiLabelDataset
    from trmml.data.tables import read_dataset
    from trmml.errors import (
        ArtifactError,
        ConfigError,
        DataError,
        DependencyError,
        ImageError,
        ModelAccessError,
        ModelNotFoundError,
        OfflineError,
        TrmmlError,
        UnsupportedBackboneError,
    )
    from trmml.evaluation import evaluate
    from trmml.exporting import export
    from trmml.inference import predict
    from trmml.model import TextRegionMatcher
    from trmml.model_folder import save_model
    from trmml.predictions import Prediction
    from trmml.publishing import push_to_hub
    from trmml.training import finetune
    from trmml.zoo import load_model


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trmml' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trmml.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
