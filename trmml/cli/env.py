"""`trmml env`."""

from typing import Annotated, Any

import typer

from trmml.cli.options import Report, as_json
from trmml.version import __version__


def env(
    format: Annotated[Report, typer.Option(help="How to print.")] = Report.table,
) -> None:
    """Print versions, devices and cache folders, for bug reports.

    Example:
    trmml env
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from huggingface_hub import constants

    from trmml.training.features import cache_folder
    from trmml.zoo.catalog import list_models

    facts: dict[str, Any] = {"trmml": __version__, "python": platform.python_version()}
    facts["platform"] = platform.platform()
    for package in ("torch", "torchvision", "open_clip_torch", "huggingface_hub", "safetensors"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts["threads"] = torch.get_num_threads()
    cache = cache_folder()
    kept = (path for path in cache.rglob("*.npy") if path.is_file())
    size = sum(path.stat().st_size for path in kept) if cache.is_dir() else 0
    facts["feature cache"] = f"{cache} ({size / 1e9:.2f} GB)"
    facts["hub cache"] = constants.HF_HUB_CACHE
    facts["hub offline"] = constants.HF_HUB_OFFLINE
    facts["bundled models"] = ", ".join(info.name for info in list_models()) or "none"
    if format is Report.json:
        typer.echo(as_json(facts))
    else:
        typer.echo("\n".join(f"{name:<16} {value}" for name, value in facts.items()))
