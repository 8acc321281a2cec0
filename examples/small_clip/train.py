"""Train the small CLIP from scratch on photos with captions.

    python examples/small_clip/train.py --captions coco18 --classes tiny-imagenet --output runs/clip

Run again after a stop, it goes on from the last checkpoint. `OUTPUT/log.jsonl` has a line an epoch
(plot.py draws it); at the end `OUTPUT/clip` is a folder for `local-dir:OUTPUT/clip`.
"""

import argparse
import csv
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
    MEAN,
    STD,
    Batches,
    Photos,
    normalized,
    read_captions,
    read_classes,
    vocabulary,
    word_targets,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from trmml.backbone.text import TextTower
from trmml.evaluation.metrics import mean_average_precision

SECONDS_BETWEEN_CHECKPOINTS = 240


class Learner(nn.Module):
    """A CLIP with two heads that only training needs: words of captions, and classes."""

    def __init__(self, model: dict[str, Any], num_words: int, num_classes: int) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(**model)
        self.words = nn.Linear(model["embed_dim"], num_words)
        self.classes = nn.Linear(model["embed_dim"], max(num_classes, 1))


class Texts(NamedTuple):
    """Token ids of captions, padded, and their lengths."""

    ids: Tensor
    lengths: Tensor


class Step(NamedTuple):
    """Where training stands: stage, epoch of the stage, batch of the epoch, steps in all."""

    stage: int
    epoch: int
    batch: int
    total: int


def tokenize(texts: list[str], context_length: int) -> Texts:
    """Encode texts with start and end token; longer ones are cut."""
    ids = open_clip.SimpleTokenizer(context_length=context_length)(texts)
    return Texts(ids, ids.argmax(dim=1) + 1)


def text_features(clip: open_clip.CLIP, texts: Texts, rows: Tensor) -> Tensor:
    """Encode texts as far as the longest of them goes."""
    lengths = texts.lengths[rows]
    ids = texts.ids[rows, : int(lengths.max())].to(clip.logit_scale.device)
    return TextTower(clip)(clip.token_embedding(ids), lengths.to(ids.device))


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Contrast of CLIP (Radford et al., 2021): each photo with its caption against the batch's."""
    logits = logit_scale.exp().clamp(max=100) * F.normalize(images, dim=-1) @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def words_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the caption's words in equal shares (Joulin et al., 2016)."""
    counts = targets.sum(dim=1)
    each = -(targets * logits.log_softmax(dim=1)).sum(dim=1) / counts.clamp(min=1)
    return each.sum() / (counts > 0).sum().clamp(min=1)


class Validation:
    """Photos that training never sees: loss of the words, and zero-shot mAP of the labels."""

    def __init__(self, folder: Path, photos: Photos, targets: Tensor, context: int) -> None:
        self.photos, self.targets = photos, targets
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
            tables = [
                row["labels"].split("|") for row in csv.DictReader(file) if row["split"] == "val"
            ]
        self.names = sorted({name for names in tables for name in names})
        self.labels = np.array(
            [[n in names for n in self.names] for names in tables], dtype=np.int8
        )
        self.prompts = tokenize([f"a photo of a {name}." for name in self.names], context)

    @torch.no_grad()
    def measure(self, learner: Learner, size: int, device: torch.device) -> dict[str, float]:
        """Return the measures at this side of the photos."""
        features = []
        for pixels in np.array_split(self.photos.pixels, math.ceil(len(self.photos) / 128)):
            images = normalized(torch.from_numpy(pixels))
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
            with autocast(device):
                features.append(learner.clip.encode_image(images.to(device)).float())
        images = torch.cat(features)
        texts = text_features(learner.clip, self.prompts, torch.arange(len(self.names)))
        scores = (F.normalize(images, dim=-1) @ (texts - texts.mean(dim=0)).T).cpu().numpy()
        return {
            "val_words": words_loss(learner.words(images), self.targets.to(device)).item(),
            "val_zero_shot_map": mean_average_precision(scores.astype(np.float32), self.labels),
        }


def autocast(device: torch.device) -> torch.autocast:
    """Run towers in bfloat16: twice as fast on a CPU that has it, more on a GPU."""
    return torch.autocast(device.type, torch.bfloat16)


class Training:
    """The whole run, from wherever it stopped."""

    def __init__(self, recipe: dict[str, Any], args: argparse.Namespace) -> None:
        self.recipe, self.output = recipe, args.output
        self.device = torch.device(args.device)
        cache, side = args.output / "photos", recipe["store_size"]
        context = recipe["model"]["text_cfg"]["context_length"]
        self.captioned = read_captions(args.captions, {"train", "unlabeled"}, side, cache)
        sees_classes = any(stage["tiny_imagenet"] for stage in recipe["stages"])
        self.classed = read_classes(args.classes, cache) if sees_classes else None
        words = vocabulary(self.captioned.texts, recipe["num_words"])
        self.texts = tokenize(self.captioned.texts, recipe["caption_tokens"])
        self.word_targets = word_targets(self.captioned.texts, words)
        val = read_captions(args.captions, {"val"}, side, cache)
        self.validation = Validation(args.captions, val, word_targets(val.texts, words), context)

        torch.manual_seed(recipe["seed"])
        num_classes = 0 if self.classed is None else int(self.classed.classes.max()) + 1
        learner = Learner(recipe["model"], len(words), num_classes)
        if args.start_from is not None:
            learner.clip.load_state_dict(load_file(args.start_from / "open_clip_model.safetensors"))
        self.learner = learner.to(self.device, memory_format=torch.channels_last)
        average = get_ema_multi_avg_fn(recipe["ema_decay"])
        self.ema = AveragedModel(self.learner, multi_avg_fn=average, use_buffers=True)
        self.optimizer = self._optimizer()
        self.step = Step(0, 0, 0, 0)
        self.num_steps = sum(s["epochs"] * len(self._batches(s)) for s in recipe["stages"])
        if (self.output / "checkpoint.pt").is_file():
            self._resume()

    def run(self) -> None:
        """Train what is left of every stage and export."""
        for index in range(self.step.stage, len(self.recipe["stages"])):
            stage = self.recipe["stages"][index]
            for epoch in range(self.step.epoch, stage["epochs"]):
                self._epoch(stage, index, epoch)
                self.step = Step(index, epoch + 1, 0, self.step.total)
                self._save()
                export(self.ema.module, self.recipe["model"], self.texts, self.output / "clip")
            self.step = Step(index + 1, 0, 0, self.step.total)
        self._save()

    def _epoch(self, stage: dict[str, Any], index: int, epoch: int) -> None:
        batches = self._batches(stage)
        seconds = saved = time.monotonic()
        losses: list[dict[str, float]] = []
        progress = tqdm(
            batches.epoch(1000 * index + epoch, self.step.batch),
            f"{stage['name']} {epoch + 1}/{stage['epochs']}",
            len(batches),
            initial=self.step.batch,
            mininterval=20,
        )
        for images, rows in progress:
            losses.append(self._train_step(images.to(self.device), rows, stage))
            self.step = Step(index, epoch, self.step.batch + 1, self.step.total + 1)
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self._save()
                saved = time.monotonic()
        seconds = time.monotonic() - seconds
        keys = losses[0] if losses else ()  # none are left after a stop at the very end
        means = {key: float(np.mean([loss[key] for loss in losses])) for key in keys}
        self.ema.eval()
        # The mean of minus infinity with itself is no number. A copy: the average works in place.
        self.ema.module.clip.attn_mask = self.learner.clip.attn_mask.clone()
        line = {"stage": stage["name"], "epoch": epoch + 1, "steps": self.step.total}
        line |= {"size": stage["size"], "seconds": round(seconds, 1)}
        line |= {"photos_per_second": round(len(losses) * batches.batch_size / seconds, 1), **means}
        line |= self.validation.measure(self.ema.module, stage["size"], self.device)
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _train_step(self, images: Tensor, rows: Tensor, stage: dict[str, Any]) -> dict[str, float]:
        self.learner.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        captioned = rows < len(self.captioned)
        with autocast(self.device):
            features = self.learner.clip.encode_image(images).float()
            texts = None
            if stage["contrast"] and captioned.any():
                texts = text_features(self.learner.clip, self.texts, rows[captioned]).float()
        targets = self.word_targets[rows[captioned]].to(self.device)
        losses = {"words": words_loss(self.learner.words(features[captioned]), targets)}
        total = stage["words"] * losses["words"]
        if self.classed is not None and not captioned.all():
            classes = torch.from_numpy(self.classed.classes)
            target = classes[rows[~captioned] - len(self.captioned)].to(self.device)
            logits = self.learner.classes(features[~captioned])
            losses["classes"] = F.cross_entropy(logits, target, label_smoothing=0.1)
            total = total + losses["classes"]
        if texts is not None:
            scale = self.learner.clip.logit_scale
            losses["contrast"] = contrastive_loss(features[captioned], texts, scale)
            total = total + stage["contrast"] * losses["contrast"]
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

    def _learning_rate(self) -> float:
        step, warmup = self.step.total, self.recipe["warmup_steps"]
        if step < warmup:
            return self.recipe["learning_rate"] * (step + 1) / warmup
        done = (step - warmup) / max(self.num_steps - warmup, 1)
        return self.recipe["learning_rate"] * (1 + math.cos(math.pi * done)) / 2

    def _batches(self, stage: dict[str, Any]) -> Batches:
        sets = [self.captioned]
        if stage["tiny_imagenet"] and self.classed is not None:
            sets.append(self.classed)
        size, share = self.recipe["batch_size"], stage["smallest_crop"]
        return Batches(sets, stage["size"], size, share, self.recipe["seed"])

    def _optimizer(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.learner.parameters() if p.ndim > 1]
        rest = [p for p in self.learner.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.recipe["weight_decay"]},
            {"params": rest, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)

    def _save(self) -> None:
        state = {"learner": self.learner.state_dict(), "ema": self.ema.module.state_dict()}
        state |= {"averaged": self.ema.n_averaged, "optimizer": self.optimizer.state_dict()}
        partial = self.output / "checkpoint.partial"
        torch.save(state | {"step": tuple(self.step)}, partial)
        partial.replace(self.output / "checkpoint.pt")

    def _resume(self) -> None:
        state = _checkpoint(self.output / "checkpoint.pt")
        self.learner.load_state_dict(state["learner"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.n_averaged.copy_(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = Step(*state["step"])


def _checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True, map_location="cpu")


def export(learner: nn.Module, model: dict[str, Any], texts: Texts, folder: Path) -> None:
    """Write the CLIP in open_clip's form, as float16, rows of tokens that never occurred as zeros.

    Zeros cost nothing in a wheel, and say as much about an unknown word as what it started with.
    """
    state = {
        name: tensor.detach().half().cpu() for name, tensor in learner.clip.state_dict().items()
    }
    seen = torch.zeros(len(state["token_embedding.weight"]), dtype=torch.bool)
    seen[texts.ids.unique()] = True
    state["token_embedding.weight"][~seen] = 0
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(contiguous, folder / "open_clip_model.safetensors")
    config = json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}, indent=2)
    (folder / "open_clip_config.json").write_text(config + "\n", encoding="utf-8")


def overridden(recipe: dict[str, Any], changes: list[str]) -> Iterator[tuple[str, Any]]:
    """Apply changes such as `stages.0.epochs=2` and yield what was changed."""
    for change in changes:
        path, _, text = change.partition("=")
        *parents, last = path.split(".")
        place: Any = recipe
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if last not in place:
            raise SystemExit(f"The recipe has no {path}.")
        place[last] = json.loads(text)
        yield path, place[last]


def main() -> None:
    """Parse the command, then train or go on."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=Path, required=True, help="folder with captions.csv")
    parser.add_argument("--classes", type=Path, help="tiny-imagenet folder with labels.csv")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.toml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument(
        "--start-from", type=Path, help="CLIP folder to begin with instead of random weights"
    )
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
