"""Keep what a conditioner has computed: embeddings by prompt, and conditions by the content of the media."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from zoetrope.model.codecs.text import byte_size
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import media_of
from zoetrope.model.runtime.byte_cache import ByteCache, CacheFigures
from zoetrope.serving.stages.media_files import StoredMedia

# What of a request has no part in its media's conditions; all else has, so that a new field is safe.
WITHOUT_PART = {
    *("width", "height", "frames", "container", "keep_latents", "audio", "tiling", "warnings"),
    *(
        "seed",
        "steps",
        "guidance",
        "guidance_low",
        "guidance_start",
        "guidance_end",
        "flow_shift",
        "profile",
        "sampler",
    ),
    *("quality", "step_mask", "loras", "adapters", "branches"),
}
TEXTS = {"prompt", "negative_prompt"}


class ConditioningCache:
    """Shared by all models of a process. Results are bit for bit what they are without it."""

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes``: of embeddings, and again of conditions."""
        self.prompts: ByteCache[torch.Tensor] = ByteCache(max_bytes, byte_size)
        self._media: ByteCache[Conditions] = ByteCache(max_bytes, conditions_size)

    def conditions(
        self,
        model: str,
        spec: VideoSpec,
        media: Mapping[str, StoredMedia],
        index: int,
        make: Callable[[], Conditions],
    ) -> Conditions:
        """Return the conditions that come from the media of span ``index``, from ``make`` if they are not here. The
        span must not continue frames that were made.

        Args:
            model: identifies the autoencoder, and whatever else encodes.
        """
        key = media_key(spec, media, index)
        return make() if key is None else self._media.get((model, key), make)

    @property
    def figures(self) -> dict[str, CacheFigures]:
        return {"prompts": self.prompts.figures, "media": self._media.figures}


def media_key(spec: VideoSpec, media: Mapping[str, StoredMedia], index: int) -> str | None:
    """Return what the conditions of span ``index`` depend on beside the model and the texts: the content of the media,
    how they are fitted, size and frames. None: there are no media, or the content of one is not known."""
    names = set(media_of(spec.task).values())
    digests = {name: stored.sha256 for name, stored in media.items() if name in names}
    if not names or len(digests) < len(names) or None in digests.values():
        return None

    def by_content(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: by_content(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [by_content(one) for one in value]
        return digests.get(value, value) if isinstance(value, str) else value

    given = {name: value for name, value in spec.to_dict().items() if name not in WITHOUT_PART}
    given["task"] = by_content({name: value for name, value in given["task"].items() if name not in TEXTS})
    return json.dumps([given, index], sort_keys=True)


def conditions_size(conditions: Conditions) -> int:
    """Return the bytes of all tensors of the conditions."""
    found = [getattr(conditions, field.name) for field in fields(conditions)]
    found += [source.latents for source in conditions.sources]
    return sum(byte_size(value) for value in found if isinstance(value, torch.Tensor))
