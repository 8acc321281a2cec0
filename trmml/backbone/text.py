"""The text tower: soft prompts to text features, no longer than the longest prompt."""

from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from trmml.errors import ConfigError, UnsupportedBackboneError


class TextTower(nn.Module):
    """CLIP's text tower with an entrance for prompts given as token embeddings.

    The tower is causal and reads out at the end token, so what lies behind it never matters: prompts
    are encoded as far as the longest one goes, which changes nothing but the time.
    """

    attention_mask: Tensor

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        if clip.text_pool_type not in ("argmax", "eos") or clip.attn_mask is None:
            raise UnsupportedBackboneError(
                "This text tower is not causal or does not read out at its end token; "
                "learned prompts are not supported on it."
            )
        # open_clip declares few of its attributes; to a type checker they could be anything.
        parts: Any = clip
        self.token_embedding: nn.Embedding = parts.token_embedding
        self.positional_embedding: Tensor = parts.positional_embedding
        self.transformer: Any = parts.transformer
        self.ln_final: nn.LayerNorm = parts.ln_final
        self.text_projection: nn.Linear | Tensor | None = parts.text_projection
        self.register_buffer("attention_mask", parts.attn_mask, persistent=False)
        self.context_length: int = parts.context_length
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.context_length)

    @property
    def width(self) -> int:
        """Width of a token embedding."""
        return self.token_embedding.embedding_dim

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without start and end."""
        return self.tokenizer.encode(text)

    def embed(self, text: str) -> Float[Tensor, "token width"]:
        """Return the token embeddings of a text, without start and end."""
        ids = torch.tensor(self.tokenize(text), dtype=torch.long)
        return self.token_embedding(ids.to(self.token_embedding.weight.device))

    def embed_names(
        self, names: tuple[str, ...], num_context_tokens: int
    ) -> tuple[Float[Tensor, "category token width"], Int[Tensor, " category"]]:
        """Embed "<start>name.<end>" for each name, padded at the end, and count the tokens.

        Raises:
            ConfigError: If a name does not fit behind the context.
        """
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        ids = [[start, *self.tokenize(f"{name}."), end] for name in names]
        room = self.context_length - num_context_tokens
        for name, tokens in zip(names, ids, strict=True):
            if len(tokens) > room:
                raise ConfigError(
                    f"The category name {name!r} has {len(tokens) - 3} tokens; behind "
                    f"{num_context_tokens} context tokens this CLIP reads at most {room - 3}. "
                    "Shorten the name, or give it a shorter prompt name or a shorter context."
                )
        counts = torch.tensor([len(tokens) for tokens in ids])
        padded = torch.zeros(len(ids), int(counts.max()), dtype=torch.long)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        device = self.token_embedding.weight.device
        return self.token_embedding(padded.to(device)), counts.to(device)

    def forward(
        self,
        prompt_embeddings: Float[Tensor, "category token width"],
        num_tokens: Int[Tensor, " category"],
    ) -> Float[Tensor, "category dim"]:
        """Return the text features of prompts, of unit length.

        Args:
            prompt_embeddings: Token embeddings, padded at the end.
            num_tokens: Length of each prompt, start and end counted.
        """
        length = prompt_embeddings.shape[1]
        dtype = self.transformer.get_cast_dtype()
        tokens = prompt_embeddings.to(dtype) + self.positional_embedding[:length].to(dtype)
        tokens = self.transformer(tokens, attn_mask=self.attention_mask[:length, :length])
        every = torch.arange(len(tokens), device=tokens.device)
        text = self.ln_final(tokens[every, num_tokens - 1])
        if isinstance(self.text_projection, nn.Linear):
            text = self.text_projection(text)
        elif self.text_projection is not None:
            text = text @ self.text_projection
        return F.normalize(text.float(), dim=-1)
