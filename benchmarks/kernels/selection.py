"""The kernels of ours that one run is about: all, or those that its command line names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoetrope.kernels.select.proofs import DTYPES, MODULES

Kernel = tuple[str, str, str, int | None]  # operation, backend, dtype, head dimension: what one proof is about


@dataclass(frozen=True)
class Selection:
    """What a kernel must be; an empty field allows everything.

    Attributes:
        kernels: ``attention/gluon``. backends: ``gluon``. dtypes: ``bf16``.
    """

    kernels: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()

    def takes(self, op: str, backend: str, dtype: str | None = None) -> bool:
        """Tell whether a kernel is selected, in the given dtype or in any."""
        return (
            (not self.kernels or f"{op}/{backend}" in self.kernels)
            and (not self.backends or backend in self.backends)
            and (dtype is None or not self.dtypes or dtype in self.dtypes)
        )

    @property
    def all(self) -> bool:
        """Whether nothing is left out."""
        return self == Selection()

    def as_dict(self) -> dict[str, Any] | None:
        """Return plain lists for JSON; None for everything."""
        return None if self.all else {name: list(value) for name, value in asdict(self).items()}


KERNELS = tuple(sorted(f"{op}/{backend}" for op, backend in MODULES))
BACKENDS = tuple(sorted({backend for _, backend in MODULES}))
DTYPE_NAMES: Sequence[str] = tuple(DTYPES.values())
EVERYTHING = Selection()
