"""The modules of a network that an adapter can change, by the names that files have for them. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.key_map import original_transformer_name
from zoetrope.model.families.network_shapes import Shapes, transformer_shapes

Naming = Literal["original", "diffusers"]

LEAVES = (".weight", ".bias")
STACKS = re.compile(r"\.ffn\.(gate\.weight|correction|w1|w2|b1|b2)$")
# Modules of the image branch, by either name.
IMAGE = re.compile(
    r"(^|[._])(k_img|v_img|norm_k_img|img_emb|add_[kv]_proj|norm_added_k|image_embedder)([._]|$)", re.IGNORECASE
)
_MARKS: dict[Naming, re.Pattern[str]] = {
    "original": re.compile(r"(^|[._])(self_attn|cross_attn)([._]|$)"),
    "diffusers": re.compile(r"(^|[._])(attn1|attn2)([._]|$)"),
}


@dataclass(frozen=True)
class Targets:
    """The tensors of a network that an adapter can change: of one with experts made from a dense one, those of the
    dense one."""

    config: TransformerConfig

    @cached_property
    def shapes(self) -> Shapes:
        config = self.config
        if config.moe is not None and sliced(config):
            return transformer_shapes(config.model_copy(update={"moe": None}))
        return {name: shape for name, shape in transformer_shapes(config).items() if not STACKS.search(name)}

    def place(self, module: str, naming: Naming, underscored: bool) -> str | None:
        """Return the network's own name of a module of a file; None if it has no such module."""
        return self._modules[naming, underscored].get(module)

    @cached_property
    def _modules(self) -> dict[tuple[Naming, bool], Mapping[str, str]]:
        ours = dict.fromkeys(_modules(self.shapes))
        tables: dict[tuple[Naming, bool], Mapping[str, str]] = {}
        for naming in _MARKS:
            named = {original_transformer_name(name) if naming == "original" else name: name for name in ours}
            # The modulation of a block, and of the head, goes by the name of what it modulates.
            for name in ours:
                if name.endswith("scale_shift_table"):
                    owner = name.removesuffix("scale_shift_table").removesuffix(".")
                    named.setdefault(owner or ("head" if naming == "original" else ""), name)
            tables[naming, False] = named
            tables[naming, True] = {name.replace(".", "_"): own for name, own in named.items()}
        return tables


def sliced(config: TransformerConfig) -> bool:
    """Tell whether the experts are slices of a dense feed-forward layer, one of every slice taken with weight 1, so
    that a change to that layer has a place in them (`model.checkpoints.upcycle`)."""
    moe = config.moe
    return (
        moe is not None
        and moe.router == "grouped_top1"
        and moe.groups * moe.expert_dim == config.ffn_dim
        and moe.expert_bias
        and not moe.shared_dim
    )


def namings_of(modules: Iterable[str]) -> list[Naming]:
    """Return the ways of naming that a file's modules show; none if they have no attention layers."""
    found = {naming for module in modules for naming, mark in _MARKS.items() if mark.search(module)}
    return sorted(found)


def _modules(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        yield next((name.removesuffix(leaf) for leaf in LEAVES if name.endswith(leaf)), name)
