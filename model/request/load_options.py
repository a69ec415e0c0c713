"""How a model is loaded: what the command line, the settings of a service and a model card say beside its name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

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

    @property
    def parts(self) -> dict[str, str]:
        """Return the places of components that are named one by one."""
        return {name: value for name in PARTS if (value := getattr(self, name))}

    def over(self, other: LoadOptions) -> LoadOptions:
        """Return these options, with those of ``other`` where these are the defaults."""
        fields = dataclasses.fields(self)
        ours = {f.name: value for f in fields if (value := getattr(self, f.name)) != f.default}
        return dataclasses.replace(other, **ours)


PARTS = ("vae", "text_encoder", "image_encoder", "tokenizer", "model_low")
DEFAULT = LoadOptions()
