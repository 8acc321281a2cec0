"""The text tower: soft prompts to text features, no longer than needed and no token twice.

The tower is causal and reads out at the end token. So what stands behind the end of a prompt never
matters, and what all prompts begin with is the same in all of them. Both shortcuts are exact.
"""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trmml.errors import ConfigError, UnsupportedBackboneError

TOKENS_AT_ONCE = 8192
"""More tokens are encoded in parts whose inner values are computed again for the gradient, so that
memory grows with the parts and not with the labels."""


class TextTower(nn.Module):
    """CLIP's text tower with an entrance for prompts given as token embeddings.

    Prompts are encoded as far as each one goes; what they share at the beginning is encoded once
    (`encode_with_prefix`). Neither changes anything but time and memory.
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

    def require_whole_vocabulary(self) -> None:
        """Make sure that every token of open_clip's tokenizer has an embedding.

        Raises:
            UnsupportedBackboneError: If the tower was trained with another tokenizer.
        """
        if self.token_embedding.num_embeddings < self.tokenizer.vocab_size:
            raise UnsupportedBackboneError(
                f"This text tower knows {self.token_embedding.num_embeddings} tokens, open_clip's own "
                f"tokenizer has {self.tokenizer.vocab_size}; it was trained with another one."
            )

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
    ) -> tuple[Float[Tensor, "label token width"], Int[Tensor, " label"]]:
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
                    # Three are not the name's: start, full stop and end.
                    f"The label name {name!r} has {len(tokens) - 3} tokens; behind "
                    f"{num_context_tokens} context tokens this CLIP reads at most {room - 3}. "
                    "Shorten the name, or give it a shorter prompt name or a shorter context."
                )
        counts = torch.tensor([len(tokens) for tokens in ids])
        padded = torch.zeros(len(ids), int(counts.max()), dtype=torch.long)
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
        if self._has_plain_blocks:
            return _in_parts(self._encode, prompt_embeddings, num_tokens)
        length = prompt_embeddings.shape[1]
        dtype = self.transformer.get_cast_dtype()

        def encode(prompts: Tensor, counts: Tensor) -> Tensor:
            tokens = prompts.to(dtype) + self.positional_embedding[:length].to(dtype)
            mask = self.attention_mask[:length, :length]
            tokens = self.transformer(tokens, attn_mask=mask)
            every = torch.arange(len(tokens), device=tokens.device)
            return self._read_out(tokens[every, counts - 1])

        return _in_parts(encode, prompt_embeddings, num_tokens)

    def encode_with_prefix(
        self,
        prefix_embeddings: Float[Tensor, "prefix width"],
        rest_embeddings: Float[Tensor, "label token width"],
        num_tokens: Int[Tensor, " label"],
    ) -> Float[Tensor, "label dim"]:
        """Return the text features of prompts that all begin with the same tokens, of unit length.

        The prefix runs through the tower once; its keys and values serve every prompt. The result and
        the gradients are those of `forward` on the joined prompts.

        Args:
            prefix_embeddings: Token embeddings of the beginning, the start token included.
            rest_embeddings: Token embeddings of what follows, padded at the end.
            num_tokens: Length of each rest, the end token counted.
        """
        if not self._has_plain_blocks:
            prefix = prefix_embeddings.expand(len(rest_embeddings), -1, -1)
            joined = torch.cat([prefix, rest_embeddings], dim=1)
            return self(joined, num_tokens + len(prefix_embeddings))
        # The tower is causal: keys and values of the prefix are the same whatever follows it.
        start, dtype = len(prefix_embeddings), self.transformer.get_cast_dtype()
        tokens = prefix_embeddings.to(dtype) + self.positional_embedding[:start].to(dtype)
        kept = []
        for block in self.transformer.resblocks:
            query, key, value = _split(_projected(block, tokens), (1, start), block)
            kept += [key, value]
            tokens = _after_attention(block, tokens, self._read(query, key, value))
        return _in_parts(self._encode, rest_embeddings, num_tokens, *kept)

    @property
    def _has_plain_blocks(self) -> bool:
        return all(type(block) is ResidualAttentionBlock for block in self.transformer.resblocks)

    def _encode(self, prompts: Tensor, num_tokens: Tensor, *kept: Tensor) -> Tensor:
        """Run prompts through the tower behind kept keys and values, one pair per block.

        All tokens lie one behind the other, shorter prompts first, so that none is spent on padding;
        only attention looks at prompts of one length at a time.
        """
        order = num_tokens.argsort(stable=True)
        lengths, sizes = num_tokens[order].unique_consecutive(return_counts=True)
        shapes = list(zip(sizes.tolist(), lengths.tolist(), strict=True))
        start, dtype = kept[0].shape[2] if kept else 0, self.transformer.get_cast_dtype()
        positions = self.positional_embedding[start:].to(dtype)
        groups = zip(order.split(sizes.tolist()), shapes, strict=True)
        tokens = torch.cat(
            [
                (prompts[rows, :length].to(dtype) + positions[:length]).flatten(0, 1)
                for rows, (_, length) in groups
            ]
        )
        # In attention alone tokens meet, and prompts of one length make a rectangle there.
        areas = [size * length for size, length in shapes]
        for i, block in enumerate(self.transformer.resblocks):
            read = []
            for part, shape in zip(_projected(block, tokens).split(areas), shapes, strict=True):
                query, key, value = _split(part, shape, block)
                if kept:
                    before = [k.expand(shape[0], -1, -1, -1) for k in kept[2 * i : 2 * i + 2]]
                    key = torch.cat([before[0], key], dim=2)
                    value = torch.cat([before[1], value], dim=2)
                read.append(self._read(query, key, value))
            tokens = _after_attention(block, tokens, torch.cat(read))
        # Prompts lie one behind the other, so an end token is where the lengths so far add up to.
        last = num_tokens[order].cumsum(0) - 1
        return self._read_out(tokens[last])[order.argsort()]

    def _read(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return softmax(q·kᵀ/√width + mask)·v for the last tokens, flat over prompts and tokens."""
        length = key.shape[2]
        mask = self.attention_mask[length - query.shape[2] : length, :length].to(query.dtype)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return read.transpose(1, 2).flatten(-2).flatten(0, 1)

    def _read_out(self, tokens: Tensor) -> Tensor:
        """Normalize and project end tokens into the joint space, to unit length."""
        text = self.ln_final(tokens)
        if isinstance(self.text_projection, nn.Linear):
            text = self.text_projection(text)
        elif self.text_projection is not None:
            text = text @ self.text_projection
        return F.normalize(text.float(), dim=-1)


def _in_parts(
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


def _projected(block: Any, tokens: Tensor) -> Tensor:
    """Return queries, keys and values of a block's attention, side by side."""
    attention = block.attn
    return F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)


def _split(projected: Tensor, shape: tuple[int, int], block: Any) -> tuple[Tensor, ...]:
    """Return queries, keys and values of prompts of one length: prompt × head × token × width."""
    return tuple(
        part.unflatten(0, shape).unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    )


def _after_attention(block: Any, tokens: Tensor, read: Tensor) -> Tensor:
    """Return what a block makes of its tokens and of what they read from each other."""
    tokens = tokens + block.ls_1(block.attn.out_proj(read))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
