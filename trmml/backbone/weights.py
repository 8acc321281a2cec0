"""Weights in safetensors files: compared with what is wanted by shape alone, and only then read.

The header of such a file states names and shapes. So an architecture that claims other sizes than
its weights have is refused before memory is taken for either.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from trmml.errors import ArtifactError


class TensorFile(NamedTuple):
    """An open safetensors file: what it holds, and a way to read it tensor by tensor."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file, of which only the header is read at first.

    Raises:
        ArtifactError: If it is damaged or cannot be read.
    """
    try:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except OSError:
                # Some network mounts cannot map a file into memory, but read it well.
                tensors = load(path.read_bytes())
                shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
                yield TensorFile(shapes, tensors.__getitem__)
                return
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            yield TensorFile(shapes, file.get_tensor)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged: {error}.") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}.") from error


def is_finite(tensor: Tensor) -> bool:
    """Say whether a tensor holds neither NaN nor infinities."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # One pass and no copy, unlike `isfinite().all()`; NaN is both the least and the largest.
    return all(bool(torch.isfinite(end)) for end in tensor.aminmax())


def load_weights(
    build: Callable[[], CLIP | CustomTextCLIP], path: Path, *, text: bool, num_layers: int
) -> CLIP | CustomTextCLIP:
    """Build a CLIP and load every tensor of the towers that are wanted: none is left at random.

    Args:
        build: Makes the CLIP; called once for its shapes alone, and once in earnest.
        path: A safetensors file.
        text: Whether the text tower is wanted.
        num_layers: How many layers `build` is going to make.

    Raises:
        ArtifactError: If the file is damaged, does not fit, or holds no finite numbers.
    """
    with open_tensors(path) as file:
        shapes = {n: shape for n, shape in file.shapes.items() if text or n.startswith("visual.")}
        # Even without memory for its numbers, a layer takes time to make.
        if num_layers > len(shapes):
            raise ArtifactError(
                f"{path} does not fit its architecture: Missing key(s), since {num_layers} layers need "
                f"more than the {len(shapes)} tensors that it holds."
            )
        with torch.device("meta"):
            skeleton = build()
        meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        _fill(skeleton, meta, path, text)
        clip = build()
        _fill(clip, {name: file.read(name) for name in shapes}, path, text)
    clip.float()
    for name, tensor in (clip if text else clip.visual).state_dict().items():
        if not is_finite(tensor):
            raise ArtifactError(f"{path}: {name} holds values that are no finite numbers.")
    return clip


def _fill(clip: CLIP | CustomTextCLIP, state: dict[str, Tensor], path: Path, text: bool) -> None:
    """Copy tensors into a CLIP as open_clip does, positions of other sizes resized."""
    try:
        if not text:
            resize_pos_embed(state, clip)
            visual = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
            clip.visual.load_state_dict(visual, strict=True)
            return
        if next(iter(state)).startswith("module"):  # as training on several GPUs names them
            state = {name[7:]: tensor for name, tensor in state.items()}
        if isinstance(clip, CustomTextCLIP) and "positional_embedding" in state:
            state = convert_to_custom_text_state_dict(state)
        for name in ("logit_scale", "logit_bias"):
            value, wanted = state.get(name), getattr(clip, name)
            if value is not None and wanted is not None and value.numel() == 1:
                state[name] = value.reshape(wanted.shape)  # of no axis or of one
        resize_pos_embed(state, clip)
        resize_text_pos_embed(state, clip)
        clip.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError, LookupError, AssertionError, StopIteration) as error:
        reason = " ".join(line.strip() for line in str(error).strip().splitlines())
        raise ArtifactError(f"{path} does not fit its architecture: {reason[:300]}") from error
