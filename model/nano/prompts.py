"""The sentences of nano's world and the tokenizer that reads them."""

from __future__ import annotations

import random
import re
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from zoetrope.model.nano.world import BACKGROUND_NAMES, COLOR_NAMES, DIRECTION_NAMES, SHAPES, Scenes

TEMPLATES = (
    "{a} {color} {shape} moving {direction} on a {background} background",
    "{a} {color} {shape} moves {direction} on a {background} background",
    "{color} {shape}, moving {direction}, {background} background",
    "{a} {color} {shape} goes {direction} in front of a {background} background",
    "a video of {a} {color} {shape} moving {direction} on {background}",
)

# The other tasks. {source_shape} is the shape in the clip to edit; {image} is the number of a reference.
# Words must come from `vocabulary()`, whose order is part of the trained weights.
TASK_TEMPLATES: dict[str, tuple[str, ...]] = {
    "image_to_video": (
        "moving {direction}",
        "the {shape} moves {direction}",
        "the object in the image goes {direction}",
    ),
    "first_last_frame": (
        "move from the first frame to the last frame",
        "from the first image to the last image",
        "the {shape} moves {direction}",
    ),
    "grid_to_video": (
        "the nine panels as one video",
        "the grid of panels in motion",
        "the {shape} moves {direction} over nine panels",
    ),
    "reference_to_video": (
        "image {image} moving {direction} on a {background} background",
        "the object in image {image} moves {direction} on a {background} background",
        "image {image} goes {direction} in front of a {background} background",
        "a video of image {image} moving {direction} on {background}",
    ),
    "reference_pair": (
        "image 1 and image 2 moving {direction} on a {background} background",
        "image 1 and image 2 go {direction} in front of a {background} background",
        "the objects in image 1 and image 2 move {direction} on a {background} background",
    ),
    "edit_color": (
        "make it {color}",
        "make the {source_shape} {color}",
        "turn the shape {color}",
        "change the color of the {source_shape} to {color}",
    ),
    "edit_background": (
        "make the background {background}",
        "change the background to {background}",
        "replace the background with a {background} background",
    ),
    "edit_object": (
        "replace the {source_shape} with the one in image {image}",
        "replace the shape with the object from image {image}",
        "turn the {source_shape} into image {image}, keep the motion",
    ),
}

_OTHER_WORDS = """
a an the it its is are of to in on at with and from as into over this that one first last frame frames image video clip
reference scene object objects both together two shape shapes color colour background moving moves move
goes go going front make change replace
turn keep motion same like panel panels grid nine three still loop back then while slowly quickly big small large
1 2 3 4 5 6 7 8 9 , . : ; ! ? - ' "
""".split()  # noqa: SIM905 (a list of a hundred quoted words reads worse)

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
MAX_TEXT_TOKENS = 32


def vocabulary() -> list[str]:
    """Return every word that nano knows, in a fixed order."""
    words = [PAD, EOS, UNK, *COLOR_NAMES, *SHAPES, *DIRECTION_NAMES, *BACKGROUND_NAMES, *_OTHER_WORDS]
    for template in TEMPLATES:
        words += re.findall(r"[a-z]+|,", re.sub(r"\{\w+\}", " ", template))
    return list(dict.fromkeys(words))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer in transformers' layout: lower case, <unk> for unknown words, </s> at the end as in
    T5."""
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


def describe(scenes: Scenes, rng: random.Random, templates: tuple[str, ...] = TEMPLATES) -> list[str]:
    """Return a sentence for each scene, with a wording drawn from `rng`."""
    return [rng.choice(templates).format(**words_of(scenes, i)) for i in range(len(scenes))]


def words_of(scenes: Scenes, row: int) -> dict[str, str]:
    """Return the values of a template's placeholders for one scene."""
    color = COLOR_NAMES[int(scenes.color[row])]
    return {
        "a": "an" if color[0] in "aeiou" else "a",
        "color": color,
        "shape": SHAPES[int(scenes.shape[row])],
        "direction": DIRECTION_NAMES[int(scenes.direction[row])],
        "background": BACKGROUND_NAMES[int(scenes.background[row])],
    }
