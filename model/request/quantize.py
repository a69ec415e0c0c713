"""The forms in which a network's weights can be held."""

from __future__ import annotations

from typing import Literal

Quantize = Literal["none", "fp8"]
