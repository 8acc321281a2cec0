"""A model as one file for other runtimes: ONNX, or torch.export.

The file takes photos as bytes and holds the image tower, the regions and the text features;
normalization and sigmoid are inside. Its description says labels, thresholds and how photos are
resized, and what the model says to one test picture, which is checked whenever the file is loaded.
"""

import contextlib
import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from trmml.data.photos import load_photo, resized
from trmml.errors import ArtifactError, ConfigError, DependencyError
from trmml.evaluation.requirements import require_loaded
from trmml.files import with_home, write_atomically, writing_to
from trmml.matcher.model import TextRegionMatcher
from trmml.version import __version__

Format = Literal["onnx", "torch-export"]
FORMATS: tuple[Format, ...] = ("onnx", "torch-export")

TOLERANCE = 1e-4
"""Largest difference of a score, in [0, 1], between the file and the model."""

_DESCRIPTION = "trmml.json"


@dataclass(frozen=True)
class Description:
    """What a file says about itself.

    Attributes:
        labels: Names of the labels, in the order of the scores.
        thresholds: From which score on each label holds.
        image_size: Side of the square that photos are resized to, nothing being cut off.
        interpolation: How they are resized.
        backbone: Where the CLIP came from.
        trmml_version: What wrote the file.
        test_scores: What the model says to `test_picture(image_size)`.
    """

    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    image_size: int
    interpolation: str
    backbone: str
    trmml_version: str
    test_scores: tuple[float, ...]


def test_picture(image_size: int) -> UInt8[np.ndarray, "3 height width"]:
    """Return a picture without randomness: three ramps, of different directions."""
    ramp = np.arange(image_size) * 255 // (image_size - 1)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    return np.stack([rows, columns, (rows + columns) // 2]).astype(np.uint8)


class Exported:
    """A file written by `export`, ready to run.

    Attributes:
        description: What the file says about itself.
    """

    def __init__(
        self, description: Description, run: Callable[[np.ndarray], Sequence[np.ndarray]]
    ) -> None:
        """Wrap a loaded program; see `load_exported`."""
        self.description = description
        self._run = run

    def __call__(
        self, photos: np.ndarray
    ) -> tuple[Float32[np.ndarray, "batch label"], Float32[np.ndarray, "batch label patch"]]:
        """Return scores in [0, 1] and the evidence of the patches, row by row.

        Args:
            photos: Bytes, batch × 3 × height × width.

        The evidence, `TextRegionMatcher.evidence`, is empty (no patches) for text-image matching.

        Raises:
            ConfigError: If there is no photo, or they have another form; some runtimes would end the
                process.
        """
        size = self.description.image_size
        photos = np.asarray(photos)
        if photos.dtype != np.uint8 or photos.shape[1:] != (3, size, size) or not len(photos):
            raise ConfigError(
                f"An exported model takes uint8 photos of shape (1 or more, 3, {size}, {size}), got "
                f"{photos.dtype} {photos.shape}; stack what `prepare` returns."
            )
        scores, evidence = self._run(photos)
        return scores, evidence

    def prepare(self, image: Any) -> UInt8[np.ndarray, "3 height width"]:
        """Make a photo ready; anything that `trmml.predict` takes."""
        size, how = self.description.image_size, self.description.interpolation
        return np.asarray(resized(load_photo(image, size), size, how)).transpose(2, 0, 1)


class _Program(nn.Module):
    """The model as it is exported: bytes in, scores and evidence out.

    A copy on the CPU without the text tower; the caller's model stays as it is.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: TextRegionMatcher) -> None:
        super().__init__()
        without_text = {id(model.backbone.text_tower): None}
        self.model = copy.deepcopy(model, without_text).cpu().eval()
        self.register_buffer("mean", torch.tensor(model.config.photo.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(model.config.photo.std)[:, None, None])

    def forward(
        self, photos: UInt8[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch label"], Float[Tensor, "batch label patch"]]:
        # Without a photo there is no first one, of which a runtime says so; it would end the process
        # (a division by zero) where it cuts an empty batch into heads.
        mean = self.mean + 0 * photos[0, 0, 0, 0].float()
        features = self.model.backbone((photos.float() / 255 - mean) / self.std)
        text = self.model.stored_text()
        scores = self.model.match(features, text).scores
        evidence = self.model.evidence(features, text)
        return scores, scores.new_zeros(*scores.shape, 0) if evidence is None else evidence


def export(model: TextRegionMatcher, path: str | Path, format: Format = "onnx") -> Path:
    """Write a model as one file, for any number of photos at a time.

    The file is loaded again and compared with the model on one photo and on seven before it takes
    its name, so that a file that is there is right.

    Args:
        model: The model; it is run on the CPU.
        path: The file, usually `*.onnx` or `*.pt2`; an existing one is replaced.
        format: `onnx` for ONNX Runtime and others, `torch-export` for torch without this package.

    Raises:
        DependencyError: If ONNX is asked for and the extra is not installed.
        ArtifactError: If the file does not say what the model says.
        OutputError: If the file cannot be written.
    """
    if format not in FORMATS:  # a caller without a type checker
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.")
    require_loaded(model)
    if model.backbone.precision != torch.float32:
        raise ConfigError("A model to export is loaded with precision='float32'.")
    path, program = with_home(path), _Program(model)
    if format == "onnx":
        _required("onnx", "onnxscript", "onnxruntime")
    photo = model.config.photo
    picture = test_picture(photo.image_size)
    description = Description(
        model.labels,
        model.calibration.thresholds,
        photo.image_size,
        photo.interpolation,
        model.config.backbone.source,
        __version__,
        tuple(_scores(program, picture[None])[0].tolist()),
    )
    with writing_to(path):
        write_atomically(path, partial(_write, program, description, format, path.name))
    return path


def load_exported(path: str | Path) -> Exported:
    """Load a file that `export` wrote and check it on its test picture.

    ONNX files run in ONNX Runtime and hold no code. Load a torch-export file only from someone whom
    you trust: torch may run what is in it.

    Raises:
        ArtifactError: If it is no such file, or answers otherwise than the model did.
        DependencyError: If it is an ONNX file and ONNX Runtime is not installed.
    """
    path = with_home(path)
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"  # as torch.export writes it
    loaded = _load_torch(path) if is_zip else _load_onnx(path)
    said = loaded.description
    scores, _ = loaded(test_picture(said.image_size)[None])
    _compare(scores, np.array([said.test_scores], dtype=np.float32), path.name)
    return loaded


def _write(
    program: _Program, description: Description, format: Format, name: str, path: Path
) -> None:
    size = description.image_size
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    text = json.dumps(asdict(description), ensure_ascii=False)
    shapes = {"photos": {0: torch.export.Dim("batch", min=1, max=2**16)}}
    try:
        with torch.no_grad(), _quiet():
            exported = torch.export.export(program, (example,), dynamic_shapes=shapes)
            if format == "torch-export":
                # By the name of a file, torch insists on its own suffix; and where a disk is full
                # while it writes, it ends the whole process.
                content = io.BytesIO()
                torch.export.save(exported, content, extra_files={_DESCRIPTION: text})
                path.write_bytes(content.getbuffer())
            else:
                onnx = torch.onnx.export(
                    exported,
                    input_names=["photos"],
                    output_names=["scores", "evidence"],
                    dynamo=True,
                    verbose=False,
                )
                assert onnx is not None
                onnx.model.metadata_props[_DESCRIPTION] = text
                onnx.save(str(path), external_data=False)
    except OSError:
        raise
    except Exception as error:  # the exporters name no common class
        raise ArtifactError(
            f"This model cannot be written as {format}: {' '.join(str(error).split())[:300]}. An ONNX "
            "file can hold 2 GB; torch-export can hold more."
        ) from error
    loaded = _load_torch(path) if format == "torch-export" else _load_onnx(path)
    generator = np.random.default_rng(0)
    for num_photos in (1, 7):
        photos = generator.integers(256, size=(num_photos, 3, size, size), dtype=np.uint8)
        _compare(loaded(photos)[0], _scores(program, photos), name)


@torch.inference_mode()
def _scores(program: _Program, photos: np.ndarray) -> Float32[np.ndarray, "batch label"]:
    return program(torch.from_numpy(photos))[0].numpy()


def _compare(scores: np.ndarray, expected: np.ndarray, name: str) -> None:
    difference = float(np.abs(scores - expected).max()) if scores.shape == expected.shape else 1.0
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"{name} does not say what its model says: scores differ by {difference:.2g} "
            f"(at most {TOLERANCE:g} is rounding)."
        )


def _load_torch(path: Path) -> Exported:
    extra = {_DESCRIPTION: ""}
    try:
        with _quiet():
            exported = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
    except Exception as error:  # torch names no class for damaged files
        raise ArtifactError(f"{path} is no torch.export file: {error}.") from error
    program = exported.module()

    def run(photos: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in program(torch.from_numpy(photos))]

    return Exported(_description(extra[_DESCRIPTION], path), run)


def _load_onnx(path: Path) -> Exported:
    (runtime,) = _required("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise ArtifactError(f"{path} is no ONNX file that can be run: {error}.") from error
    text = session.get_modelmeta().custom_metadata_map.get(_DESCRIPTION, "")
    return Exported(
        _description(text, path),
        lambda photos: session.run(["scores", "evidence"], {"photos": photos}),
    )


def _description(text: str, path: Path) -> Description:
    try:
        values: dict[str, Any] = json.loads(text)
        for name in ("labels", "thresholds", "test_scores"):
            values[name] = tuple(values[name])
        return Description(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} was not written by trmml export.") from error


def _required(*packages: str) -> list[Any]:
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise DependencyError(
            f"ONNX needs the package {error.name}: pip install 'trmml[onnx]'."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporters say to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
