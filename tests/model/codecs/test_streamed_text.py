"""A text encoder that is streamed gives the embeddings of a resident one, and leaves nothing on the device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from tests.model.streaming.hazards import HazardCopies
from zoetrope.model.codecs.streamed_text import StreamedTextEncoder
from zoetrope.model.codecs.text import TextEncoder
from zoetrope.model.nano.prompts import build_tokenizer, vocabulary

CPU = torch.device("cpu")
PROMPTS = ["a red circle moving right", "a blue square", "", "two green triangles"]


def network(layers: int) -> UMT5EncoderModel:
    torch.manual_seed(0)
    words = len(vocabulary())
    config = UMT5Config(vocab_size=words, d_model=16, d_kv=8, num_heads=2, d_ff=16, num_layers=layers)
    return UMT5EncoderModel(config).eval().requires_grad_(False)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_embeddings_are_bitwise_those_of_a_resident_encoder(layers: int) -> None:
    copies = HazardCopies("thread")
    resident = TextEncoder(build_tokenizer(), network(layers), 12)
    made = network(layers)
    streamed = TextEncoder(build_tokenizer(), made, 12, StreamedTextEncoder(made, CPU, lambda device: copies))
    assert torch.equal(streamed.encode(PROMPTS), resident.encode(PROMPTS))
    with torch.inference_mode():
        assert torch.equal(streamed.encode(["a new prompt"]), resident.encode(["a new prompt"]))
    sent = [event for event in copies.log if event.what == "copy"]
    assert len(sent) == (layers // 2 * 2) * (len(PROMPTS) + 1), "each block once a prompt, none in vain"
    if layers > 1:
        slabs = {event.slab for event in sent}
        held = {tensor.untyped_storage().data_ptr() for tensor in made.parameters()}
        assert not slabs & held, "between prompts all weights are in host memory"


def test_prompts_of_several_threads_follow_each_other() -> None:
    made = network(4)
    streamed = TextEncoder(build_tokenizer(), made, 12, StreamedTextEncoder(made, CPU))
    prompts = [f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "square")]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda prompt: streamed.encode([prompt])[0], prompts))
    expected = TextEncoder(build_tokenizer(), network(4), 12).encode(prompts)
    assert torch.equal(torch.stack(found), expected)


def test_a_failure_leaves_it_usable() -> None:
    made = network(2)
    streamed = StreamedTextEncoder(made, CPU)
    tokens = torch.tensor([[3, 4, 5]])
    expected = streamed(tokens, torch.ones_like(tokens))
    with pytest.raises(IndexError):
        streamed(torch.tensor([[len(vocabulary()) + 7]]), torch.ones(1, 1, dtype=torch.int64))
    assert torch.equal(streamed(tokens, torch.ones_like(tokens)), expected)
