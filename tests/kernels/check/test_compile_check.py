"""The ahead-of-time check: every kernel keeps the rules, the table is current, and broken kernels are caught."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoetrope.kernels.check.compile_check import TABLE, all_variants, main, one_of_each_kernel
from zoetrope.kernels.check.compile_table import COLUMNS, CompileTable, Figures, broken_rules, differences

REPOSITORY = Path(__file__).parents[3]
GOOD = Figures(200, 1000, 0, 0, 0, 4, 2, 1, 128)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a python without the interpreter of Triton that this process may have on."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, env=env, capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sample", [["--sample"], []], ids=["sample", "all"])
def test_variants_keep_the_rules_and_the_table_is_current(sample: list[str]) -> None:
    """By default one of each kernel is compiled; the fingerprint of the sources vouches for the others' figures."""
    pytest.importorskip("triton")
    result = run("-m", "zoetrope.kernels.check.compile_check", "--check", *sample)
    assert result.returncode == 0, result.stderr[-6000:]
    print(result.stdout.splitlines()[-1])


def test_the_sample_has_every_kernel_and_rule() -> None:
    pytest.importorskip("triton")
    variants = all_variants()
    sample = one_of_each_kernel(variants)
    assert {variant.kernel for variant in sample} == {variant.kernel for variant in variants}
    for rule in ("gluon", "wgmma", "tma", "setmaxnreg"):
        held = [{variant.kernel for variant in some if getattr(variant, rule)} for some in (sample, variants)]
        assert held[0] == held[1] != set()
    assert len(sample) == len(set(sample_names := [variant.name for variant in sample])) < len(variants) / 4
    assert set(sample_names) <= {variant.name for variant in variants}


def test_the_committed_table_keeps_the_rules() -> None:
    pytest.importorskip("triton")
    rows = CompileTable.read(TABLE).rows
    for variant in all_variants():
        assert broken_rules(rows[variant.name], variant.wgmma, variant.tma, variant.setmaxnreg) == [], variant.name


def test_it_refuses_to_run_in_the_interpreter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main([]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err


@pytest.mark.parametrize("part", [["--only", "attention"], ["--sample"]], ids=["only", "sample"])
def test_a_partial_table_cannot_be_written(part: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*part, "--out", "table.md"])
    assert end.value.code == 2 and part[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, word",
    [
        ({"spill_loads": 4}, "spills"),
        ({"stack": 8}, "stack"),
        ({"shared": 232449}, "shared memory"),
        ({"registers": 256, "threads": 32}, "255"),
        ({"registers": 200, "threads": 384}, "65536"),
        ({"wgmma": 0}, "wgmma"),
        ({"serialised": 1}, "serialised"),
        ({"tma": 0}, "TMA"),
        ({"setmaxnreg": 0}, "setmaxnreg"),
        ({"overwritten": 1}, "overwritten"),
        ({"missing_barriers": 2}, "missing barriers"),
        ({"missing_fences": 3}, "missing fences"),
    ],
)
def test_each_rule(change: dict[str, Any], word: str) -> None:
    assert broken_rules(GOOD, True, True, True) == []
    rules = broken_rules(replace(GOOD, **change), True, True, True)
    assert len(rules) == 1 and word in rules[0]


def test_code_that_need_not_have_an_instruction_may_lack_it() -> None:
    assert broken_rules(replace(GOOD, wgmma=0, tma=0, setmaxnreg=0)) == []


def test_the_table_reads_what_it_wrote() -> None:
    table = CompileTable("3.6.0", "12.8", "abc", {"b/x": GOOD, "a/y": replace(GOOD, registers=9)})
    text = table.markdown("the command")
    assert CompileTable.parse(text) == table and "the command" in text
    assert text.index("a/y") < text.index("b/x")
    assert CompileTable.read(Path("no such file")) == CompileTable("", "", "")


def test_staleness_names_the_variant_and_the_figure() -> None:
    table = CompileTable("3.6.0", "12.8", "abc", {"a": GOOD, "b": GOOD})
    assert differences(table, table) == ([], None)
    for column in COLUMNS:
        figures: dict[str, Any] = {column: 77}
        other = CompileTable("3.6.0", "12.8", "abc", {"a": GOOD, "b": replace(GOOD, **figures)})
        stale, skipped = differences(table, other)
        assert skipped is None and len(stale) == 1
        assert stale[0].startswith("b: ") and stale[0].endswith("is 77")
    stale, _ = differences(table, CompileTable("3.6.0", "12.8", "other", {"a": GOOD, "c": GOOD}))
    assert stale == [
        "c is not in the table",
        "b is in the table but no longer compiled",
        "the sources have changed since the table was written",
    ]
    sample = CompileTable("3.6.0", "12.8", "abc", {"a": GOOD})
    assert differences(table, sample, prefix="a") == ([], None)
    assert differences(table, sample, listed=["a", "b"]) == ([], None)
    assert differences(table, sample, listed=["a", "c"])[0] == [
        "c is not in the table",
        "b is in the table but no longer compiled",
    ]


def test_figures_of_another_compiler_are_not_compared() -> None:
    table = CompileTable("3.6.0", "12.8", "abc", {"a": GOOD})
    other = CompileTable("3.7.1", "12.9", "abc", {"a": replace(GOOD, registers=9)})
    stale, skipped = differences(table, other)
    assert stale == [] and skipped is not None and "3.7.1" in skipped
    stale, _ = differences(table, CompileTable("3.7.1", "12.9", "changed", {"a": GOOD}))
    assert stale == ["the sources have changed since the table was written"]
