"""Settings: frozen dataclasses, checked once when they are made, to and from JSON and TOML.

`ModelConfig` describes a trained model and is stored with it; `FinetuneConfig` describes how one is
trained. The defaults that are open choices of the method were measured on validation photos.
"""

import dataclasses
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trmml.config.base import MAX_ITEMS, Settings, is_name, require
from trmml.errors import ConfigError, nearest

Matching = Literal["text-region", "text-pixel", "text-image", "zero-shot"]


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(Settings):
    """How text meets image; everything else is the same for all ways of matching."""

    matching: Matching = "text-region"
    """One region feature per label (TRM-ML), the patches that a label's text is most similar
    to (as DualCoOp), or the pooled image feature (as CoOp); zero-shot, which is not trained, takes that
    and the patches that fit a label's text best."""
    num_context_tokens: int = 16
    context_init: str = ""
    """Words whose embeddings start the context instead of noise; they also fix its length."""
    label_specific_context: bool = False
    negative_prompt: bool = True
    """A second prompt per label that stands for its absence."""
    num_heads: int = 8
    attention_dropout: float = 0.1
    region_mlp: bool = True
    spatial_scale: float = 20.0
    """Text–pixel: start of the learned sharpness of a label's weights over the patches; near 0 all
    patches weigh the same. DualCoOp has 20."""
    logit_scale: float = 50.0
    """Start of the learned factor on the cosine difference; 50 is exp(3.91)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(1 <= self.num_context_tokens <= 64, "num_context_tokens", "in 1 … 64",
                 self.num_context_tokens)  # fmt: skip
        require(not self.context_init or bool(self.context_init.strip()), "context_init",
                "words, or empty", self.context_init)  # fmt: skip
        require(1 <= self.num_heads <= 64, "num_heads", "in 1 … 64", self.num_heads)
        require(0 <= self.attention_dropout < 1, "attention_dropout", "in [0, 1)",
                 self.attention_dropout)  # fmt: skip
        require(0 < self.spatial_scale <= 100, "spatial_scale", "in (0, 100]", self.spatial_scale)
        require(1 <= self.logit_scale <= 100, "logit_scale", "in [1, 100]", self.logit_scale)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Settings):
    """Which CLIP, where its weights come from, and how to know that they are the same ones."""

    source: str
    """`<open_clip name>/<pretrained tag>`, `<open_clip name>/file:<path>`, `local-dir:<folder>`,
    `hf-hub:<org/name@revision>`, or `small-clip` for the one that comes with the package."""
    quick_gelu: bool
    sha256: str
    repository: str | None = None
    """For weights from the Hub: where they were fetched, so that the same ones are fetched again."""
    revision: str | None = None
    """Commit of the repository."""
    file: str | None = None
    """Name of the weight file in the repository."""
    license: str | None = None
    """What the repository's card states, where the Hub was asked."""

    def __post_init__(self) -> None:
        """Check the forms of checksum, commit and names."""
        require(_is_hex(self.sha256, 64), "backbone.sha256", "64 hexadecimal digits", self.sha256)
        require(self.revision is None or _is_hex(self.revision, 40), "backbone.revision",
                 "a commit of 40 hexadecimal digits", self.revision)  # fmt: skip
        is_name = self.repository is None or re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.repository)
        require(bool(is_name), "backbone.repository", "org/name", self.repository)
        require(self.file is None or re.fullmatch(r"[\w.-]+\.safetensors", self.file) is not None,
                 "backbone.file", "the name of a .safetensors file", self.file)  # fmt: skip
        require((self.repository is None) == (self.revision is None) == (self.file is None),
                 "backbone.repository, .revision and .file", "given together",
                 (self.repository, self.revision, self.file))  # fmt: skip


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class PhotoConfig(Settings):
    """How a photo becomes a tensor: squashed to a square, then normalized."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(16 <= self.image_size <= 2048, "image_size", "in 16 … 2048", self.image_size)
        require(all(value > 0 for value in self.std), "std", "positive", self.std)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Everything needed to rebuild a model around its learned tensors; stored as `config.json`."""

    labels: tuple[str, ...]
    prompt_names: tuple[str, ...]
    """What each label is called inside its prompt."""
    backbone: BackboneConfig
    photo: PhotoConfig
    dim: int
    """Width of the joint space."""
    text_width: int
    """Width of a token embedding of the text tower."""
    matcher: MatchingConfig = field(default_factory=MatchingConfig)

    def __post_init__(self) -> None:
        """Check names and sizes."""
        names = self.labels
        require(1 <= len(names) <= MAX_ITEMS, "labels",
                 f"1 to {MAX_ITEMS} names", len(names))  # fmt: skip
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        require(not repeated, "labels", "all different", repeated)
        for name in (*names, *self.prompt_names):
            require(is_name(name), "labels", "not blank, without control characters", name)
        require(len(self.prompt_names) == len(names), "prompt_names",
                 f"as many as labels ({len(names)})", len(self.prompt_names))  # fmt: skip
        for name in ("dim", "text_width"):
            require(1 <= getattr(self, name) <= 16384, name, "in 1 … 16384", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """Optimisation: AdamW with a warm-up, gradient clipping and an average of the weights."""

    epochs: int = 12
    batch_size: int = 256
    """Photos per step; fewer where that would leave an epoch less than 16 steps, but not below 16."""
    learning_rate: float = 3e-4
    """Peak for the region module, the logit scale and the logit bias."""
    prompt_learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    train_prompts: bool = True
    ema_decay: float = 0.99
    """Share of the old averaged weights kept per step, less in the first thousand; 0: no average."""
    max_gradient_norm: float = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU that has it, else float32. A CPU without instructions for bfloat16 (x86:
    AVX512-BF16 or AMX) is many times slower with it."""
    val_fraction: float = 0.1
    """Share of the photos held out to choose the best epoch, when no validation table is given."""
    features: Literal["auto", "cached", "augmented"] = "auto"
    """Compute the frozen features once and reuse them, or augment photos anew in every epoch;
    `auto` caches on a CPU when the cache fits `cache_gb`."""
    views: Literal["plain", "plain+flip"] = "plain"
    """Fixed views kept per photo when features are cached."""
    cache_gb: float = 8.0
    num_workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"training.{name}", "at least 1",
                     getattr(self, name))  # fmt: skip
        for name in ("learning_rate", "prompt_learning_rate", "max_gradient_norm"):
            require(getattr(self, name) > 0, f"training.{name}", "positive", getattr(self, name))
        for name in ("weight_decay", "cache_gb", "num_workers"):
            require(getattr(self, name) >= 0, f"training.{name}", "zero or more",
                     getattr(self, name))  # fmt: skip
        require(0 <= self.seed < 2**32, "training.seed", "in 0 … 4294967295", self.seed)
        require(0 <= self.ema_decay < 1, "training.ema_decay", "in [0, 1)", self.ema_decay)
        require(0 < self.val_fraction < 1, "training.val_fraction", "in (0, 1)", self.val_fraction)


@dataclass(frozen=True, kw_only=True)
class LossConfig(Settings):
    """Weights and shapes of the three losses; a weight of 0 turns a loss off."""

    gamma_positive: float = 0.0
    gamma_negative: float = 0.0
    clip: float = 0.0
    """Probability below which a negative costs nothing."""
    distillation: float = 0.1
    """Zero-shot matching teaches the order of the photos where labels are unknown."""
    own_teacher: bool = True
    """Whether a trained model that training starts from teaches the labels that it knows instead."""
    teacher: Literal["photo", "patches", "both"] = "both"
    """What of a photo zero-shot matching sees: all of it in one feature, the patches that fit a label
    best, or each for half of the distillation."""
    few_labels: int = 2000
    """A label that is known in fewer photos than this has the teacher say more, by their ratio less one
    and at most 30, and about known labels as well; 0: never."""
    contrastive: float = 0.0
    contrastive_temperature: float = 0.07
    weak_negative: float = 0.1
    """Weight of an unknown label as a negative one, where a label has no known negative."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("gamma_positive", "gamma_negative", "distillation", "few_labels",
                     "contrastive", "weak_negative"):  # fmt: skip
            require(getattr(self, name) >= 0, f"loss.{name}", "zero or more", getattr(self, name))
        require(self.contrastive_temperature > 0, "loss.contrastive_temperature", "positive",
                 self.contrastive_temperature)  # fmt: skip
        require(0 <= self.clip < 1, "loss.clip", "in [0, 1)", self.clip)


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig(Settings):
    """Prototypes, and how they estimate unknown labels."""

    enabled: bool = True
    """Whether unknown labels are estimated, where a label has a known negative."""
    visual: bool = True
    text: bool = True
    intra_category: bool = True
    inter_category: bool = True
    momentum: float = 0.99
    confidence: float = 0.8
    """A known positive moves its prototype only when it is scored above this."""
    start_epoch: int = 2
    positive_threshold: float = 0.97
    negative_threshold: float = 0.02
    top_labels: int = 3
    """An unknown label can become positive only if it is among this many nearest ones."""
    positive_budget: float = 0.5
    """How many positives may be estimated of a label, as a share of those that its known states
    lead one to expect."""
    weight: float = 0.4
    """Of an estimated label in the classification loss; a known one has 1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 <= self.momentum < 1, "pseudo_labels.momentum", "in [0, 1)", self.momentum)
        for name in ("confidence", "positive_threshold", "negative_threshold"):
            require(0 <= getattr(self, name) <= 1, f"pseudo_labels.{name}", "in [0, 1]",
                     getattr(self, name))  # fmt: skip
        require(self.negative_threshold < self.positive_threshold,
                 "pseudo_labels.negative_threshold", "below positive_threshold",
                 self.negative_threshold)  # fmt: skip
        require(self.start_epoch >= 0, "pseudo_labels.start_epoch", "zero or more",
                 self.start_epoch)  # fmt: skip
        require(self.top_labels >= 1, "pseudo_labels.top_labels", "at least 1",
                 self.top_labels)  # fmt: skip
        for name in ("positive_budget", "weight"):
            require(getattr(self, name) >= 0, f"pseudo_labels.{name}", "zero or more",
                     getattr(self, name))  # fmt: skip
        require(self.visual or self.text or not self.enabled, "pseudo_labels.visual or .text",
                 "true", False)  # fmt: skip
        require(self.intra_category or self.inter_category or not self.enabled,
                 "pseudo_labels.intra_category or .inter_category", "true", False)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Settings):
    """All settings of `finetune`, in the groups that a recipe in TOML has."""

    model: MatchingConfig = field(default_factory=MatchingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    image_size: int | None = None
    """Side of the square a photo is resized to; the backbone's own size by default."""

    @classmethod
    def from_toml(cls, path: Path) -> "FinetuneConfig":
        """Read a recipe.

        Raises:
            ConfigError: If the file is missing, is not TOML or holds a wrong setting.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigError(f"Cannot read the recipe {path}: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:  # TOML's, of the encoding, of huge numbers
            raise ConfigError(f"{path} is not valid TOML: {error}.") from error
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def changed(self, settings: Mapping[str, Any]) -> "FinetuneConfig":
        """Return a copy with settings replaced by dotted name, as `{"training.epochs": 5}`.

        Raises:
            ConfigError: For an unknown name, a wrong type or a value out of range.
        """
        values = self.to_dict()
        for name, value in settings.items():
            *groups, last = name.split(".")
            place: Any = values
            for group in groups:
                place = place.get(group) if isinstance(place, dict) else None
            if not isinstance(place, dict) or last not in place:
                raise ConfigError(f"Unknown setting {name}. {nearest(name, _dotted(self))}")
            place[last] = value
        return self.from_dict(values)


def _dotted(settings: Settings) -> list[str]:
    """Return the dotted names of all settings."""
    names = []
    for f in dataclasses.fields(settings):  # pyright: ignore[reportArgumentType]
        value = getattr(settings, f.name)
        inner = _dotted(value) if isinstance(value, Settings) else None
        names += [f"{f.name}.{name}" for name in inner] if inner else [f.name]
    return names
