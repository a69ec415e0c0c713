"""Prompts to embeddings: cleaned, cut, cached while the encoder is frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import UMT5Config, UMT5EncoderModel

from zoetrope.model.codecs.text import TextEncoder, byte_size, clean_prompt
from zoetrope.model.nano.prompts import build_tokenizer, vocabulary
from zoetrope.model.runtime.byte_cache import ByteCache

MAX_TOKENS = 12
COLOURS = ("red", "green", "blue", "yellow")


def encoder(*, frozen: bool) -> TextEncoder:
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=len(vocabulary()), d_model=16, d_kv=8, num_heads=2, d_ff=16, num_layers=1)
    network = UMT5EncoderModel(config).eval()
    return TextEncoder(build_tokenizer(), network.requires_grad_(not frozen), MAX_TOKENS)


@pytest.fixture
def text() -> TextEncoder:
    return encoder(frozen=True)


def counted(text: TextEncoder) -> Callable[[], int]:
    """How many prompts the network has seen from now on."""
    rows: list[int] = []

    def note(_: object, args: tuple[Any, ...], __: object) -> None:
        rows.append(len(args[0]))

    text.encoder.register_forward_hook(note)
    return lambda: sum(rows)


def test_rows_past_the_end_of_a_prompt_are_zero(text: TextEncoder) -> None:
    embeddings = text.encode(["a red circle", "a red circle moving right"])
    assert embeddings.shape == (2, MAX_TOKENS, 16)
    lengths = [int(row.abs().sum(-1).gt(0).sum()) for row in embeddings]
    assert 0 < lengths[0] < lengths[1] < MAX_TOKENS
    for row, length in zip(embeddings, lengths, strict=True):
        assert row[:length].abs().sum(-1).gt(0).all() and not row[length:].any()


def test_a_prompt_is_encoded_once(text: TextEncoder) -> None:
    seen = counted(text)
    first = text.encode(["a red circle", "a blue square"])
    assert seen() == 2
    again = text.encode(["a blue square", " a  red circle", "a red circle\n"])
    assert seen() == 2, "the same after cleaning"
    assert torch.equal(again, first[[1, 0, 0]])


def test_what_a_caller_does_to_a_result_does_not_stay(text: TextEncoder) -> None:
    first = text.encode(["a red circle"])
    kept = first.clone()
    first.zero_()
    assert torch.equal(text.encode(["a red circle"]), kept)


def test_neighbours_and_the_cache_make_no_difference(text: TextEncoder) -> None:
    prompts = ["a red circle", "a blue square moving left", ""]
    together = text.encode(prompts)
    for prompt, row in zip(prompts, together, strict=True):
        assert torch.equal(encoder(frozen=True).encode([prompt])[0], row)


def test_the_cache_forgets_what_is_oldest(text: TextEncoder) -> None:
    seen = counted(text)
    room = 8
    text.share(ByteCache(room * MAX_TOKENS * 16 * 4, byte_size), "encoder")
    prompts = [f"{a} {b}" for a in COLOURS for b in COLOURS][: room + 1]
    for prompt in prompts:
        text.encode([prompt])
    text.encode(prompts[1:])
    assert seen() == room + 1
    text.encode(prompts[:1])
    assert seen() == room + 2


def test_encoders_that_share_a_cache_take_only_their_own(text: TextEncoder) -> None:
    other = encoder(frozen=True)
    with torch.no_grad():
        for parameter in other.encoder.parameters():
            parameter.mul_(0.5)
    cache = ByteCache(1 << 20, byte_size)
    text.share(cache, "a")
    other.share(cache, "b")
    first, second = text.encode(["a red circle"]), other.encode(["a red circle"])
    assert not torch.equal(first, second) and cache.figures.misses == 2
    assert torch.equal(other.encode(["a red circle"]), second) and cache.figures.hits == 1


def test_cached_under_inference_mode_it_can_be_trained_on(text: TextEncoder) -> None:
    with torch.inference_mode():
        text.encode(["a red circle"])
    weight = torch.ones(16, requires_grad=True)
    (text.encode(["a red circle"]) * weight).sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


def test_nothing_is_cached_in_training() -> None:
    text = encoder(frozen=False)
    seen = counted(text)
    first = text.encode(["a red circle", "a blue square"])
    first.sum().backward()
    with torch.no_grad():
        for parameter in text.encoder.parameters():
            parameter.add_(0.1)
        second = text.encode(["a red circle", "a blue square"])
    assert seen() == 4 and not torch.equal(first, second)


def test_dropout_is_not_cached() -> None:
    text = encoder(frozen=True)
    text.encoder.train()
    torch.manual_seed(0)
    assert not torch.equal(text.encode(["a red circle"]), text.encode(["a red circle"]))


def test_long_prompts_are_cut_and_told(text: TextEncoder) -> None:
    words = ["red"] * 40
    fitting = next(n for n in range(40, 0, -1) if not text.truncated([" ".join(words[:n])])[0])
    assert MAX_TOKENS - 2 <= fitting <= MAX_TOKENS
    short, exact, long = "a red circle", " ".join(words[:fitting]), " ".join(words[: fitting + 1])
    assert text.truncated([short, exact, long, "  " + exact.replace(" ", " \n")]) == [False, False, True, False]
    assert text.truncated([]) == []
    assert text.encode([long]).shape == (1, MAX_TOKENS, 16)


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("  a &lt;b&gt; &amp;amp;\n c\t", "a <b> & c"),
        ("a \u201cred\u201d circle\u2019s edge", 'a "red" circle\'s edge'),
        ("\uff52\uff45\uff44\uff0c\uff11", "red,1"),
        ("a caf\u00c3\u00a9 \u00e2\u20ac\u201d late", "a caf\u00e9 \u2014 late"),
        ("\ufb01ve\u00a0 \u3000circles", "five circles"),
        ("\u4e00\u53ea\u732b\uff0c\u5728\u8dd1", "\u4e00\u53ea\u732b,\u5728\u8dd1"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned_as_diffusers_does(given: str, cleaned: str) -> None:
    assert prompt_clean(given) == cleaned
    assert clean_prompt(given) == cleaned
