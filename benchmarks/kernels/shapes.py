"""The shapes that are measured: those of the models served, and toys for a machine without a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """What a layer's operations look like.

    Attributes:
        groups: experts that a token goes to, one of each group of ``experts / groups``; 1 of 1 is a dense feed-forward.
        hidden: width of one expert. text: keys of cross-attention.
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
        """Width of the feed-forward that a token sees."""
        return self.groups * self.hidden


WAN_27B = Model("27b", heads=24, head_dim=128, experts=80, groups=8, hidden=1792)
WAN_14B = Model("14b", heads=40, head_dim=128, experts=1, groups=1, hidden=13824)
TOY_MOE = Model("toy-moe", heads=2, head_dim=32, experts=8, groups=2, hidden=48, text=16)
TOY_DENSE = Model("toy-dense", heads=2, head_dim=32, experts=1, groups=1, hidden=96, text=16)

TOKENS = (8192, 32768, 75600)
LAYER_TOKENS = 32768


@dataclass(frozen=True)
class Scope:
    """How large a run is.

    Attributes:
        cube: side of the matrix product that gives the peak. copied: bytes of the copy that gives the bandwidth.
        layer_tokens: tokens of the whole layer. cap: the most seconds that one contender is timed for.
    """

    models: tuple[Model, ...]
    tokens: tuple[int, ...]
    layer_tokens: int
    cube: int
    copied: int
    cap: float


FULL = Scope((WAN_27B, WAN_14B), TOKENS, LAYER_TOKENS, cube=8192, copied=1 << 31, cap=1.0)
TINY = Scope((TOY_MOE, TOY_DENSE), (48, 96), 64, cube=64, copied=1 << 16, cap=0.01)
