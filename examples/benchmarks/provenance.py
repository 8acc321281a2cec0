"""Where a figure comes from: written into every JSON of the benchmarks."""

import platform
import subprocess

import torch


def provenance() -> dict[str, str]:
    """Return the commit (marked if there are changes), the kind of machine and torch's version."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    return {"commit": commit, "machine": machine, "torch": torch.__version__}
