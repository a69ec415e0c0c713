"""Find matrix instructions that may read shared memory before the copies into it are visible to them.

wgmma reads shared memory through the asynchronous proxy. The TMA writes through the same one, but cp.async, like a
store, goes through the generic proxy, and the PTX memory model orders the two only by ``fence.proxy.async`` between the
wait for the copies and the product. It often works without; nothing promises that it does.
"""

from __future__ import annotations

import re

_COPY = re.compile(r"\bcp\.async\.(?:ca|cg)\.shared\S* .*, (?:0x10|16)\b")
_WAIT = re.compile(r"\bcp\.async\.wait_(?:group|all)\b")
_FENCE = re.compile(r"\bfence\.proxy\.async\b")
_PRODUCT = re.compile(r"\bwgmma\.mma_async\b")
_LABEL = re.compile(r"^\s*(\$\w+):")
_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$\w+)")


def unfenced(ptx: str) -> list[int]:
    """Return the lines, from 1, of products that follow awaited copies of 16 bytes without a proxy fence between.

    The code is walked in its order, and each loop once more from its end. Smaller copies are left out: a scalar that
    Triton fetches ahead goes to registers, not to the matrix units.
    """
    lines = ptx.splitlines()
    labels = {found.group(1): i for i, line in enumerate(lines) if (found := _LABEL.match(line))}
    wrong: set[int] = set()
    taken: set[int] = set()
    sent = arrived = False
    i = 0
    while i < len(lines):
        line = lines[i]
        if _COPY.search(line):
            sent = True
        elif _WAIT.search(line):
            arrived |= sent
        elif _FENCE.search(line):
            arrived = False
        elif _PRODUCT.search(line) and arrived:
            wrong.add(i + 1)
        branch = _BRANCH.search(line)
        back = labels.get(branch.group(1), i) if branch else i
        if back < i and i not in taken:
            taken.add(i)
            i = back
        else:
            i += 1
    return sorted(wrong)
