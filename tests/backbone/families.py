"""Small CLIPs of the families that open_clip lists: their own classes and settings, little depth.

timm's architectures are registered here under names of their own, since open_clip has no setting for
their depth. Tokenizers are made here, in the forms of those that the families have.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

DIM = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("a", "photo", "of", "dog", "cat", "winding", "name", "thing", "two", "words")


def _registered(name: str, of: str, **small: Any) -> str:
    def entry(pretrained: bool = False, **settings: Any) -> Any:
        del pretrained
        return timm.create_model(of, **(small | settings))

    entry.__name__, entry.__module__ = name, __name__
    globals()[name] = timm.models.register_model(entry)
    return name


def _timm(name: str, of: str, *, pool: str, proj: str | None = None, **small: Any) -> dict:
    return {
        "timm_model_name": _registered(name, of, **small),
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": proj,
        "image_size": 64,
    }


SIZE = {"depth": 3, "embed_dim": DIM, "num_heads": 2, "img_size": 64}
VISION = {
    "SigLIP": _timm("small_siglip", "vit_base_patch16_siglip_224", pool="map", proj="none", **SIZE),
    "PE-Core": _timm("small_pe", "vit_pe_core_base_patch16_224", pool="map", **SIZE),
    "EVA01": _timm("small_eva01", "eva_giant_patch14_224", pool="token", **SIZE, patch_size=16),
    "EVA02": _timm("small_eva02", "eva02_base_patch16_clip_224", pool="token", **SIZE),
    "EVA02-E": _timm(
        "small_eva02e", "eva02_enormous_patch14_clip_224", pool="token", **SIZE, patch_size=16
    ),
    "MobileCLIP-B": _timm("small_mci", "vit_base_mci_224", pool="token", depth=2, img_size=64),
    "MobileCLIP2-L": _timm(
        "small_clip_vit", "vit_large_patch14_clip_224", pool="token", **SIZE, patch_size=16
    ),
    "MobileCLIP-S": _timm("small_fastvit", "fastvit_mci0", pool="avg", layers=(1, 1, 1, 1)),
    "ViTamin": _timm("small_vitamin", "vitamin_small_224", pool="", proj="linear", depth=2, img_size=64),
    "CLIPA": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64,
              "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    "MetaCLIP 2": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64},
}  # fmt: skip
# What a family is called in open_clip, whose settings of the text tower it gets.
NAMED = {
    "SigLIP": "ViT-B-16-SigLIP",
    "SigLIP 2": "ViT-B-16-SigLIP2",
    "SigLIP i18n": "ViT-SO400M-16-SigLIP-i18n-256",
    "PE-Core": "PE-Core-B-16",
    "EVA01": "EVA01-g-14",
    "EVA02": "EVA02-B-16",
    "EVA02-E": "EVA02-E-14",
    "MobileCLIP-B": "MobileCLIP-B",
    "MobileCLIP2-L": "MobileCLIP2-L-14",
    "MobileCLIP-S": "MobileCLIP2-S0",
    "ViTamin": "ViTamin-S",
    "CLIPA": "ViT-L-14-CLIPA",
    "MetaCLIP 2": "ViT-H-14-worldwide",
}


def settings_of(family: str) -> dict[str, Any]:
    """Return an architecture in open_clip's form: the family's own, but small."""
    settings: Any = open_clip.get_model_config(NAMED[family])
    text = settings["text_cfg"] | {"width": DIM, "heads": 2, "layers": 2}
    if "hf_tokenizer_name" in text:
        text["vocab_size"] = 100
    vision = VISION["SigLIP" if family.startswith("SigLIP") else family]
    return {**settings, "embed_dim": DIM, "vision_cfg": vision, "text_cfg": text}


def random_clip(settings: dict[str, Any]) -> Any:
    """Build it with random weights that are large enough to show a difference."""
    kind = open_clip.CustomTextCLIP if settings.get("custom_text") else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(5)
        clip = kind(**{name: v for name, v in settings.items() if name != "custom_text"})
        for name, tensor in clip.named_parameters():
            if tensor.ndim > 0:
                # Some start at zero or next to it, and would leave parts of a tower without effect.
                around = 1.0 if name.endswith(("norm.weight", "norm1.weight", "gamma_1")) else 0.0
                with torch.no_grad():
                    tensor.add_(torch.randn_like(tensor) * 0.1 + around * (tensor.mean() == 0))
    return clip.eval().requires_grad_(False)


def write_family(folder: Path, family: str) -> Path:
    """Write a CLIP of a family in open_clip's `local-dir` form, its tokenizer beside it."""
    folder.mkdir(parents=True)
    settings = settings_of(family)
    state = random_clip(settings).state_dict()
    save_file({n: t.clone() for n, t in state.items()}, folder / "open_clip_model.safetensors")
    prepared = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"model_cfg": settings, "preprocess_cfg": prepared}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if family in TOKENIZERS:
        tokenizer, about = TOKENIZERS[family]()
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def _pieces(special: list[str], *, with_space: bool) -> Tokenizer:
    """Return a sentence-piece tokenizer; of words with and without a space in front, and letters."""
    space = [f"▁{word}" for word in WORDS]
    vocabulary = [(text, 0.0) for text in special] + [(text, -2.0) for text in space]
    vocabulary += [(letter, -5.0) for letter in f"{LETTERS}▁."]
    if not with_space:
        vocabulary += [(word, -2.5) for word in WORDS if len(word) > 1]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=special.index("<unk>")))
    if with_space:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(special)
    return tokenizer


def _around(tokenizer: Tokenizer, template: str, special: list[str]) -> None:
    ids = [(text, tokenizer.token_to_id(text)) for text in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)


def t5_like() -> tuple[Tokenizer, dict]:
    """SigLIP's: no start, padded with what ends a text."""
    tokenizer = _pieces(["<unk>", "</s>"], with_space=True)
    _around(tokenizer, "$A </s>", ["</s>"])
    return tokenizer, {"tokenizer_class": "T5Tokenizer", "pad_token": "</s>", "eos_token": "</s>"}


def gemma_like() -> tuple[Tokenizer, dict]:
    """SigLIP 2's: words differ by whether they stand first, and settings decide on the ends."""
    tokenizer = _pieces(["<pad>", "<eos>", "<bos>", "<unk>"], with_space=False)
    _around(tokenizer, "<bos> $A", ["<bos>"])
    about = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": False,
        "add_eos_token": True,
        "padding_side": "right",
    }
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return tokenizer, about | tokens | {"unk_token": "<unk>"}


def bert_like() -> tuple[Tokenizer, dict]:
    """CLIPA's: whole words, between two tokens, with hardly any settings."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {text: i for i, text in enumerate([*special, *WORDS, *".,"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    _around(tokenizer, "[CLS] $A [SEP]", ["[CLS]", "[SEP]"])
    return tokenizer, {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}


def xlm_like() -> tuple[Tokenizer, dict]:
    """MetaCLIP 2's: sentence pieces between two tokens."""
    tokenizer = _pieces(["<s>", "<pad>", "</s>", "<unk>"], with_space=True)
    _around(tokenizer, "<s> $A </s>", ["<s>", "</s>"])
    return tokenizer, {"tokenizer_class": "XLMRobertaTokenizer"}


TOKENIZERS: dict[str, Callable[[], tuple[Tokenizer, dict]]] = {
    "SigLIP": t5_like,
    "SigLIP 2": gemma_like,
    "SigLIP i18n": t5_like,
    "CLIPA": bert_like,
    "MetaCLIP 2": xlm_like,
}
