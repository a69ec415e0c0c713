"""The sentences of nano's world and the tokenizer that reads them."""

from __future__ import annotations

import random
import re
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from model.nano.world import BACKGROUND_NAMES, COLOR_NAMES, DIRECTION_NAMES, SHAPES, Scenes

TEMPLATES = (
    "a {color} {shape} moving {direction} on a {background} background",
    "a {color} {shape} moves {direction} on a {background} background",
    "{color} {shape}, moving {direction}, {background} background",
    "a {color} {shape} goes {direction} in front of a {background} background",
    "a video of a {color} {shape} moving to the {direction} on {background}",
)

_OTHER_WORDS = """
a an the it its is are of to in on at with and from as into over this that one first last frame frames image video clip
reference scene object shape shapes color colour background moving moves move goes go going front make change replace
turn keep motion same like panel panels grid nine three still loop back then while slowly quickly big small large
1 2 3 4 5 6 7 8 9 , . : ; ! ? - ' "
""".split()

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
MAX_TEXT_TOKENS = 32


def vocabulary() -> list[str]:
    """Every word nano knows, in a fixed order."""
    words = [PAD, EOS, UNK, *COLOR_NAMES, *SHAPES, *DIRECTION_NAMES, *BACKGROUND_NAMES, *_OTHER_WORDS]
    for template in TEMPLATES:
        words += re.findall(r"[a-z]+|,", re.sub(r"\{\w+\}", " ", template))
    return list(dict.fromkeys(words))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer in transformers' layout: lower case, unknown words become <unk>, ends in </s> as T5's."""
    vocab = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, vocab[EOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK, model_max_length=MAX_TEXT_TOKENS
    )


def save_tokenizer(directory: Path) -> None:
    build_tokenizer().save_pretrained(directory)


def describe(scenes: Scenes, rng: random.Random) -> list[str]:
    """One sentence for each scene, the wording drawn from `rng`."""
    return [
        rng.choice(TEMPLATES).format(
            color=COLOR_NAMES[int(scenes.color[i])],
            shape=SHAPES[int(scenes.shape[i])],
            direction=DIRECTION_NAMES[int(scenes.direction[i])],
            background=BACKGROUND_NAMES[int(scenes.background[i])],
        )
        for i in range(len(scenes))
    ]
