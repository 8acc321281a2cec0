"""What all text towers share: prompts as token embeddings, and what is read of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip import CLIP, CustomTextCLIP
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trmml.backbone.tokenizers import ClipTokenizer, Tokenizer
from trmml.errors import ConfigError, UnsupportedBackboneError

TOKENS_AT_ONCE = 8192
"""More tokens are encoded in parts whose inner values are computed again for the gradient, so that
memory grows with the parts and not with the labels."""


class TextTower(nn.Module):
    """CLIP's text tower with an entrance for prompts given as token embeddings.

    Attributes:
        context_length: The most tokens that it reads.
        reads_last: Whether it reads out at the last place, and not at the end token.
    """

    attention_mask: Tensor | None

    def __init__(self, clip: CLIP | CustomTextCLIP, tokenizer: Tokenizer) -> None:
        super().__init__()
        # open_clip declares few of its attributes; to a type checker they could be anything.
        parts: Any = clip.text if isinstance(clip, CustomTextCLIP) else clip
        self.token_embedding: nn.Embedding = parts.token_embedding
        self.positional_embedding: Tensor = parts.positional_embedding
        self.transformer: Any = parts.transformer
        self.ln_final: nn.LayerNorm = parts.ln_final
        self.text_projection: nn.Linear | Tensor | None = parts.text_projection
        self.register_buffer("attention_mask", parts.attn_mask, persistent=False)
        self.context_length: int = parts.context_length
        self.reads_last = text_pooling(clip)[0] == "last"
        self.tokenizer = tokenizer

    def require_whole_vocabulary(self) -> None:
        """Make sure that every token of open_clip's tokenizer has an embedding.

        A file's own tokenizer is asked for the tokens around a text, and else text by text: some list
        tokens that no text has.

        Raises:
            UnsupportedBackboneError: If the tower was trained with another tokenizer.
        """
        around = [*self.tokenizer.start, *self.tokenizer.end, self.tokenizer.pad]
        known = self.token_embedding.num_embeddings
        own = isinstance(self.tokenizer, ClipTokenizer)
        if known < (self.tokenizer.vocab_size if own else max(around) + 1):
            raise UnsupportedBackboneError(
                f"This text tower knows {known} tokens, {'open_clip' if own else 'the file'}'s own "
                f"tokenizer has {self.tokenizer.vocab_size}; it was trained with another one."
            )

    @property
    def num_start_tokens(self) -> int:
        """How many tokens stand in front of every text."""
        return len(self.tokenizer.start)

    @property
    def width(self) -> int:
        """Width of a token embedding."""
        return self.token_embedding.embedding_dim

    def tokenize(self, text: str, *, follows: bool = False) -> list[int]:
        """Return the token ids of a text, without start and end; `follows` if words stand before it.

        Raises:
            UnsupportedBackboneError: If the tower has no embedding of one.
        """
        ids = self.tokenizer.encode(text, follows=follows)
        if max(ids, default=0) >= self.token_embedding.num_embeddings:
            raise UnsupportedBackboneError(
                f"The tokenizer has token {max(ids)} for {text[:40]!r}, the text tower knows only "
                f"{self.token_embedding.num_embeddings}; it was trained with another one."
            )
        return ids

    def embed(self, text: str) -> Float[Tensor, "token width"]:
        """Return the token embeddings of a text, without start and end."""
        ids = torch.tensor(self.tokenize(text), dtype=torch.long)
        return self.token_embedding(ids.to(self.token_embedding.weight.device))

    def embed_names(
        self, names: tuple[str, ...], num_context_tokens: int
    ) -> tuple[Float[Tensor, "label token width"], Int[Tensor, " label"]]:
        """Embed "<start>name.<end>" for each name, padded at the end, and count the tokens.

        Raises:
            ConfigError: If a name does not fit behind the context.
        """
        start, end, follows = self.tokenizer.start, self.tokenizer.end, num_context_tokens > 0
        ids = [[*start, *self.tokenize(f"{name}.", follows=follows), *end] for name in names]
        room = self.context_length - num_context_tokens
        for name, tokens in zip(names, ids, strict=True):
            if len(tokens) > room:
                own = len(self.tokenize(name, follows=follows))
                besides = len(tokens) - own  # start, full stop and end
                raise ConfigError(
                    f"The label name {name!r} has {own} tokens; behind "
                    f"{num_context_tokens} context tokens this CLIP reads at most {room - besides}. "
                    "Shorten the name, or give it a shorter prompt name or a shorter context."
                )
        counts = torch.tensor([len(tokens) for tokens in ids])
        padded = torch.full((len(ids), int(counts.max())), self.tokenizer.pad, dtype=torch.long)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        device = self.token_embedding.weight.device
        return self.token_embedding(padded.to(device)), counts.to(device)

    @torch.no_grad()
    def encode_names(
        self, names: tuple[str, ...], templates: Sequence[str]
    ) -> Float[Tensor, "label dim"]:
        """Return the mean text feature of each name in templates like "a {}", of unit length.

        Raises:
            ConfigError: If a text does not fit the tower.
        """
        features = torch.stack(
            [
                self(*self.embed_names(tuple(template.replace("{}", name) for name in names), 0))
                for template in templates
            ]
        )
        return F.normalize(features.mean(dim=0), dim=-1)

    def forward(
        self,
        prompt_embeddings: Float[Tensor, "label token width"],
        num_tokens: Int[Tensor, " label"],
    ) -> Float[Tensor, "label dim"]:
        """Return the text features of prompts, of unit length.

        Args:
            prompt_embeddings: Token embeddings, padded at the end.
            num_tokens: Length of each prompt, start and end counted.
        """
        raise NotImplementedError

    def encode_behind(
        self,
        context: Float[Tensor, "context width"],
        name_embeddings: Float[Tensor, "label token width"],
        num_tokens: Int[Tensor, " label"],
    ) -> Float[Tensor, "label dim"]:
        """Return the text features of prompts with one context for all, of unit length.

        The result and the gradients are those of `forward` on the joined prompts.

        Args:
            context: Token embeddings between the start and each name.
            name_embeddings: "<start>name.<end>", as `embed_names` returns them.
            num_tokens: Length of each, start and end counted.
        """
        start = self.num_start_tokens
        prefix = torch.cat([name_embeddings[0, :start], context])
        return self.encode_with_prefix(prefix, name_embeddings[:, start:], num_tokens - start)

    def encode_with_prefix(
        self,
        prefix_embeddings: Float[Tensor, "prefix width"],
        rest_embeddings: Float[Tensor, "label token width"],
        num_tokens: Int[Tensor, " label"],
    ) -> Float[Tensor, "label dim"]:
        """Return the text features of prompts that all begin with the same tokens, of unit length.

        Args:
            prefix_embeddings: Token embeddings of the beginning, the start token included.
            rest_embeddings: Token embeddings of what follows, padded at the end.
            num_tokens: Length of each rest, the end token counted.
        """
        prefix = prefix_embeddings.expand(len(rest_embeddings), -1, -1)
        joined = torch.cat([prefix, rest_embeddings], dim=1)
        return self(joined, num_tokens + len(prefix_embeddings))

    def _through(self, prompts: Tensor, num_tokens: Tensor) -> Tensor:
        """Run prompts of the same length through open_clip's own transformer, padding too."""
        length, dtype = prompts.shape[1], self.transformer.get_cast_dtype()
        tokens = prompts.to(dtype) + self.positional_embedding[:length].to(dtype)
        mask = self.attention_mask
        tokens = self.transformer(
            tokens, attn_mask=None if mask is None else mask[:length, :length]
        )
        if self.reads_last:
            return self._read_out(tokens[:, -1])
        every = torch.arange(len(tokens), device=tokens.device)
        return self._read_out(tokens[every, num_tokens - 1])

    def _read_out(self, tokens: Tensor) -> Tensor:
        """Normalize and project what is read into the joint space, to unit length."""
        text = self.ln_final(tokens)
        if isinstance(self.text_projection, nn.Linear):
            text = self.text_projection(text)
        elif self.text_projection is not None:
            text = text @ self.text_projection
        return F.normalize(text.float(), dim=-1)


def in_parts(
    encode: Callable[..., Tensor], prompts: Tensor, num_tokens: Tensor, *kept: Tensor
) -> Tensor:
    """Encode prompts, many of them part by part."""
    at_once = max(TOKENS_AT_ONCE // prompts.shape[1], 1)
    if len(prompts) <= at_once:
        return encode(prompts, num_tokens, *kept)
    parts = zip(prompts.split(at_once), num_tokens.split(at_once), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([encode(*part, *kept) for part in parts])
    done = [checkpoint(encode, *part, *kept, use_reentrant=False) for part in parts]
    return torch.cat(done)  # pyright: ignore[reportArgumentType]


def text_pooling(clip: CLIP | CustomTextCLIP) -> tuple[str, int | None]:
    """Where a tower reads out, and the end token that it looks for there."""
    parts: Any = clip
    if isinstance(clip, CustomTextCLIP):
        return parts.text.pool_type, parts.text.eos_id
    return parts.text_pool_type, parts.text_eos_id
