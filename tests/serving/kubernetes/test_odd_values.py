"""Whatever stands in a manifest, a check says what is wrong with it, or nothing; it never breaks itself."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from tests.serving.kubernetes.overlays import NAMES, tree_of
from zoetrope.serving.kubernetes.check import check

SEED, EACH = 21, 40
ODD: tuple[Any, ...] = (
    *(None, 0, -1, 3.5, True, 10**30, "", "x", "\n", "../../x", "9" * 5_000),
    *([], {}, [None], ["x"], {"a": None}, {"": ""}, [[[]]], [{}]),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every collection inside a value, with each of its keys or indices."""
    found = []
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *places(value[key])]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_odd_values_break_no_check(name: str) -> None:
    draw = random.Random(f"{SEED}/{name}")
    refused = 0
    for _ in range(EACH):
        tree = tree_of(name)
        collection, key = draw.choice(places(draw.choice(tree.manifests).data))
        if draw.random() < 0.2:
            del collection[key]
        else:
            collection[key] = copy.deepcopy(draw.choice(ODD))
        refused += bool(check(tree))
    assert refused > EACH / 2, "most of them are mistakes"
