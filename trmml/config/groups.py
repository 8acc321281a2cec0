"""The groups of settings: what a trained model is, and how one is trained.

`ModelConfig` is stored with a model; `FinetuneConfig` is what a recipe in TOML can set. The defaults
that are open choices of the method were measured on validation photos.
"""

import dataclasses
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from trmml.config.base import MAX_ITEMS, Interval, Settings, above, at_least, is_name, require
from trmml.errors import ConfigError, nearest
from trmml.files import read_bytes

Way = Literal["text-region", "text-pixel", "text-image", "zero-shot"]
Probability = Annotated[float, Interval(0, 1)]


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(Settings):
    """How text meets image; everything else is the same for all ways of matching."""

    group: ClassVar[str] = "matching"

    way: Way = "text-region"
    """One region feature per label (TRM-ML), the patches that a label's text is most similar to (as
    DualCoOp), or the pooled image feature (as CoOp); zero-shot, which is not trained, takes that and
    the patches that fit a label's text best."""
    num_context_tokens: Annotated[int, Interval(1, 64)] = 16
    """Learned tokens in front of a label's name."""
    context_init: str = ""
    """Words whose embeddings start the context instead of noise; they also fix its length."""
    label_specific_context: bool = False
    """Whether each label learns a context of its own (CoOp's CSC) instead of one for all."""
    negative_prompt: bool = True
    """A second prompt per label that stands for its absence."""
    num_heads: Annotated[int, Interval(1, 64)] = 8
    """Of the attention by which a label's query reads its region from the patches."""
    region_mlp: bool = True
    """Whether a simple MLP follows that attention."""
    spatial_scale: Annotated[float, Interval(0, 100, "(]")] = 20.0
    """Text–pixel: start of the learned sharpness of a label's weights over the patches; near 0 all
    patches weigh the same. DualCoOp has 20."""
    linear_probe: bool = True
    """Whether zero-shot matching and a linear map of the frozen features that corrects it stand beside
    what is learned by steps, most where few positives are known, or where the CLIP knows least of the
    labels' names (our choice; False for TRM-ML as published)."""
    mlp_probe: bool = True
    """Whether a small MLP takes part of the linear map's place, for labels with more than 10 known
    positives, or with any where the CLIP does not know the name (our choice); not without that map."""
    logit_scale: Annotated[float, Interval(1, 100)] = 50.0
    """Start of the learned factor on the cosine difference; 50 is exp(3.91)."""

    def __post_init__(self) -> None:
        """Check the ranges and the words."""
        super().__post_init__()
        require(not self.context_init or bool(self.context_init.strip()), "matching.context_init",
                "words, or empty", self.context_init)  # fmt: skip


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
    tokenizer_sha256: str | None = None
    """Checksum of `tokenizer.json`, where the text tower has a tokenizer of its own."""

    def __post_init__(self) -> None:
        """Check the forms of checksum, commit and names."""
        require(_is_hex(self.sha256, 64), "backbone.sha256", "64 hexadecimal digits", self.sha256)
        require(self.tokenizer_sha256 is None or _is_hex(self.tokenizer_sha256, 64),
                 "backbone.tokenizer_sha256", "64 hexadecimal digits",
                 self.tokenizer_sha256)  # fmt: skip
        require(self.revision is None or _is_hex(self.revision, 40), "backbone.revision",
                 "a commit of 40 hexadecimal digits", self.revision)  # fmt: skip
        fits = self.repository is None or re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.repository)
        require(bool(fits), "backbone.repository", "org/name", self.repository)
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

    group: ClassVar[str] = "photo"

    image_size: Annotated[int, Interval(16, 2048)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        require(all(value > 0 for value in self.std), "photo.std", "positive", self.std)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Everything needed to rebuild a model around its learned tensors; stored as `config.json`."""

    labels: tuple[str, ...]
    prompt_names: tuple[str, ...]
    """What each label is called inside its prompt."""
    backbone: BackboneConfig
    photo: PhotoConfig
    dim: Annotated[int, Interval(1, 16384)]
    """Width of the joint space."""
    text_width: Annotated[int, Interval(1, 16384)]
    """Width of a token embedding of the text tower."""
    matching: MatchingConfig = field(default_factory=MatchingConfig)

    def __post_init__(self) -> None:
        """Check names and sizes."""
        super().__post_init__()
        names = self.labels
        require(1 <= len(names) <= MAX_ITEMS, "labels",
                 f"1 to {MAX_ITEMS} names", len(names))  # fmt: skip
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        require(not repeated, "labels", "all different", repeated)
        for name in (*names, *self.prompt_names):
            require(is_name(name), "labels", "not blank, without control characters", name)
        require(len(self.prompt_names) == len(names), "prompt_names",
                 f"as many as labels ({len(names)})", len(self.prompt_names))  # fmt: skip

    def relabelled(self, labels: Sequence[str]) -> "ModelConfig":
        """Return the same for other labels; those that stay keep what prompts call them."""
        known = dict(zip(self.labels, self.prompt_names, strict=True))
        prompt_names = tuple(known.get(label, prompt_name(label)) for label in labels)
        return dataclasses.replace(self, labels=tuple(labels), prompt_names=prompt_names)


def prompt_name(label: str) -> str:
    """Return what a prompt calls a label: its name with blanks in place of underscores."""
    return label.replace("_", " ").strip()


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """Optimisation: AdamW with a one-cycle schedule and an average of the weights."""

    group: ClassVar[str] = "training"

    epochs: Annotated[int, at_least(1)] = 12
    """How often all photos are gone through."""
    batch_size: Annotated[int, at_least(1)] = 256
    """Photos per step, at most: min(batch_size, max(photos // 16, 16)) are taken, so that an epoch of
    few photos still has 16 steps."""
    learning_rate: Annotated[float, above(0)] = 1e-3
    """Peak for the region module, the logit scale and the logit bias."""
    prompt_learning_rate: Annotated[float, above(0)] = 1e-2
    """The same for the context of the prompts."""
    weight_decay: Annotated[float, at_least(0)] = 1e-2
    """Of AdamW."""
    train_prompts: bool = True
    """Whether the context is learned; otherwise prompts are encoded once."""
    ema_decay: Annotated[float, Interval(0, 1, "[)")] = 0.99
    """Share of the old averaged weights kept per step, less in the first thousand; 0: no average."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU that has it, else float32. A CPU without instructions for bfloat16 (x86:
    AVX512-BF16 or AMX) is many times slower with it."""
    val_fraction: Annotated[float, Interval(0, 1, "()")] = 0.1
    """Share of the photos held out to choose the best epoch, when no validation table is given."""
    features: Literal["auto", "cached", "augmented"] = "auto"
    """Compute the frozen features once and reuse them, or augment photos anew in every epoch;
    `auto` caches on a CPU when the cache fits `cache_gb`."""
    views: Literal["plain", "plain+flip"] = "plain"
    """Fixed views kept per photo when features are cached."""
    cache_gb: Annotated[float, at_least(0)] = 8.0
    """How much the cached features may take on disk."""
    num_workers: Annotated[int, Interval(0, 1024)] = 2
    """Processes that decode photos."""
    seed: Annotated[int, Interval(0, 2**32 - 1)] = 0
    """Of all that is drawn at random."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Settings):
    """Weights and shapes of the three losses; a weight of 0 turns a loss off."""

    group: ClassVar[str] = "loss"

    gamma_positive: Annotated[float, at_least(0)] = 0.0
    """Focus of the asymmetric loss on positives that are hard; 0 is cross-entropy."""
    gamma_negative: Annotated[float, at_least(0)] = 0.0
    """The same for negatives."""
    clip: Annotated[float, Interval(0, 1, "[)")] = 0.0
    """Probability below which a negative costs nothing."""
    distillation: Annotated[float, at_least(0)] = 0.1
    """Zero-shot matching teaches the order of the photos in which a label is unknown."""
    self_distillation: bool = True
    """Whether a trained model that training starts from is the teacher of the labels that it knows."""
    teacher: Literal["photo", "patches", "both"] = "both"
    """What of a photo zero-shot matching sees: all of it in one feature, the patches that fit a label
    best, or each for half of the distillation."""
    trust_teacher: bool = True
    """Whether zero-shot matching teaches a label the less, the worse it orders the photos in which the
    label is known."""
    few_labels: Annotated[int, at_least(0)] = 6000
    """A label that is known in n photos is distilled min(max(few_labels / n − 1, 0), 30) times more, and
    in photos in which it is known as well; 0: never."""
    contrastive: Annotated[float, at_least(0)] = 0.0
    """Weight of multimodal contrast between regions, texts and prototypes of the labels."""
    assumed_negative: Annotated[float, at_least(0)] = 0.1
    """Weight of an unknown state as a negative one, where a label has no known negative."""


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig(Settings):
    """Prototypes, and how they estimate the unknown states."""

    group: ClassVar[str] = "pseudo_labels"

    enabled: bool = True
    """Whether unknown states are estimated, where a label has a known negative."""
    modalities: Literal["visual+text", "visual", "text"] = "visual+text"
    """Which prototypes estimate."""
    relations: Literal["intra+inter", "intra", "inter"] = "intra+inter"
    """Intra-category: a region is compared with its own label's prototypes; inter-category: with those
    of the other labels, of which only few may be nearer."""
    positive_threshold: Probability = 0.97
    """From which estimate on an unknown state counts as positive."""
    negative_threshold: Probability = 0.02
    """Up to which estimate it counts as negative."""
    positive_budget: Annotated[float, at_least(0)] = 0.5
    """How many positives may be estimated of a label, as a share of those that its known states lead
    one to expect."""
    weight: Annotated[float, at_least(0)] = 0.4
    """Of an estimated state in the classification loss; a known one has 1."""

    def __post_init__(self) -> None:
        """Check the ranges, and that the thresholds leave something between them."""
        super().__post_init__()
        require(self.negative_threshold < self.positive_threshold,
                 "pseudo_labels.negative_threshold", "below positive_threshold",
                 self.negative_threshold)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Settings):
    """All settings of `finetune`, in the groups that a recipe in TOML has."""

    matching: MatchingConfig = field(default_factory=MatchingConfig)
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
            values = tomllib.loads(read_bytes(path).decode("utf-8-sig"))
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
