"""The plan of the GPU day and what is carried there."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from zoetrope.benchmarks import provenance
from zoetrope.benchmarks.gpu_day import carried, compiled
from zoetrope.benchmarks.gpu_day.__main__ import BUDGET, at_full_size, environment, main
from zoetrope.benchmarks.gpu_day.proved import wanted
from zoetrope.benchmarks.gpu_day.sanitizer import CLEAN, summary
from zoetrope.benchmarks.gpu_day.stages import FAKE, KERNEL_PARTS, KERNELS, PLAN, PRESETS, due
from zoetrope.benchmarks.kernels.__main__ import parse
from zoetrope.benchmarks.kernels.correctness import SETS
from zoetrope.benchmarks.provenance import COMMIT, REPOSITORY
from zoetrope.kernels.select.backends import parse as parse_kernels
from zoetrope.kernels.select.proofs import MODULES, Proof, Speed
from zoetrope.model.families import all_presets

NAMES = [stage.name for stage in PLAN]
VALUABLE = (
    "cache",
    "correct-",
    "sanitizer",
    "time-attention",
    "time-grouped_gemm",
    "time-moe",
    "time-fp8",
    "time-layer",
)


def first(prefix: str) -> int:
    return next(index for index, name in enumerate(NAMES) if name.startswith(prefix))


def last(prefix: str) -> int:
    return len(NAMES) - 1 - next(index for index, name in enumerate(reversed(NAMES)) if name.startswith(prefix))


def test_what_is_worth_most_comes_first() -> None:
    order = [word for word in VALUABLE if any(name.startswith(word) for name in NAMES)]
    order += ["step-27b-480p", "step-a14b-480p", "step-5b", "decode", "nano-oracle", "one-rank", "served-step"]
    assert len(set(NAMES)) == len(NAMES)
    assert all(last(a) < first(b) for a, b in itertools.pairwise(order))
    assert {"step-27b-720p", "step-a14b-720p", "step-5b-720p"} <= set(NAMES)
    assert BUDGET < 9 * 60 and set(PRESETS.values()) <= set(all_presets())


def test_every_kernel_is_proved_by_itself_and_gluon_last() -> None:
    *others, last_one = (stage for stage in PLAN if stage.name.startswith("correct-"))
    assert last_one.name == "correct-attention-gluon"
    assert {stage.beside for stage in others} == {"correct"} and last_one.beside == "last"
    examined: dict[tuple[str, str], list[str]] = {}
    for _, op, backend, dtypes in KERNEL_PARTS:
        examined.setdefault((op, backend), []).extend(dtypes)
    assert set(examined) == set(MODULES)
    assert all(sorted(dtypes) in ([], ["bf16", "fp16", "fp32"]) for dtypes in examined.values())


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_commands_are_of_modules_that_there_are(name: str, dry_run: bool) -> None:
    stage = next(stage for stage in PLAN if stage.name == name)
    words = list(stage.arguments(dry_run))
    filled = [word.format(out="OUT", work="WORK") for word in words]
    assert all("OUT" in word or "{" not in word for word in filled)
    assert stage.files and stage.seconds <= 240 and stage.call in (1, 2)
    assert all(find_spec(word) for word in filled if word.startswith("zoetrope.") and word != FAKE)
    if KERNELS in filled:
        args = parse(filled[filled.index(KERNELS) + 1 :])
        assert len(args.only) < len(SETS) and str(args.out).startswith("OUT")
        assert args.limit < stage.seconds or args.correctness_only or dry_run
        assert args.tiny == dry_run


def test_a_call_takes_up_what_earlier_ones_left() -> None:
    assert due(PLAN, 1) == [stage for stage in PLAN if stage.call == 1]
    assert due(PLAN, 2) == due(PLAN) and [stage.call for stage in due(PLAN)] == sorted(stage.call for stage in PLAN)
    assert [stage.name for stage in due(PLAN, only=["decode", "cache"])] == ["cache", "decode"]
    with pytest.raises(ValueError, match="there is no stage 'deco'; there are cache, "):
        due(PLAN, only=["deco"])


def test_kernels_are_compiled_ahead_at_the_sizes_of_the_day() -> None:
    for stage in PLAN:
        if stage.fake:
            assert at_full_size(stage).arguments(dry_run=True) == (FAKE, *(stage.ahead or stage.command))
            assert "--tiny" not in stage.command


def proof(
    op: str,
    backend: str,
    dtype: str = "bf16",
    head_dim: int | None = None,
    error: float = 1e-3,
    ratios: Mapping[str, Sequence[float]] | None = None,
) -> Proof:
    speeds = [
        Speed(of, f"class {i}", ratio, "torch", ("torch",), 1.0, "a GPU", "d")
        for of, values in (ratios or {}).items()
        for i, ratio in enumerate(values)
    ]
    made = Proof(op, backend, dtype, head_dim, "9.0", "a GPU", "3.6.0", "2.11.0", error, 1e-2, 9, "f", "d")
    return replace(made, speeds=tuple(speeds))


def test_steps_ask_for_the_kernels_that_were_right() -> None:
    assert wanted([]) == ""
    found = [
        proof("attention", "triton", head_dim=128),
        proof("attention", "gluon", head_dim=64),
        proof("attention", "int8", head_dim=128),
        proof("grouped_gemm", "triton"),
        proof("grouped_gemm_fp8", "triton", "fp8"),
        proof("quantise_fp8", "triton"),
        proof("routing", "triton", "fp32"),
        proof("combine", "triton", "fp16"),
        proof("residual_norm", "triton", error=float("nan")),
    ]
    asked = parse_kernels(wanted(found))
    eight_bit = {"grouped_gemm_fp8": "triton", "quantise_fp8": "triton"}
    assert asked == {"attention": "triton", "grouped_gemm": "triton", "routing": "triton", **eight_bit}
    assert parse_kernels(wanted([*found, proof("attention", "gluon", head_dim=128)]))["attention"] == "gluon"


def test_steps_leave_out_kernels_that_were_measured_slower() -> None:
    slow, fast = [0.5, 0.9, 1.2], [0.9, 1.2, 1.3]
    found = [
        proof("attention", "gluon", head_dim=128, ratios={"attention": slow}),
        proof("attention", "triton", head_dim=128, ratios={"attention": fast}),
        proof("combine", "triton", ratios={"combine": slow}),
        proof("grouped_gemm", "triton", ratios={"grouped_gemm": slow, "linear_gelu": fast}),
    ]
    assert parse_kernels(wanted(found)) == {"attention": "triton", "linear_gelu": "triton"}


def test_what_compute_sanitizer_says() -> None:
    said = "x\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert summary(said) == "0 hazards displayed (0 errors, 0 warnings)" and CLEAN.match(summary(said) or "")
    bad = summary("========= ERROR SUMMARY: 12 errors\n")
    assert bad == "12 errors" and not CLEAN.match(bad)
    assert summary("Error: Device not supported") is None


def test_carried_packages_have_the_versions_of_the_tests() -> None:
    pins = dict(
        line.split("==") for line in (REPOSITORY / "constraints-cpu.txt").read_text().lower().split() if "==" in line
    )
    listed = carried.packages()
    assert carried.groups()[0] == "base" and {"pydantic", "pydantic-core"} <= {one.name for one in listed}
    assert {one.name: one.version for one in listed if one.name in pins} == {
        one.name: pins[one.name] for one in listed if one.name in pins
    }
    pydantic = next(one for one in listed if one.name == "pydantic")
    assert pydantic.there and replace(pydantic, version="2.0b1").there
    assert not replace(pydantic, version="1000.0.1").there
    assert not carried.CarriedPackage("no-such-package", "1", "base").there


@pytest.mark.parametrize("text", ["# base: x\npydantic", "pydantic==2"])
def test_a_bad_list_of_packages_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"packages.txt:\d: .* must be name==version under a heading"):
        carried.packages(text)


def test_the_commit_is_named_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT, raising=False)
    monkeypatch.setattr(provenance, "output_of", lambda *command: None)
    assert carried.commit(tmp_path) is None
    (tmp_path / carried.CARRIED_COMMIT).write_text("abc-dirty\n")
    assert carried.commit(tmp_path) == "abc-dirty"
    monkeypatch.setenv(COMMIT, "def-dirty")
    assert carried.commit(tmp_path) == "def-dirty"
    assert environment(tmp_path, tmp_path, "abc")[COMMIT] == "abc"


def test_compiled_kernels_move_to_another_path(tmp_path: Path) -> None:
    made, moved = tmp_path / "made", tmp_path / "moved"
    entry = made / "KEY"
    entry.mkdir(parents=True)
    for name in ("k.cubin", "k.ptx", "k.ttir", "k.json"):
        (entry / name).write_text("{}")
    paths = {name: str(entry / name) for name in ("k.cubin", "k.json")}
    (entry / "__grp__k.json").write_text(json.dumps({"child_paths": paths}))
    (made / "launcher").mkdir()
    assert compiled.pack(made, tmp_path / "kernels.tar.gz", {"triton_key": "x"}) == 1
    assert compiled.unpack(tmp_path / "kernels.tar.gz", moved) == 1
    assert sorted(path.name for path in (moved / "KEY").iterdir()) == ["__grp__k.json", "k.cubin", "k.json"]
    children = json.loads((moved / "KEY" / "__grp__k.json").read_text())["child_paths"]
    assert children == {name: str(moved / "KEY" / name) for name in paths}
    assert compiled.manifest(moved) == {"triton_key": "x", "kernels": 1} and compiled.manifest(made) is None
    with pytest.raises(ValueError, match="no compiled kernel"):
        compiled.pack(tmp_path / "moved" / "KEY", tmp_path / "empty.tar.gz", {})
    (tmp_path / "bad").write_text("x")
    with pytest.raises(ValueError, match="no archive of compiled kernels"):
        compiled.unpack(tmp_path / "bad", moved)


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zoetrope.benchmarks.gpu_day.__main__.output_of", lambda *command: None)
    assert main(["run", "--out", str(tmp_path), "--work", str(tmp_path / "work")]) == 2
    assert "--dry-run enters every stage without one" in capsys.readouterr().err
    assert main(["run", "--dry-run", "--only", "deco"]) == 2 and "no stage 'deco'" in capsys.readouterr().err


def test_folders_and_numbers_are_checked_before_the_first_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for words, said in (
        (["--out", f"{tmp_path}/file/out"], "--out: .*/file/out cannot be written to: Not a directory"),
        (["--work", f"{tmp_path}/file"], "--work: .*/file cannot be written to: File exists"),
        (["--carry", f"{tmp_path}/absent"], "--carry: .*/absent is not a folder; .* prepare --carry FOLDER"),
    ):
        places = ["--out", f"{tmp_path}/out", "--work", f"{tmp_path}/work"]
        assert main(["run", "--dry-run", *places, *words]) == 2
        assert re.search(said, capsys.readouterr().err)
    for option, value in (("--budget", "nan"), ("--budget", "0"), ("--jobs", "0"), ("--jobs", "2.5")):
        with pytest.raises(SystemExit):
            main(["run", "--dry-run", option, value])
        assert f"argument {option}: " in capsys.readouterr().err
    assert not (tmp_path / "work").exists(), "no stage has begun"


def test_the_plan_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--call", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(due(PLAN, 1)) and lines[0].split()[:2] == ["1", "cache"]
