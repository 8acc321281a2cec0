"""What makes two runs the same: the digest of all that decides their result."""

import hashlib
import json
import os
from typing import Any

from trmml.config.base import flat_settings
from trmml.config.groups import FinetuneConfig, ModelConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.data.pixels import grey_range
from trmml.matcher.model import TextRegionMatcher


def changed_settings(before: Any, now: FinetuneConfig) -> str:
    """Return ` (training.epochs was 12, is 3)` for an error; empty where no setting differs."""
    was = flat_settings(before) if isinstance(before, dict) else {}
    found = [
        f"{name} was {was[name]}, is {value}"
        for name, value in flat_settings(now.to_dict()).items()
        if name in was and was[name] != value
    ]
    more = f", and {len(found) - 5} more" if len(found) > 5 else ""
    return f" ({'; '.join(found[:5])}{more})" if found else ""


def fingerprint_of(
    settings: FinetuneConfig,
    config: ModelConfig,
    origin: str,
    train: MultiLabelDataset,
    val: MultiLabelDataset,
) -> str:
    """Digest of all that decides the result of a run, but for rounding.

    Args:
        settings: With nothing left to the machine.
        config: Of the model.
        origin: `digest_of` the model that training starts from; empty for a new one, which the
            other arguments decide.
        train: Photos to train on.
        val: Photos that choose the best epoch.
    """
    digest = hashlib.sha256(origin.encode())
    chosen, model = settings.to_dict(), config.to_dict()
    for name in ("num_workers", "cache_gb"):  # with these a run may go on on a smaller machine
        del chosen["training"][name]
    del model["backbone"]["license"]  # not known where there is no network
    digest.update(json.dumps([chosen, model]).encode())
    if grey_range() != (0, 65535):
        digest.update(repr(grey_range()).encode())
    for dataset in (train, val):
        digest.update(os.fsencode("\0".join(str(photo) for photo in dataset.photos)))
        digest.update(dataset.states.tobytes())
    return digest.hexdigest()


def digest_of(model: TextRegionMatcher) -> str:
    """Digest of what a model has learned."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.learned_state().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
