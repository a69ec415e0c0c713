"""Have a process find nothing but what a machine lent with a GPU has: torch, triton, numpy and what they need."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

ABSENT = frozenset(
    [
        "annotated_types",
        "av",
        "diffusers",
        "fastapi",
        "google",
        "grpc",
        "httpx",
        "matplotlib",
        "obstore",
        "PIL",
        "psutil",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "ray",
        "safetensors",
        "scipy",
        "starlette",
        "tokenizers",
        "transformers",
        "typer",
        "uvicorn",
    ]
)


class Nothing(MetaPathFinder):
    """Refuses to find the packages of `ABSENT`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}, as on a bare machine", name=name)


def take_away() -> None:
    """Take the packages away from now on."""
    sys.meta_path.insert(0, Nothing())
