"""Compiled kernels that an image carries, for Triton, whose own cache begins empty in every container.

    TRITON_CACHE_MANAGER=zoetrope.kernels.select.carried:CarriedCache
    ZOETROPE_CARRIED_KERNELS=FOLDER      a cache that was filled when the image was built; it is only read

What the folder lacks is compiled and kept in Triton's cache (TRITON_CACHE_DIR), as ever.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from triton.runtime.cache import FileCacheManager

VARIABLE = "ZOETROPE_CARRIED_KERNELS"
GROUP = "__grp__"  # Triton's list of an entry's files, with absolute paths


class CarriedCache(FileCacheManager):  # type: ignore[misc]  # triton has no types
    """Triton's cache of files, which falls back on a folder that is only read."""

    def get_file(self, filename: str) -> str | None:
        """Return the path of a file of this entry; None if there is none."""
        found: str | None = super().get_file(filename)
        return found or self._carried(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Return the paths of this entry's files by name; None if there is no such list."""
        found: dict[str, str] | None = super().get_group(filename)
        listing = None if found else self._carried(f"{GROUP}{filename}")
        if listing is None:
            return found
        names = json.loads(Path(listing).read_text())["child_paths"]
        there = {name: self._carried(name) for name in names}  # the folder may have been elsewhere when it was filled
        return {name: path for name, path in there.items() if path is not None}

    def _carried(self, filename: str) -> str | None:
        folder = os.environ.get(VARIABLE)
        path = Path(folder, self.key, filename) if folder else None
        return str(path) if path is not None and path.is_file() else None
