"""How a model is loaded: what the command line, the settings of a service and a model card say beside its name."""

from __future__ import annotations

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
    """

    family: str = ""
    quantize: Quantize = "none"
    lora: tuple[str, ...] = ()
    profile: str = ""
    offload: Offload = "auto"


DEFAULT = LoadOptions()
