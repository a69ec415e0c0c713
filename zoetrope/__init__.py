"""Serves the Wan family of video models on your own GPUs.

The floors `kernels`, `model`, `cluster` and `serving` stand at the top of the repository; here they are linked into one
package. Importing it loads none of them: the names below come when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoetrope.serving.client import AsyncVideoClient, VideoClient

__version__ = "0.1.0"
__all__ = ["AsyncVideoClient", "VideoClient", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncVideoClient", "VideoClient"):
        return getattr(importlib.import_module("zoetrope.serving.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
