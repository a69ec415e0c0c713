"""Prompts to embeddings: a tokenizer and UMT5 encoder in transformers' layout."""

from __future__ import annotations

import html
import re

import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel


class TextEncoder:
    """Wan's way with prompts: clean, encode, cut the padding, then pad with zeros to ``max_tokens``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: UMT5EncoderModel, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.max_tokens = max_tokens

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """``[len(prompts), max_tokens, text_dim]``, rows past the end of a prompt are zero. Longer ones are cut."""
        device = self.encoder.device
        inputs = self.tokenizer(
            [clean_prompt(p) for p in prompts],
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        mask = inputs["attention_mask"]
        hidden = self.encoder(inputs["input_ids"], mask).last_hidden_state
        padded: torch.Tensor = hidden * mask[..., None].to(hidden.dtype)
        return padded


def clean_prompt(text: str) -> str:
    """What diffusers' Wan pipelines do to a prompt: undo HTML escapes, fold white space, strip."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()
