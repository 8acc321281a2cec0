"""Let the last blocks of the image tower learn, too, from texts that stay as they are.

    python examples/small_clip/tune.py --data coco18 --tower efficientnet-lite0.pth \
        --clip runs/clip/clip --output runs/tuned

`--clip` is what train.py made. What the first blocks say of all photos and their mirror images is kept
on disk (31 kB a view), so a step costs the last blocks alone. Run again after a stop, it goes on from
the last checkpoint; at the end `OUTPUT/clip` is the CLIP with its tuned tower.
"""

import argparse
import copy
import json
import math
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from data import (
    TEMPLATES,
    imagenet_classes,
    read_captions,
    read_labels,
    vocabulary,
    word_targets,
)
from features import KeptMaps
from jaxtyping import Float, Int
from losses import contrastive_loss, distillation_loss, words_loss
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tower import load_tower
from tqdm import tqdm

from trmml.evaluation.metrics import mean_average_precision

SECONDS_BETWEEN_CHECKPOINTS = 120
TEXTS_AT_ONCE = 256


class FrozenTexts:
    """Text features of unit length, by a CLIP that does not learn.

    Attributes:
        captions: Of each photo.
        words: Of each word, the mean over the templates.
        names: Of each class of ImageNet, the mean over its names and the templates.
        labels: Of the labels that zero-shot is measured on.
        scale: What the CLIP multiplies cosines with.
    """

    def __init__(
        self, clip: Path, captions: list[str], words: list[str], labels: list[str]
    ) -> None:
        """Encode all texts."""
        self.clip: Any = open_clip.create_model(f"local-dir:{clip}").eval()
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.clip.context_length)
        self.captions = self._encoded(captions)
        self.words = self._means([[word] for word in words])
        self.names = self._means([one.lemmas for one in imagenet_classes()])
        self.labels = self._means([[label] for label in labels])
        self.scale = self.clip.logit_scale.exp().item()

    @torch.no_grad()
    def _encoded(self, texts: list[str]) -> Float[Tensor, "text dim"]:
        parts = [
            self.clip.encode_text(self.tokenizer(texts[start : start + TEXTS_AT_ONCE]))
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        ]
        return F.normalize(torch.cat(parts), dim=-1)

    def _means(self, names: list[list[str]]) -> Float[Tensor, "name dim"]:
        """Return the mean direction of the names of each thing in all templates."""
        texts = [[t.format(name) for name in each for t in TEMPLATES] for each in names]
        encoded = self._encoded([text for each in texts for text in each])
        parts = encoded.split([len(each) for each in texts])
        return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


class LastBlocks(nn.Module):
    """The part of a tower that learns, and the linear map to the joint space."""

    def __init__(self, tower: Any, first: int, head: nn.Linear) -> None:
        """Take copies of all that comes after the first blocks."""
        super().__init__()
        self.blocks = copy.deepcopy(nn.Sequential(*tower.blocks[first:]))
        self.conv_head, self.bn2 = copy.deepcopy(tower.conv_head), copy.deepcopy(tower.bn2)
        self.head = copy.deepcopy(head)
        self.requires_grad_(True).eval()  # the statistics of batch norms stay

    def pooled(
        self, maps: Float[Tensor, "photo channel height width"]
    ) -> Float[Tensor, "photo width"]:
        """Return the mean of the last map over the photo."""
        return self.bn2(self.conv_head(self.blocks(maps))).mean(dim=(2, 3))

    def joint(self, pooled: Float[Tensor, "photo width"]) -> Float[Tensor, "photo dim"]:
        """Return image features of unit length."""
        return F.normalize(self.head(pooled), dim=-1)

    def into(self, state: dict[str, Tensor], first: int) -> dict[str, Tensor]:
        """Return the state of a CLIP with these tensors in their places."""
        names = {"head.": "visual.head.proj."}
        names |= {
            f"blocks.{i}.": f"visual.trunk.blocks.{first + i}." for i in range(len(self.blocks))
        }
        names |= {f"{name}.": f"visual.trunk.{name}." for name in ("conv_head", "bn2")}
        new = dict(state)
        for name, tensor in self.state_dict().items():
            before = next(old for old in names if name.startswith(old))
            place = names[before] + name.removeprefix(before)
            new[place] = tensor.to(state[place].dtype).contiguous()
        return new


class Tuning:
    """The whole run, from wherever it stopped."""

    def __init__(self, recipe: dict[str, Any], args: argparse.Namespace) -> None:
        self.settings, self.output, self.clip = recipe["tuning"], args.output, args.clip
        self.seed, self.first = recipe["seed"], recipe["tuning"]["first_block"]
        vision = recipe["model"]["vision_cfg"]
        tower, self.classifier = load_tower(vision["timm_model_name"], args.tower)
        cache = args.features or args.output / "maps"
        captioned = {s: read_captions(args.data, {s}) for s in ("train", "unlabeled", "val")}
        side = vision["image_size"]
        self.views = [
            KeptMaps(
                tower,
                self.first,
                captioned["train"].paths + captioned["unlabeled"].paths,
                side,
                cache / f"seen-{view}",
                mirrored=view == "mirrored",
            )
            for view in ("plain", "mirrored")
        ]
        self.val = KeptMaps(tower, self.first, captioned["val"].paths, side, cache / "val")
        captions = captioned["train"].captions + captioned["unlabeled"].captions
        labels, self.val_labels = read_labels(args.data, "val")
        words = vocabulary(captions, recipe["num_words"])
        self.word_targets = word_targets(captions, words)
        self.texts = FrozenTexts(args.clip, captions, words, labels)
        head = self.texts.clip.visual.head.proj
        self.learner = LastBlocks(tower, self.first, head)
        self.before = copy.deepcopy(self.learner).requires_grad_(False)
        average = get_ema_multi_avg_fn(self.settings["ema_decay"])
        self.ema = AveragedModel(self.learner, multi_avg_fn=average)
        decayed = [p for p in self.learner.parameters() if p.ndim > 1]
        rest = [p for p in self.learner.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.settings["weight_decay"]},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self.steps_an_epoch = len(self.views[0]) // self.settings["batch_size"]
        self.step = 0
        self.sums: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        if (self.output / "checkpoint.pt").is_file():
            self._resume()

    def run(self) -> None:
        """Tune what is left, and export after each epoch."""
        saved, total = time.monotonic(), self.settings["epochs"] * self.steps_an_epoch
        for step in tqdm(range(self.step, total), initial=self.step, total=total, mininterval=20):
            epoch, batch = divmod(step, self.steps_an_epoch)
            rows, view = self._batch(epoch, batch)
            for name, loss in self._learn(rows, view, total).items():
                self.sums[name] = self.sums.get(name, 0.0) + loss / self.steps_an_epoch
            self.step = step + 1
            if batch + 1 == self.steps_an_epoch:
                self._end_epoch(epoch)
            if batch + 1 == self.steps_an_epoch or (
                time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS
            ):
                self._save()
                saved = time.monotonic()

    def _batch(self, epoch: int, batch: int) -> tuple[Int[np.ndarray, " photo"], int]:
        """Return the photos of a step, and whether they are mirrored."""
        rng, size = np.random.default_rng([self.seed, epoch]), self.settings["batch_size"]
        order = rng.permutation(len(self.views[0]))
        view = int(rng.integers(2, size=batch + 1)[-1])
        return np.sort(order[batch * size : (batch + 1) * size]), view

    def _learn(self, rows: Int[np.ndarray, " photo"], view: int, total: int) -> dict[str, float]:
        step, warmup = self.step, self.settings["warmup_steps"]
        for group in self.optimizer.param_groups:
            rising = min((step + 1) / warmup, 1)
            falling = (1 + math.cos(math.pi * step / total)) / 2
            group["lr"] = self.settings["learning_rate"] * rising * falling
        losses = self._losses(rows, self.views[view][rows])
        loss = torch.stack([self.settings["weights"][n] * one for n, one in losses.items()]).sum()
        if not torch.isfinite(loss):
            raise SystemExit(f"The loss is {loss.item()} at step {step}; nothing is saved.")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), 5.0)
        self.optimizer.step()
        self.ema.update_parameters(self.learner)
        return {name: one.item() for name, one in losses.items()}

    def _losses(
        self, rows: Int[np.ndarray, " photo"], maps: Float[Tensor, "photo channel height width"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of train.py that are about photos, and one against forgetting."""
        texts = self.texts
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            teacher = self.classifier(self.before.pooled(maps).float())
        pooled = self.learner.pooled(maps)
        photos = texts.scale * self.learner.joint(pooled)
        return {
            "contrast": contrastive_loss(photos @ texts.captions[rows].T),
            "words": words_loss(photos @ texts.words.T, self.word_targets[rows]),
            "names": distillation_loss(photos @ texts.names.T, teacher.float()),
            "keep": distillation_loss(self.classifier(pooled), teacher.float()),
        }

    @torch.no_grad()
    def _end_epoch(self, epoch: int) -> None:
        tuned: Any = self.ema.module
        rows = np.arange(len(self.val))
        parts = np.array_split(rows, max(len(rows) // self.settings["batch_size"], 1))
        photos = torch.cat([tuned.joint(tuned.pooled(self.val[part])) for part in parts])
        labels = self.texts.labels - self.texts.labels.mean(dim=0)
        value = mean_average_precision((photos @ labels.T).numpy(), self.val_labels)
        line = {"epoch": epoch + 1, "steps": self.step} | self.sums | {"val_zero_shot_map": value}
        self.sums = {}
        self.history.append(line)
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        (self.output / "log.jsonl").write_text(lines, encoding="utf-8")
        folder = self.output / "clip"
        folder.mkdir(parents=True, exist_ok=True)
        state = tuned.into(load_file(self.clip / "open_clip_model.safetensors"), self.first)
        partial = folder / "weights.partial"
        save_file(state, partial)
        partial.replace(folder / "open_clip_model.safetensors")
        config = (self.clip / "open_clip_config.json").read_bytes()
        (folder / "open_clip_config.json").write_bytes(config)

    def _save(self) -> None:
        partial = self.output / "checkpoint.partial"
        state = {"learner": self.learner.state_dict(), "ema": self.ema.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "step": self.step}
        state |= {"sums": self.sums, "history": self.history}
        torch.save(state, partial)
        partial.replace(self.output / "checkpoint.pt")

    def _resume(self) -> None:
        state = torch.load(self.output / "checkpoint.pt", weights_only=True, map_location="cpu")
        self.learner.load_state_dict(state["learner"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.sums, self.history = state["step"], state["sums"], state["history"]


def main() -> None:
    """Parse the command, then tune or go on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with both tables")
    parser.add_argument("--tower", type=Path, required=True, help="file of the tower's weights")
    parser.add_argument("--clip", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="cache, OUTPUT/maps by default")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.toml"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    Tuning(tomllib.loads(args.recipe.read_text(encoding="utf-8")), args).run()


if __name__ == "__main__":
    main()
