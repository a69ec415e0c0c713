"""Tell of fields that are taken but change nothing here, or less than in the original: the task says so."""

from __future__ import annotations

from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.gateway.http.dashscope.inputs import AUDIO, VOICE, follows_first_frame, named_media
from zoetrope.serving.gateway.http.dashscope.schema import Input, Parameters, Synthesis


def unused_fields(body: Synthesis, card: ModelCard, *, expands: bool) -> tuple[str, ...]:
    """Return a sentence for each.

    Args:
        expands: this service can expand prompts.
    """
    kinds = {item.type for item in named_media(body.input)}
    return (*_of_input(body.input, kinds), *_of_parameters(body.parameters, kinds, card, expands))


def _of_input(given: Input, kinds: set[str]) -> list[str]:
    found = []
    for i, item in enumerate(given.media):
        if item.type == VOICE or item.reference_voice is not None:
            field = "url" if item.type == VOICE else VOICE
            found.append(f"input.media.{i}.{field}: is not used, for no voices are made here")
    if "first_clip" in kinds:
        found.append(
            "input.media: the video begins with the last frames of first_clip, it does not hold the whole clip"
        )
    return found


def _of_parameters(given: Parameters, kinds: set[str], card: ModelCard, expands: bool) -> list[str]:
    found = []
    if given.watermark:
        found.append("parameters.watermark: true, but this service draws none")
    if given.prompt_extend and not expands:
        found.append("parameters.prompt_extend: true, but this service expands no prompts: yours is used as it is")
    if given.enable_thinking:
        found.append("parameters.enable_thinking: is not used")
    if given.shot_type == "multi":
        found.append("parameters.shot_type: multi is not used; describe the shots in the prompt")
    if given.audio and not card.audio and AUDIO not in kinds:
        found.append(f"parameters.audio: true, but {card.name} makes no sound; give a track to have some")
    if given.audio is False and AUDIO in kinds:
        found.append("parameters.audio: false, so the track that is given is not used")
    if given.ratio is not None and follows_first_frame(kinds):
        found.append(f"parameters.ratio: {given.ratio} is not used, for the video has the ratio of its first frame")
    return found
