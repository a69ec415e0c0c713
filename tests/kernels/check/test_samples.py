"""Kernels made to break the rules are named with their rule, and every way to break real machine code is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from tests.kernels.check.programs import run
from zoetrope.kernels.check.operand_buffers import allocate, copied_operands, operands_end
from zoetrope.kernels.check.sass import SassCode
from zoetrope.kernels.check.screens import missing_barriers, missing_fences, overwritten_operands

THREADS = 256  # of the listing's block: two warpgroups

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `sample_variants` writes."""
    folder = tmp_path_factory.mktemp("samples")
    run("sample_variants", str(folder), "2", cache=folder / "cache")
    return folder


@pytest.fixture(scope="module")
def answer(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return found


@pytest.fixture(scope="module")
def listing(folder: Path) -> list[str]:
    """The machine code of two chained products of two warpgroups (`sample_variants.chained`)."""
    return (folder / "chained.sass").read_text().splitlines()


@pytest.fixture(scope="module")
def ttgir(folder: Path) -> str:
    return (folder / "chained.ttgir").read_text()


def code_of(listing: list[str]) -> SassCode:
    return SassCode.parse("\n".join(listing))


def lines_with(listing: list[str], name: str) -> list[int]:
    """The lines of the listing whose instruction has a name that begins so."""
    return [number for number, line in enumerate(listing) if f" {name}" in line.partition("*/")[2]]


def without(listing: list[str], *numbers: int) -> list[str]:
    return [line for number, line in enumerate(listing) if number not in numbers]


def test_broken_kernels_are_named_with_their_rule(answer: dict[str, Any]) -> None:
    broken, figures, failures = answer["broken"], answer["figures"], answer["failures"]
    assert broken["good"] == []
    assert figures["good"]["wgmma"] > 0 and figures["good"]["threads"] == 128
    assert figures["good"]["shared"] == (64 * 64 * 2) * 2  # two bf16 tiles
    assert figures["unfenced"]["shared"] == 3 * figures["good"]["shared"]  # in three stages
    assert any("missing fences: 4 places" in rule for rule in broken["unfenced"])
    assert any("HGMMA" in rule and "proxy fence" in rule for rule in broken["unfenced"])
    assert any("spills" in rule for rule in broken["spills"]) and any("stack" in rule for rule in broken["spills"])
    assert figures["spills"]["spill_stores"] > 0 and figures["spills"]["spill_loads"] > 0
    assert any("shared memory" in rule and "232448" in rule for rule in broken["shared"])
    assert any("no wgmma" in rule for rule in broken["few-rows"])
    assert figures["tma"]["tma"] == 2 and any("no setmaxnreg" in rule for rule in broken["tma"])
    assert "unknown_name" in failures["wrong"]
    assert "ended with code -6" in failures["dies"]
    assert "signature" in failures["signature"]


def test_the_listing_is_what_the_screens_are_about(listing: list[str], ttgir: str) -> None:
    products = [listing[number] for number in lines_with(listing, "HGMMA")]
    assert sum(", gdesc" in line and line.count("gdesc") == 1 for line in products) == len(products) == 8
    assert len(copied_operands(ttgir)) == 2  # keys and values come by cp.async
    assert operands_end(allocate(ttgir)) == 2 * 3 * (64 * 64 * 2) + 128 * 64 * 2  # and the queries


def test_real_code_has_neither_overwritten_operands_nor_missing_barriers(listing: list[str], ttgir: str) -> None:
    code = code_of(listing)
    assert overwritten_operands(code) == []
    assert missing_barriers(code, THREADS) == []
    assert missing_barriers(code, THREADS, operands_end(allocate(ttgir))) == []


def test_each_wait_for_a_product_is_needed(listing: list[str]) -> None:
    waits = lines_with(listing, "WARPGROUP.DEPBAR")
    assert len(waits) == 2
    for wait in waits:
        found = overwritten_operands(code_of(without(listing, wait)))
        assert found, listing[wait]
        assert all("before the wait" in hazard for hazard in found)


def test_a_wait_that_leaves_the_group_pending_is_none(listing: list[str]) -> None:
    first = lines_with(listing, "WARPGROUP.DEPBAR")[0]
    weaker = [*listing]
    weaker[first] = weaker[first].replace("gsb0, 0x0", "gsb0, 0x1")
    assert any("accumulator" in hazard for hazard in overwritten_operands(code_of(weaker)))


def test_a_write_to_an_operand_moved_before_the_wait_is_found(listing: list[str]) -> None:
    """The defect of triton pull request 11781: the next weights are packed while the product reads the last ones."""
    code = code_of(listing)
    product = next(i for i in code.instructions if i.begins("HGMMA") and i.operands[1].startswith("R"))
    register = int(product.operands[1][1:])
    last = max(number for number in lines_with(listing, "HGMMA") if "gsb0" in listing[number])
    packed = next(i for i in code.instructions if i.begins("F2FP") and register in i.written)
    number = next(number for number, line in enumerate(listing) if f"/*{packed.address:04x}*/" in line)
    moved = [*listing[: last + 1], listing[number], *listing[last + 1 :]]
    found = overwritten_operands(code_of(moved))
    assert len(found) == 1
    assert f"writes R{register}, an operand of {product}" in found[0]


def test_each_barrier_after_a_wait_is_needed(listing: list[str]) -> None:
    barriers = lines_with(listing, "BAR.SYNC")
    needed = [number for number in barriers if missing_barriers(code_of(without(listing, number)), THREADS)]
    waits = lines_with(listing, "WARPGROUP.DEPBAR")
    after = [min(number for number in barriers if number > wait) for wait in waits]
    assert needed == after  # the others order what wgmma does not read
    found = missing_barriers(code_of(without(listing, *after)), THREADS)
    assert any("LDGSTS" in hazard for hazard in found)
    assert any("STS" in hazard for hazard in found)


def test_a_barrier_of_one_warpgroup_does_not_order_two(listing: list[str]) -> None:
    partial = [line.replace("BAR.SYNC.DEFER_BLOCKING 0x0", "BAR.SYNC.DEFER_BLOCKING 0x1, 0x80") for line in listing]
    assert missing_barriers(code_of(partial), THREADS)
    guarded = [line.replace("BAR.SYNC", "@P0 BAR.SYNC") for line in listing]
    assert missing_barriers(code_of(guarded), THREADS)


def test_one_warpgroup_needs_no_barrier(listing: list[str]) -> None:
    bare = code_of(without(listing, *lines_with(listing, "BAR.SYNC")))
    assert missing_barriers(bare, 128) == []
    assert missing_barriers(bare, 256)


def test_writes_past_the_operands_need_no_barrier(listing: list[str]) -> None:
    bare = without(listing, *lines_with(listing, "BAR.SYNC"))
    assert missing_barriers(code_of(bare), THREADS, operands_end=0) == []


def test_copies_need_a_fence_between_their_wait_and_the_product(listing: list[str]) -> None:
    """Triton puts none there (for the factor that it stores itself, it puts one before the loop)."""
    found = missing_fences(code_of(listing))
    assert len(found) == 8
    assert all("fence.proxy.async" in hazard for hazard in found)
    (fence,) = lines_with(listing, "FENCE.VIEW.ASYNC")
    wait, _ = lines_with(listing, "DEPBAR.LE")
    fenced = [*listing[: wait + 1], listing[fence], *listing[wait + 1 :]]
    assert missing_fences(code_of(fenced)) == []
    early = [*listing[:wait], listing[fence], *listing[wait:]]
    assert missing_fences(code_of(early)) == found
