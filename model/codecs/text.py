"""Encode prompts: a tokenizer and UMT5 encoder in transformers' layout."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

import ftfy
import torch

from zoetrope.model.codecs.streamed_text import StreamedTextEncoder
from zoetrope.model.runtime.byte_cache import ByteCache

if TYPE_CHECKING:  # its classes take seconds to import, and only the loader needs them
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

CACHED_BYTES = 128 << 20  # 32 prompts of UMT5-XXL in bfloat16, 512 tokens of 4096


class TextEncoder:
    """Encodes prompts as Wan does: clean, encode, cut the padding, then pad with zeros to ``max_tokens``.

    The embeddings of the last prompts are kept, in host memory, while the encoder is frozen and in evaluation mode: the
    negative prompt, for example, is nearly always the same. Thread-safe.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: UMT5EncoderModel,
        max_tokens: int,
        streamed: StreamedTextEncoder | None = None,
    ) -> None:
        """``streamed``: computes in place of the encoder, which it has taken over."""
        self._streamed = streamed
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.max_tokens = max_tokens
        self._identity: object = self
        self._cache: ByteCache[torch.Tensor] = ByteCache(CACHED_BYTES, byte_size)

    def share(self, cache: ByteCache[torch.Tensor], identity: object) -> None:
        """Keep embeddings in a cache that others use too, under keys that begin with this encoder's ``identity``."""
        self._cache, self._identity = cache, identity

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Return ``[len(prompts), max_tokens, text_dim]``; rows past the end of a prompt are zero, longer prompts are
        cut (see `truncated`).

        A frozen encoder takes prompts one by one, so that a result depends neither on its neighbours nor on the cache.
        An encoder in training takes them all at once.
        """
        cleaned = [clean_prompt(p) for p in prompts]
        if cleaned and self._frozen():
            return torch.stack([self._cached(text) for text in cleaned]).to(self._device())
        return self._encode(cleaned)

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Tell which prompts have more than ``max_tokens`` tokens: `encode` cuts off their ends, as diffusers does."""
        if not prompts:
            return []
        inputs = self.tokenizer([clean_prompt(p) for p in prompts], add_special_tokens=True, verbose=False)
        return [len(tokens) > self.max_tokens for tokens in inputs["input_ids"]]

    def _frozen(self) -> bool:
        return not self.encoder.training and not any(p.requires_grad for p in self.encoder.parameters())

    def _device(self) -> torch.device:
        return self.encoder.device if self._streamed is None else self._streamed.device

    def _cached(self, text: str) -> torch.Tensor:
        return self._cache.get((self._identity, text), lambda: self._encode_frozen(text))

    def _encode_frozen(self, text: str) -> torch.Tensor:
        # Not an inference tensor, whatever mode the first caller is in: a later one may train on it.
        with torch.inference_mode(False), torch.no_grad():
            return self._encode([text])[0].cpu()

    def _encode(self, cleaned: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(
            cleaned,
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        if self._streamed is not None:
            hidden = self._streamed(inputs["input_ids"], inputs["attention_mask"])
            mask = inputs["attention_mask"].to(hidden.device)
        else:
            inputs = inputs.to(self.encoder.device)
            mask = inputs["attention_mask"]
            hidden = self.encoder(inputs["input_ids"], mask).last_hidden_state
        padded: torch.Tensor = hidden * mask[..., None].to(hidden.dtype)
        return padded


def byte_size(tensor: torch.Tensor) -> int:
    """Return the bytes that a tensor's elements take."""
    return tensor.numel() * tensor.element_size()


def clean_prompt(text: str) -> str:
    """Clean a prompt as Wan's own code and diffusers' Wan pipelines do.

    Repair wrongly decoded text, straighten quotes, normalise full-width forms (ftfy), undo HTML escapes twice, collapse
    white space, strip.
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()
