"""A text encoder that needs little of a device: its blocks are streamed to it, and only while it encodes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoetrope.model.streaming.copies import SlabCopies, copies_for
from zoetrope.model.streaming.host import HostMemory, check_host
from zoetrope.model.streaming.slab import SlabLayout
from zoetrope.model.streaming.store import BlockStore

if TYPE_CHECKING:  # its classes take seconds to import, and only the loader needs them
    from transformers import UMT5EncoderModel


class StreamedTextEncoder:
    """A UMT5 encoder in host memory. The table of words, a fifth of it, stays there: the rows of a prompt are taken
    from it. Thread-safe; prompts follow each other."""

    def __init__(
        self,
        encoder: UMT5EncoderModel,
        device: torch.device,
        copies: Callable[[torch.device], SlabCopies] = copies_for,
    ) -> None:
        """Take over an encoder on the CPU, in its final dtype.

        Raises:
            ModelError: the host has too little memory that can be page-locked.
        """
        self.device = device
        self._encoder = encoder
        stack: Any = encoder.encoder
        blocks: list[nn.Module] = list(stack.block)
        streamed = blocks[: len(blocks) // 2 * 2]
        size = sum(SlabLayout.of(block).size for block in streamed)
        check_host(size)
        self._store = BlockStore(device, copies(device), HostMemory(size, pinned=device.type == "cuda"), wraps=False)
        self._store.begin(streamed)
        for block in streamed:
            self._store.take(block)
        for module in (*blocks[len(streamed) :], stack.final_layer_norm):
            module.to(device)
        stack.block = nn.ModuleList(_Arriving(block, self._store) for block in blocks)
        self._one = threading.Lock()

    def __call__(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode ``[B, M]`` tokens, of which the mask ``[B, M]`` counts, both on the CPU -> ``[B, M, text_dim]``."""
        with self._one:
            self._store.open()
            try:
                words = self._encoder.get_input_embeddings()(tokens).to(self.device)
                made: torch.Tensor = self._encoder(
                    inputs_embeds=words, attention_mask=mask.to(self.device)
                ).last_hidden_state
            finally:
                self._store.close()
            return made


class _Arriving(nn.Module):
    """A block that waits for its weights."""

    def __init__(self, block: nn.Module, store: BlockStore) -> None:
        super().__init__()
        self.block = block
        self._store = store

    def forward(self, *args: Any, **options: Any) -> Any:
        with self._store.of(self.block):
            return self.block(*args, **options)
