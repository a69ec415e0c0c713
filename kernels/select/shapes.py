"""Classes of shapes: within one, an implementation that is faster at one size is taken to be faster at all.

Rows are counted in powers of four, widths are exact. A speed is measured at one size of a class and decides for the
class (`kernels.select.backends`); the names of classes are in ``data/proofs.json``.
"""

from __future__ import annotations

from zoetrope.kernels.types.varlen import CuSeqlens

BANDS = {1 << 6: "64", 1 << 8: "256", 1 << 10: "1k", 1 << 12: "4k", 1 << 14: "16k", 1 << 16: "64k", 1 << 18: "256k"}


def band(rows: int) -> str:
    """Return the smallest power of four that is at least ``rows``, from 64: ``64k`` for 32,760 rows."""
    return next((name for most, name in BANDS.items() if rows <= most), "over 256k")


def rows_class(rows: int, width: int) -> str:
    """Return the class of a pass over ``[rows, width]``."""
    return f"{band(rows)} rows of {width}"


def product_class(rows: int, groups: int, k: int, n: int) -> str:
    """Return the class of ``groups`` products ``[rows of a group, k] x [k, n]``, with ``rows`` in all groups."""
    each = f"{band(-(-rows // groups))} rows"
    return f"{k} to {n}, {each}" if groups == 1 else f"{k} to {n}, {each} each"


def attention_class(cu_q: CuSeqlens, cu_k: CuSeqlens) -> str:
    """Return the class of an attention: all its queries, and the keys that one of them sees on average."""
    return f"{band(cu_q.total)} on {band(-(-cu_k.total // max(1, len(cu_k.lengths))))}"
