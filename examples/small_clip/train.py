"""Teach text to a locked image tower: a small CLIP from a pretrained classifier and captions.

    python examples/small_clip/train.py --data coco18 --tower efficientnet-lite0.pth --output runs/clip

Run again after a stop, it goes on from the last checkpoint. `OUTPUT/log.jsonl` has a line an epoch
(plot.py draws it); at the end `OUTPUT/clip` is a folder for `local-dir:OUTPUT/clip`.
"""

import argparse
import json
import math
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from data import (
    TEMPLATES,
    Texts,
    imagenet_classes,
    read_captions,
    read_labels,
    vocabulary,
    word_targets,
)
from features import pooled_features
from jaxtyping import Float, Int
from losses import contrastive_loss, distillation_loss, words_loss
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tower import MEAN, STD, Classifier, load_tower
from tqdm import tqdm

from trmml.backbone.text_towers import text_tower
from trmml.evaluation.metrics import mean_average_precision

SECONDS_BETWEEN_CHECKPOINTS = 120


class Learner(nn.Module):
    """What learns: a text tower, and the linear map from pooled features to the joint space.

    Features are standardized first, which the map takes over in the end (`joint_map`).
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self, model: dict[str, Any], num_tokens: int, pooled: Float[np.ndarray, "photo width"]
    ) -> None:
        """Take mean and spread of each feature from photos.

        Args:
            model: open_clip's description of the CLIP.
            num_tokens: Tokens that occur in what is learned from.
            pooled: The locked tower's features of the photos.
        """
        super().__init__()
        self.clip: Any = open_clip.CLIP(
            **model | {"text_cfg": model["text_cfg"] | {"vocab_size": num_tokens}}
        )
        self.clip.visual = nn.Linear(pooled.shape[1], model["embed_dim"])
        self.register_buffer("mean", torch.from_numpy(pooled.mean(axis=0, dtype=np.float32)))
        spread = torch.from_numpy(pooled.std(axis=0, dtype=np.float32))
        self.register_buffer("spread", spread.clamp(min=0.1 * float(spread.mean())))

    def standardized(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Give each feature the mean 0 and the spread 1 that it has on average."""
        return (pooled - self.mean) / self.spread

    def photos(self, standardized: Float[Tensor, "batch width"]) -> Float[Tensor, "batch dim"]:
        """Return the image features, of unit length."""
        return F.normalize(self.clip.visual(standardized), dim=-1)

    def texts(self, texts: Texts, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Return the text features of some texts, of unit length."""
        lengths = texts.lengths[rows]
        ids = texts.ids[rows, : int(lengths.max())].to(self.mean.device)
        return text_tower(self.clip)(self.clip.token_embedding(ids), lengths.to(ids.device)).float()

    def joint_map(self) -> tuple[Float[Tensor, "dim width"], Float[Tensor, " dim"]]:
        """Return weight and bias of the map of features that are not standardized."""
        weight = self.clip.visual.weight / self.spread
        return weight, self.clip.visual.bias - weight @ self.mean


class Corpus:
    """All texts in one table, and where captions, names and words are in it.

    Attributes:
        texts: The table.
        captions: Row of the first caption; the others follow in the order of the photos.
        names: Rows of each class of ImageNet: its names in every template.
        definitions: Row of each class's definition.
        words: Rows of the words: word × template.
        prompts: Rows of the labels that zero-shot is measured on, in every template.
    """

    def __init__(
        self, captions: list[str], words: list[str], labels: list[str], most_tokens: int
    ) -> None:
        classes = imagenet_classes()
        texts: list[str] = []

        def add(new: list[str]) -> Tensor:
            texts.extend(new)
            return torch.arange(len(texts) - len(new), len(texts))

        def in_templates(name: str) -> list[str]:
            return [template.format(name) for template in TEMPLATES]

        self.captions = add(captions)
        self.names = [
            add([text for lemma in one.lemmas for text in in_templates(lemma)]) for one in classes
        ]
        self.definitions = add([one.definition for one in classes])
        self.words = torch.stack([add(in_templates(word)) for word in words])
        learned = len(texts)
        self.prompts = torch.stack([add(in_templates(label)) for label in labels])
        self.texts = Texts(texts, most_tokens)
        self.learned_ids = self.texts.ids[:learned].unique()

    def draw_names(
        self, classes: Int[np.ndarray, " name"], definition_share: float, rng: np.random.Generator
    ) -> Int[Tensor, " name"]:
        """Return a row for each class: one of its names in some template, or its definition."""
        names = torch.stack([self.names[c][rng.integers(len(self.names[c]))] for c in classes])
        defined = torch.from_numpy(rng.random(len(classes)) < definition_share)
        return torch.where(defined, self.definitions[classes], names)

    def draw_words(
        self, words: Int[np.ndarray, " word"], rng: np.random.Generator
    ) -> Int[Tensor, " word"]:
        """Return a row for each word, in some template."""
        return self.words[words, rng.integers(len(TEMPLATES), size=len(words))]


class Step(NamedTuple):
    """Where training stands: epoch, batch of the epoch, steps in all."""

    epoch: int
    batch: int
    total: int


def ideal_photos(
    pooled: Float[np.ndarray, "photo width"], classifier: Classifier
) -> Float[Tensor, "cls width"]:
    """Return features of a photo that would be each class and nothing else.

    Were the classifier a linear discriminant, a class's mean would be the mean of all plus the
    covariance times the class's row, less the mean of the rows.
    """
    features = torch.from_numpy(pooled.astype(np.float32))
    rows = classifier.weight - classifier.weight.mean(dim=0)
    return features.mean(dim=0) + rows @ torch.cov(features.T)


class Training:
    """The whole run, from wherever it stopped."""

    def __init__(self, recipe: dict[str, Any], args: argparse.Namespace) -> None:
        self.recipe, self.output, self.device = recipe, args.output, torch.device(args.device)
        vision = recipe["model"]["vision_cfg"]
        self.tower, self.classifier = load_tower(vision["timm_model_name"], args.tower)
        cache, pooled = args.features or args.output / "features", {}
        captioned = {
            split: read_captions(args.data, {split}) for split in ("train", "unlabeled", "val")
        }
        for split, photos in captioned.items():
            pooled[split] = pooled_features(
                self.tower, photos.paths, vision["image_size"], cache / split
            )
        seen = [captioned["train"], captioned["unlabeled"]]
        captions = [text for photos in seen for text in photos.captions]
        self.pooled = np.concatenate([pooled["train"], pooled["unlabeled"]])
        self.val_pooled = torch.from_numpy(pooled["val"]).float()
        labels, self.val_labels = read_labels(args.data, "val")
        words = vocabulary(captions, recipe["num_words"])
        self.word_targets = word_targets(captions, words)
        self.corpus = Corpus(captions, words, labels, recipe["caption_tokens"])
        self.ideal = ideal_photos(self.pooled, self.classifier)

        torch.manual_seed(recipe["seed"])
        num_tokens = len(self.corpus.texts.tokens)
        self.learner = Learner(recipe["model"], num_tokens, self.pooled).to(self.device)
        average = get_ema_multi_avg_fn(recipe["ema_decay"])
        self.ema = AveragedModel(self.learner, multi_avg_fn=average)
        self.optimizer = self._optimizer()
        self.step = Step(0, 0, 0)
        self.steps_an_epoch = len(self.pooled) // recipe["batch_size"]
        if (self.output / "checkpoint.pt").is_file():
            self._resume()

    def run(self) -> None:
        """Train what is left and export."""
        for epoch in range(self.step.epoch, self.recipe["epochs"]):
            self._epoch(epoch)
            self.step = Step(epoch + 1, 0, self.step.total)
            self._save()
            export(
                self.ema.module, self.tower, self.recipe["model"], self.corpus, self.output / "clip"
            )

    def _epoch(self, epoch: int) -> None:
        size, started = self.recipe["batch_size"], time.monotonic()
        saved, losses = started, []
        order = np.random.default_rng([self.recipe["seed"], epoch]).permutation(len(self.pooled))
        batches = order[: self.steps_an_epoch * size].reshape(-1, size)
        progress = tqdm(
            batches[self.step.batch :],
            f"epoch {epoch + 1}/{self.recipe['epochs']}",
            len(batches),
            initial=self.step.batch,
            mininterval=20,
        )
        for rows in progress:
            losses.append(
                self._train_step(rows, np.random.default_rng([self.recipe["seed"], *self.step]))
            )
            self.step = Step(epoch, self.step.batch + 1, self.step.total + 1)
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self._save()
                saved = time.monotonic()
        line = {"epoch": epoch + 1, "steps": self.step.total}
        line |= {"seconds": round(time.monotonic() - started, 1)}
        keys = losses[0] if losses else ()  # none are left after a stop at the very end
        line |= {key: float(np.mean([loss[key] for loss in losses])) for key in keys}
        line["val_zero_shot_map"] = self._zero_shot_map()
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _train_step(
        self, rows: Int[np.ndarray, " batch"], rng: np.random.Generator
    ) -> dict[str, float]:
        self.learner.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        # On a CPU, plain products are several times faster in bfloat16 than fused attention is.
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            losses = self._losses(rows, rng)
        weighted = [self.recipe["weights"][name] * loss for name, loss in losses.items()]
        total = torch.stack(weighted).sum()
        if not torch.isfinite(total):
            raise SystemExit(
                f"The loss is {total.item()} at step {self.step.total}; nothing is saved."
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), 5.0)
        self.optimizer.step()
        self.ema.update_parameters(self.learner)
        return {name: loss.item() for name, loss in losses.items()}

    def _losses(
        self, rows: Int[np.ndarray, " batch"], rng: np.random.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Return each loss of a batch; `rows` are numbers of photos."""
        recipe, learner, texts = self.recipe, self.learner, self.corpus.texts
        pooled = torch.from_numpy(self.pooled[rows]).float()
        teacher = self.classifier(pooled)
        classes = _chosen(
            teacher.argmax(dim=1).numpy(), teacher.shape[1], recipe["names_a_step"], rng
        )
        ideal = self.ideal[classes]
        others = torch.from_numpy(self.pooled[rng.integers(len(self.pooled), size=len(classes))])
        ideal = ideal + recipe["row_noise"] * (others.float() - learner.mean.cpu())
        photos = self._image_features(torch.cat([pooled, ideal]), rng)
        photos, ideal = photos.split([len(rows), len(classes)])

        targets = self.word_targets[rows]
        present = targets.any(dim=0).nonzero().flatten().numpy()
        words = rng.permutation(present)[: recipe["words_a_step"]]

        told = rows[: recipe["captions_a_step"]]
        captions = learner.texts(texts, self.corpus.captions[told])
        names = self.corpus.draw_names(classes, recipe["definition_share"], rng)
        names = learner.texts(texts, names)
        word_features = learner.texts(texts, self.corpus.draw_words(words, rng))

        scale = learner.clip.logit_scale.exp().clamp(max=100)
        with torch.autocast(self.device.type, enabled=False):
            return {
                "contrast": contrastive_loss(scale * photos[: len(told)] @ captions.T),
                "words": words_loss(
                    scale * photos @ word_features.T, targets[:, words].to(self.device)
                ),
                "names": distillation_loss(
                    scale * photos @ names.T, teacher[:, classes].to(self.device)
                ),
                "rows": contrastive_loss(scale * ideal @ names.T),
            }

    def _image_features(
        self, pooled: Float[Tensor, "batch width"], rng: np.random.Generator
    ) -> Float[Tensor, "batch dim"]:
        """Return image features of unit length, some of what the tower sees left out."""
        features = self.learner.standardized(pooled.to(self.device))
        share = self.recipe["feature_dropout"]
        kept = rng.random(features.shape, dtype=np.float32) >= share
        features = features * torch.from_numpy(kept).to(self.device) / (1 - share)
        return self.learner.photos(features).float()

    @torch.no_grad()
    def _zero_shot_map(self) -> float:
        """Zero-shot mAP of the labels on the validation photos, in [0, 1]."""
        learner: Any = self.ema.module.eval()
        photos = learner.photos(learner.standardized(self.val_pooled.to(self.device)))
        shape = self.corpus.prompts.shape
        texts = learner.texts(self.corpus.texts, self.corpus.prompts.flatten()).unflatten(0, shape)
        texts = F.normalize(texts.mean(dim=1), dim=-1)
        scores = (photos @ (texts - texts.mean(dim=0)).T).cpu().numpy()
        return mean_average_precision(scores.astype(np.float32), self.val_labels)

    def _learning_rate(self) -> float:
        step, warmup = self.step.total, self.recipe["warmup_steps"]
        if step < warmup:
            return self.recipe["learning_rate"] * (step + 1) / warmup
        left = max(self.recipe["epochs"] * self.steps_an_epoch - warmup, 1)
        return self.recipe["learning_rate"] * (1 + math.cos(math.pi * (step - warmup) / left)) / 2

    def _optimizer(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.learner.parameters() if p.ndim > 1]
        rest = [p for p in self.learner.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.recipe["weight_decay"]},
            {"params": rest, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)

    def _save(self) -> None:
        state = {"learner": self.learner.state_dict(), "ema": self.ema.state_dict()}
        partial = self.output / "checkpoint.partial"
        torch.save(
            state | {"optimizer": self.optimizer.state_dict(), "step": tuple(self.step)}, partial
        )
        partial.replace(self.output / "checkpoint.pt")

    def _resume(self) -> None:
        state = torch.load(self.output / "checkpoint.pt", weights_only=True, map_location="cpu")
        self.learner.load_state_dict(state["learner"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = Step(*state["step"])


def _chosen(
    first: Int[np.ndarray, " photo"], count: int, size: int, rng: np.random.Generator
) -> Int[np.ndarray, " chosen"]:
    """Choose `size` of `count` classes, those that are first for a photo before the others."""
    order = rng.permutation(count)
    is_first = np.isin(order, first)
    return np.concatenate([order[is_first], order[~is_first]])[:size]


@torch.no_grad()
def export(
    learner: Any, tower: nn.Module, model: dict[str, Any], corpus: Corpus, folder: Path
) -> None:
    """Write the CLIP in open_clip's form, as float16, rows of tokens that never occurred as zeros.

    Zeros cost nothing in a wheel, and say as much about an unknown word as what it started with.
    """
    state = open_clip.CLIP(**model).state_dict()
    learned = learner.clip.state_dict()
    tokens = learned.pop("token_embedding.weight").cpu()
    state |= {name: tensor for name, tensor in learned.items() if not name.startswith("visual.")}
    state |= {f"visual.trunk.{name}": tensor for name, tensor in tower.state_dict().items()}
    state["visual.head.proj.weight"], state["visual.head.proj.bias"] = learner.joint_map()
    table = torch.zeros_like(state["token_embedding.weight"])
    table[corpus.texts.tokens[corpus.learned_ids]] = tokens[corpus.learned_ids]
    state["token_embedding.weight"] = table
    halves = {name: tensor.half().cpu().contiguous() for name, tensor in state.items()}
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "weights.partial"
    save_file(halves, partial)
    partial.replace(folder / "open_clip_model.safetensors")
    config = json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}, indent=2)
    (folder / "open_clip_config.json").write_text(config + "\n", encoding="utf-8")


def overridden(recipe: dict[str, Any], changes: list[str]) -> Iterator[tuple[str, Any]]:
    """Apply changes such as `weights.words=2` and yield what was changed."""
    for change in changes:
        path, _, text = change.partition("=")
        *parents, last = path.split(".")
        place: Any = recipe
        for key in parents:
            place = place[key]
        if last not in place:
            raise SystemExit(f"The recipe has no {path}.")
        place[last] = json.loads(text)
        yield path, place[last]


def main() -> None:
    """Parse the command, then train or go on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with both tables")
    parser.add_argument("--tower", type=Path, required=True, help="file of the tower's weights")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="cache, OUTPUT/features by default")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.toml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    recipe = tomllib.loads(args.recipe.read_text(encoding="utf-8"))
    for path, value in overridden(recipe, args.set):
        print(f"{path} = {value!r}")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "recipe.json").write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    Training(recipe, args).run()


if __name__ == "__main__":
    main()
