"""How a model is loaded: what the command line, the settings of a service and a model card say beside its name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from zoetrope.model.request.quantize import Quantize

Offload = Literal["auto", "never", "always"]


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        family: the preset that its folder holds (`model.catalog.identity`); "" if its files say it.
        quantize: the form of its weights.
        lora: adapters to fuse, ``FILE[:strength][@high|low|both]`` each.
        profile: the locked sampling recipe of a few-step distill; "" for the model's own.
        offload: whether blocks wait in the host's memory and are streamed to the GPU; auto: if they do not fit.
        vae, text_encoder, image_encoder: files or folders of these components, where the model is a single file or
            they are not to be those of its folder. tokenizer: its folder.
        model_low: the file of the low-noise expert, where the model is that of the high-noise one.
        given: the options that were named, although they are the defaults: they win over a model card's.
    """

    family: str = ""
    quantize: Quantize = "none"
    lora: tuple[str, ...] = ()
    profile: str = ""
    offload: Offload = "auto"
    vae: str = ""
    text_encoder: str = ""
    image_encoder: str = ""
    tokenizer: str = ""
    model_low: str = ""
    given: tuple[str, ...] = field(default=(), compare=False)

    @property
    def parts(self) -> dict[str, str]:
        """Return the places of components that are named one by one."""
        return {name: value for name in PARTS if (value := getattr(self, name))}

    def over(self, other: LoadOptions) -> LoadOptions:
        """Return these options, with those of ``other`` where these are the defaults and were not named."""
        ours = {
            name: value
            for name, default in OPTIONS.items()
            if (value := getattr(self, name)) != default or name in self.given
        }
        return dataclasses.replace(other, **ours)


OPTIONS: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(LoadOptions) if f.name != "given"}
PARTS = ("vae", "text_encoder", "image_encoder", "tokenizer", "model_low")
DEFAULT = LoadOptions()
