"""Options that say how a model is loaded, shared by every command that loads or plans one."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from zoetrope.model.request.load_options import OPTIONS, LoadOptions
from zoetrope.serving.cli.options import FamilyOption, QuantizeOption, option

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
REGISTERED = re.compile(rf"(?P<name>[^:@]+)(?::(?P<strength>{_NUMBER}))?(?:@(?P<side>high|low|both))?")


@dataclass(frozen=True)
class ModelLoadOptions:
    """How a model is loaded; each option takes the place of its ZOETROPE_* variable."""

    family: FamilyOption = None
    quantize: QuantizeOption = None
    lora: Annotated[
        Sequence[str],
        option(
            "FILE[:STRENGTH][@SIDE]",
            "LoRA to fuse into the model, or with --server the name of a registered one; SIDE is high, low or both, for"
            " models with two noise experts; repeatable.",
            "none",
        ),
    ] = ()
    profile: Annotated[str | None, option("NAME", "Sampling profile of a few-step model.", "the model's own")] = None
    offload: Annotated[
        str | None,
        option(
            "WHEN",
            "When to keep weights in the host's memory and stream them to the GPU: auto (if they do not fit), never or"
            " always.",
            "auto",
        ),
    ] = None
    vae: Annotated[
        str | None, option("FILE", "Autoencoder, where the model is a single file; or a folder that has one.", "none")
    ] = None
    text_encoder: Annotated[
        str | None, option("FILE", "UMT5 encoder, where the model is a single file; or a folder that has one.", "none")
    ] = None
    image_encoder: Annotated[
        str | None, option("FILE", "CLIP, where the model is a single file and needs it; or a folder.", "none")
    ] = None
    tokenizer: Annotated[
        str | None, option("DIR", "Folder of UMT5's tokenizer, where the text encoder's file has none.", "none")
    ] = None
    model_low: Annotated[
        str | None, option("FILE", "Low-noise expert, where --model is the file of the high-noise one.", "none")
    ] = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by their names."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: tuple(v) if name == "lora" else v for name, v in values.items() if v is not None and v != ()}

    def resolved(self) -> LoadOptions:
        """Return how to load: as given, else as the environment says.

        Raises:
            CliError: a value is none of those that its option takes.
        """
        from zoetrope.serving.cli.errors import bad_input
        from zoetrope.serving.config.lists import split_list  # a client by itself has no settings

        hints, given, values, named = get_type_hints(LoadOptions), self.given(), {}, []
        for name, default in OPTIONS.items():
            variable = _variable(name)
            value: Any = given[name] if name in given else os.environ.get(variable) or default
            if name in given or os.environ.get(variable):
                named.append(name)
            if name == "lora":
                value = split_list(value)
            allowed = get_args(hints[name])
            if name != "lora" and allowed and value not in allowed:
                option = name if name in given else variable
                raise bad_input(option, f"{value!r} must be {', '.join(allowed[:-1])} or {allowed[-1]}")
            values[name] = value
        return LoadOptions(**values, given=tuple(named))


NONE_GIVEN = ModelLoadOptions()


def registered(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return adapters of a service as a request names them, of ``NAME[:STRENGTH][@SIDE]`` each.

    Raises:
        CliError: one has another form.
    """
    from zoetrope.serving.cli.errors import bad_input

    found = []
    for text in texts:
        match = REGISTERED.fullmatch(text)
        if match is None:
            raise bad_input(
                "lora", f"{text!r} must be NAME, NAME:STRENGTH or NAME:STRENGTH@SIDE, SIDE high, low or both"
            )
        strength = float(match["strength"] or 1.0)
        lora: dict[str, Any] = {"name": match["name"], "strength": 0.0 if match["side"] == "low" else strength}
        if match["side"] in ("high", "low"):
            lora["strength_low"] = strength if match["side"] == "low" else 0.0
        found.append(lora)
    return found


def arguments_of(load: LoadOptions) -> list[str]:
    """Return the options of a command line that loads so, whatever the environment says; a model card may say what is
    left open."""
    words: list[str] = []
    for name, default in OPTIONS.items():
        value = getattr(load, name)
        if value != default or (value and (name in load.given or os.environ.get(_variable(name)))):
            option = f"--{name.replace('_', '-')}"
            words += [word for one in (value if name == "lora" else (value,)) for word in (option, one)]
    return words


def _variable(name: str) -> str:
    return f"ZOETROPE_{name.upper()}"
