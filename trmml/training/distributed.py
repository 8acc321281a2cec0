"""Several processes that train one model: `torchrun --nproc-per-node N -m trmml finetune …`.

Every process holds the whole model and the whole label table. It encodes and matches its part of a
batch; the outputs are put together, with their gradient, so that the loss, the prototypes and the
validation see the whole batch everywhere. The result is that of one process at the same batch size,
but for rounding and for what dropout draws. Outside of `joined` every process is alone.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from trmml.errors import ConfigError

_together = False
"""Whether this process is inside of `joined`; a group that somebody else made is not ours."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, until the end of the block.

    Raises:
        ConfigError: If there are more processes than GPUs.
    """
    global _together
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _together or not dist.is_available():
        yield
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        if own_device().index >= torch.cuda.device_count():
            raise ConfigError(
                f"There are more processes than GPUs ({torch.cuda.device_count()}); set "
                "--nproc-per-node to at most that."
            )
        torch.cuda.set_device(own_device())
    # A caller's own group is used and left as it is; only one that was made here is taken down.
    has_group = dist.is_initialized()
    if not has_group:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    _together = True
    try:
        yield
    finally:
        _together = False
        if not has_group:
            dist.destroy_process_group()


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _together else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _together else 0


def is_first() -> bool:
    """Say whether this is the one process that writes and speaks."""
    return rank() == 0


def own_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def wait() -> None:
    """Wait until every process is here."""
    if _together:
        dist.barrier()


def own_rows(rows: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " own"]:
    """Return the rows that are this process's to work on.

    All parts are equally long: where they cannot be, first rows come again at the end, and `gather`
    drops what they gave.
    """
    # Collectives wait for each other: a process with a batch less would hang all the others.
    length = -(-len(rows) // count())
    return np.resize(rows, length * count())[rank() * length : (rank() + 1) * length]


def gather(own: Float[Tensor, "own ..."], num_rows: int) -> Float[Tensor, "row ..."]:
    """Put together what the processes computed for their parts of so many rows.

    The gradient of a row reaches the process that computed it, summed over all processes.
    """
    if count() == 1:
        return own
    gathered: Any = _Gather.apply(own.contiguous())
    return gathered[:num_rows]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.num_own = len(own)
        parts = [torch.empty_like(own) for _ in range(count())]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process has a loss over all rows, so each has a part of the gradient of every row.
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed[rank() * ctx.num_own : (rank() + 1) * ctx.num_own]


def gather_lists(own: list[str]) -> list[str]:
    """Return the texts of all processes, in the order of the processes."""
    if count() == 1:
        return own
    lists: list[list[str]] = [[] for _ in range(count())]
    dist.all_gather_object(lists, own)
    return [text for texts in lists for text in texts]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Set the gradients to their mean over all processes, in one exchange.

    Every process minimizes the loss of the whole batch, and `gather` sums over processes; so the
    mean is the gradient that one process would have had.
    """
    if count() == 1:
        return
    # One exchange of all gradients costs one latency; one for each tensor costs dozens.
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= count()
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(mean.view_as(gradient))
