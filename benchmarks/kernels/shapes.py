"""The shapes to measure: those of the served models, and toys for a machine without a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """The shape of a model's layer.

    Attributes:
        groups: experts per token, one of each group of ``experts / groups``; 1 of 1 is a dense feed-forward.
        hidden: width of one expert.
        text: keys of cross-attention.
    """

    name: str
    heads: int
    head_dim: int
    experts: int
    groups: int
    hidden: int
    text: int = 512

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def active(self) -> int:
        """Return the width of the feed-forward that one token uses."""
        return self.groups * self.hidden


WAN_27B = ModelShape("27b", heads=24, head_dim=128, experts=80, groups=8, hidden=1792)
WAN_14B = ModelShape("14b", heads=40, head_dim=128, experts=1, groups=1, hidden=13824)
WAN_5B = ModelShape("5b", heads=24, head_dim=128, experts=1, groups=1, hidden=14336)
WAN_1B = ModelShape("1.3b", heads=12, head_dim=128, experts=1, groups=1, hidden=8960)
LINGBOT = ModelShape("lingbot", heads=16, head_dim=128, experts=128, groups=8, hidden=768)
TOY_MOE = ModelShape("toy-moe", heads=2, head_dim=32, experts=8, groups=2, hidden=48, text=16)
TOY_DENSE = ModelShape("toy-dense", heads=2, head_dim=32, experts=1, groups=1, hidden=96, text=16)

TOKENS = (8192, 32768, 75600)
LAYER_TOKENS = 32768


@dataclass(frozen=True)
class Scope:
    """The size of a run.

    Attributes:
        layer_tokens: token count of the whole layer.
        cube: side of the matrix product that gives the peak.
        copied: bytes of the copy that gives the bandwidth.
        cap: maximum seconds to time one contender.
    """

    models: tuple[ModelShape, ...]
    tokens: tuple[int, ...]
    layer_tokens: int
    cube: int
    copied: int
    cap: float


MODELS = {model.name: model for model in (WAN_27B, WAN_14B, WAN_5B, WAN_1B, LINGBOT)}
USUAL = ("27b", "14b")


def models_named(names: Iterable[str]) -> tuple[ModelShape, ...]:
    """Return the models with these names, which are in `MODELS`."""
    return tuple(MODELS[name] for name in names)


FULL = Scope(models_named(USUAL), TOKENS, LAYER_TOKENS, cube=8192, copied=1 << 31, cap=1.0)
TINY = Scope((TOY_MOE, TOY_DENSE), (48, 96), 64, cube=64, copied=1 << 16, cap=0.01)
