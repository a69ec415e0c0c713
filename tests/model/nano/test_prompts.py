"""nano's words: the vocabulary is part of the trained weights, so it must not change."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from string import Formatter

import pytest
import torch
from transformers import AutoTokenizer

from zoetrope.model.nano.prompts import (
    MAX_TEXT_TOKENS,
    TASK_TEMPLATES,
    TEMPLATES,
    UNK,
    build_tokenizer,
    describe,
    save_tokenizer,
    vocabulary,
    words_of,
)
from zoetrope.model.nano.world import BACKGROUND_NAMES, COLOR_NAMES, DIRECTION_NAMES, SHAPES, sample_scenes

PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "a": ("a", "an"),
    "color": COLOR_NAMES,
    "shape": SHAPES,
    "source_shape": SHAPES,
    "direction": DIRECTION_NAMES,
    "background": BACKGROUND_NAMES,
    "image": ("1", "2"),
}
EVERY_TEMPLATE = [*TEMPLATES, *(template for templates in TASK_TEMPLATES.values() for template in templates)]


def test_the_vocabulary_is_the_one_of_the_trained_weights() -> None:
    words = vocabulary()
    assert words[:3] == ["<pad>", "</s>", "<unk>"]
    assert len(words) == len(set(words)) == 109
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()
    assert digest == "9f1195e1ade025398f7dfae4acc211cc06ad0d49b783fa71dcdc602a0564307a"


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_every_word_of_a_template_is_known_and_fits(template: str) -> None:
    tokenizer = build_tokenizer()
    names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    assert names <= set(PLACEHOLDERS)
    for pick in range(max(len(values) for values in PLACEHOLDERS.values())):
        sentence = template.format(**{name: values[pick % len(values)] for name, values in PLACEHOLDERS.items()})
        ids = tokenizer(sentence)["input_ids"]
        assert tokenizer.unk_token_id not in ids, sentence
        assert len(ids) <= MAX_TEXT_TOKENS


def test_the_tokenizer_reads_words_digits_and_punctuation() -> None:
    tokenizer = build_tokenizer()

    def read(text: str) -> list[str]:
        return list(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))

    assert read("A Red circle, moving RIGHT!") == ["a", "red", "circle", ",", "moving", "right", "!", "</s>"]
    assert read("image 12") == ["image", "1", "2", "</s>"]
    assert read("a red dragon") == ["a", "red", UNK, "</s>"]
    assert read("") == ["</s>"]


def test_a_saved_tokenizer_reads_the_same(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a red circle moving right on a white background", "make it blue", "dragon"]
    assert loaded(texts)["input_ids"] == build_tokenizer()(texts)["input_ids"]


def test_sentences_name_the_scene_and_follow_from_the_seed() -> None:
    scenes = sample_scenes(40, 64, 112, 9, torch.Generator().manual_seed(1))
    sentences = describe(scenes, random.Random(2))
    assert sentences == describe(scenes, random.Random(2))
    assert sentences != describe(scenes, random.Random(3))
    for row, sentence in enumerate(sentences):
        words = words_of(scenes, row)
        article = words.pop("a")
        assert set(words.values()) <= set(sentence.replace(",", "").split())
        assert f"{article} {words['color']}" in sentence or sentence.startswith(words["color"])
    assert any("an orange" in sentence for sentence in sentences)
    assert not any("a orange" in sentence for sentence in sentences)
