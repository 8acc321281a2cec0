"""What the text tower learns from: captions, their words, and the names of ImageNet's classes."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from jaxtyping import Bool, Int, Int8
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

TEMPLATES = (
    "{}.",
    "a {}.",
    "the {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "there is a {}.",
    "a {} in a scene.",
    "{}",
    "a {}",
)
"""What is put around names and words; a full stop mostly ends them, as it does trmml's prompts."""
_FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a an and are as at be been beside by down for from front has have her his in into is it its",
        "near next of off on one onto other out over several some that the their them there these they",
        "this to top two three four each up very while who with about all around another back behind",
        "him image large looking lot lots many picture photo s side small view being",
    )
    for word in line.split()
)


@dataclass(frozen=True)
class Captioned:
    """Photos and what is said about each."""

    paths: list[Path]
    captions: list[str]


def read_captions(folder: Path, splits: set[str]) -> Captioned:
    """Read the captions of some splits of `captions.csv`."""
    rows = _rows(folder / "captions.csv", splits)
    return Captioned([folder / row["image"] for row in rows], [row["caption"] for row in rows])


def read_labels(folder: Path, split: str) -> tuple[list[str], Int8[np.ndarray, "photo label"]]:
    """Read the labels of a split of `labels.csv`: their names, and 1 where a photo has one."""
    tables = [row["labels"].split("|") for row in _rows(folder / "labels.csv", {split})]
    names = sorted({name for table in tables for name in table if name})
    return names, np.array([[n in table for n in names] for table in tables], dtype=np.int8)


def _rows(table: Path, splits: set[str]) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] in splits]


def words_of(text: str) -> set[str]:
    """Return the content words of a caption, plurals in -s taken as their singular."""
    words = set(re.findall(r"[a-z]+", text.lower())) - _FUNCTION_WORDS
    return {word[:-1] if len(word) > 3 and word[-1] == "s" != word[-2] else word for word in words}


def vocabulary(texts: Sequence[str], size: int) -> list[str]:
    """Return the commonest content words, by the number of captions that have them."""
    counts = Counter(word for text in texts for word in sorted(words_of(text)))
    return [word for word, _ in counts.most_common(size)]


def nouns(captions: Sequence[str], size: int) -> list[str]:
    """Return the commonest nouns, as far as captions give them away, in the form of `words_of`.

    A noun follows an article at times and is mostly followed by a function word, a verb's ending or
    nothing; what "of" follows often ("group") only counts things, and -ing is mostly a doing.
    """
    total, with_article, before_of, closes = (Counter() for _ in range(4))
    for caption in captions:
        tokens = re.findall(r"[a-z]+", caption.lower())
        for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
            for word in words_of(token):
                total[word] += 1
                with_article[word] += before in ("a", "an", "the")
                before_of[word] += after == "of"
                closes[word] += not words_of(after) or after.endswith(("ing", "ed"))
    found = [
        word
        for word, count in total.most_common()
        if with_article[word] > 0.1 * count
        and closes[word] > 0.5 * count
        and before_of[word] < 0.4 * count
        and not word.endswith("ing")
    ]
    return found[:size]


def word_targets(texts: Sequence[str], words: Sequence[str]) -> Bool[Tensor, "text word"]:
    """Mark each text's words."""
    index = {word: i for i, word in enumerate(words)}
    targets = torch.zeros(len(texts), len(words), dtype=torch.bool)
    for row, text in zip(targets, texts, strict=True):
        row[[index[word] for word in words_of(text) if word in index]] = True
    return targets


class ImageNetClass(NamedTuple):
    """What a class of ImageNet is called, and what it is."""

    lemmas: list[str]
    definition: str


def imagenet_classes() -> list[ImageNetClass]:
    """Return the thousand classes in the order of a classifier's outputs."""
    info = ImageNetInfo()
    classes = []
    for index in range(info.num_classes()):
        name = info.index_to_description(index)
        detailed = info.index_to_description(index, detailed=True)
        classes.append(ImageNetClass(name.split(", "), detailed.removeprefix(f"{name}: ")))
    return classes


class Texts:
    """Texts as rows of one table of token ids, counted anew so that only tokens that occur have one.

    Attributes:
        ids: Own numbers of the tokens, padded at the end.
        lengths: Tokens of each text, start and end counted.
        tokens: open_clip's id of each own number.
    """

    def __init__(self, texts: Sequence[str], most_tokens: int) -> None:
        """Encode texts; what is longer than `most_tokens`, start and end counted, is cut."""
        known = open_clip.SimpleTokenizer(context_length=most_tokens)(list(texts))
        self.lengths: Int[Tensor, " text"] = known.argmax(dim=1) + 1
        self.tokens, self.ids = known.unique(return_inverse=True)

    def __len__(self) -> int:
        return len(self.lengths)
