"""The kernel benchmark from end to end at toy sizes, what it refuses, and that it notices a wrong kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zoetrope.benchmarks.kernels import correctness, section_choice, tune
from zoetrope.benchmarks.kernels.__main__ import main, parse
from zoetrope.benchmarks.kernels.cases import KernelCase, KernelInputs, case, worst_error
from zoetrope.benchmarks.kernels.cases_gemm import tile_cases
from zoetrope.benchmarks.kernels.contenders import ContenderRow, ContenderWork, race
from zoetrope.benchmarks.kernels.correctness import SETS, cases_of, examine, needed_by, proofs_of, wrong_kernels
from zoetrope.benchmarks.kernels.results import NOTICE
from zoetrope.benchmarks.kernels.run import BenchmarkRun
from zoetrope.benchmarks.kernels.section import Bench
from zoetrope.benchmarks.kernels.section_layer import layer_flops
from zoetrope.benchmarks.kernels.sections import SECTIONS
from zoetrope.benchmarks.kernels.selection import Selection
from zoetrope.benchmarks.kernels.shapes import TINY, WAN_14B, WAN_27B
from zoetrope.kernels.gpu import tiles
from zoetrope.kernels.gpu.tiles import RowTile
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import BACKENDS, choose
from zoetrope.kernels.select.proofs import MODULES

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")


@pytest.fixture(autouse=True)
def references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The references in place of the kernels, which the interpreter would take minutes for."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_a_tiny_run_writes_results_and_neither_proofs_nor_tiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    arguments = ["--tiny", "--device", "cpu", "--tokens", "48", "--out", str(tmp_path), "--data", str(data)]
    assert main([*arguments, "--seed", "7"]) == 0
    output = capsys.readouterr().out
    assert NOTICE in output and "all done" in output
    assert not data.exists()
    stored = json.loads((tmp_path / "cpu-smoke-test.json").read_text())
    assert stored["notice"] == NOTICE
    assert {row["section"] for row in stored["rows"]} == {"bounds", *SECTIONS}
    assert all(entry["right"] for entry in stored["correctness"])
    assert stored["verdicts"] and all(verdict["measured"] is None for verdict in stored["verdicts"])
    (run,) = stored["runs"].values()
    assert run["seed"] == 7 and run["command"].startswith("python -m zoetrope.benchmarks.kernels --tiny")
    rows = {(row["section"], row["name"]): row for row in stored["rows"]}
    assert rows["moe", "triton"]["seconds"] > 0
    assert rows["moe", "torch grouped_mm + permutes"]["difference"] < 1e-5
    assert rows["layer", "diffusers"]["difference"] < 1e-5  # of the dense layer, the last: the same weights
    assert "FlexAttention" in {row["name"] for row in stored["rows"] if row["absent"]}
    page = (tmp_path / "cpu-smoke-test.md").read_text()
    assert NOTICE in page and "## Whole layer" in page


def test_a_part_is_merged_into_the_others(tmp_path: Path) -> None:
    arguments = ["--tiny", "--device", "cpu", "--tokens", "48", "--out", str(tmp_path)]
    assert main([*arguments, "--only", "passes", "--correctness-only"]) == 0
    assert main([*arguments, "--only", "moe"]) == 0
    stored = json.loads((tmp_path / "cpu-smoke-test.json").read_text())
    assert {row["section"] for row in stored["rows"]} == {"bounds", "moe"}
    assert {"residual_norm", "routing", "grouped_gemm"} <= {entry["op"] for entry in stored["correctness"]}


@no_gpu
def test_without_a_gpu_it_says_what_a_run_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no CUDA device" in error and "python -m zoetrope.benchmarks.kernels --tune" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--device", "cpu", "--tiny", "--tune"]])
def test_a_cpu_measures_and_tunes_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "--tiny" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--only", "everything"], ["--tokens", "0"]])
def test_bad_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2


def test_every_kernel_is_examined() -> None:
    inputs = KernelInputs(0, CPU, tiny=True, kernels=False)
    examined = {(one.op, one.backend) for part in SETS for one in cases_of(part, inputs)}
    assert examined == set(MODULES)
    assert needed_by(["layer"]) == list(SETS) and needed_by(["passes"]) == ["passes"]


BROKEN = ("combine", "triton", "fp32", None)


def broken(result: torch.Tensor, name: str = "broken") -> KernelCase:
    return case("combine", "triton", torch.float32, name, lambda: result, lambda: [torch.ones(64, 8)])


def test_a_wrong_kernel_is_noticed() -> None:
    right, one_row, hole = (torch.ones(64, 8) for _ in range(3))
    one_row[5] = 1.01
    hole[3, 3] = float("nan")
    assert examine(broken(right)).right
    assert not examine(broken(one_row)).right and not examine(broken(hole)).right
    assert not examine(broken(torch.ones(63, 8))).right
    wrong = wrong_kernels([examine(broken(right)), examine(broken(one_row, "one row"))])
    assert list(wrong) == [BROKEN] and "one row" in wrong[BROKEN]


def test_a_kernel_that_is_wrong_in_one_dtype_is_timed_in_the_others() -> None:
    def of(dtype: torch.dtype, head_dim: int, value: float) -> KernelCase:
        made = torch.full((8, 8), value, dtype=dtype)
        expected = lambda: [torch.ones(8, 8)]  # noqa: E731
        return case("attention", "triton", dtype, "one", lambda: made, expected, head_dim=head_dim)

    findings = [
        examine(of(torch.float16, 128, 2.0)),
        examine(of(torch.float32, 128, 1.0)),
        examine(of(torch.float32, 64, 2.0)),
    ]
    bench = Bench(TINY, CPU, 0, kernels=False, tokens=(48,), wrong=wrong_kernels(findings))
    assert set(bench.wrong) == {("attention", "triton", "fp16", 128), ("attention", "triton", "fp32", 64)}
    for head_dim, right in ((128, True), (64, False)):
        ours = bench.ours("triton", "attention", "triton", "attention", lambda f, i: f, head_dim=head_dim)
        assert (ours.absent is None) == right == (ours.make is not None)


def test_memory_that_nobody_wrote_is_noticed() -> None:
    def forgets() -> torch.Tensor:
        out = torch.empty(64, 8)
        out[:60] = 1.0
        return out

    finding = examine(case("combine", "triton", torch.float32, "forgets", forgets, lambda: [torch.ones(64, 8)]))
    assert finding.error == float("inf")
    assert not torch.are_deterministic_algorithms_enabled()


def test_results_that_change_from_run_to_run_are_noticed() -> None:
    shifts = iter([0.0, 1e-7])

    def unsteady() -> torch.Tensor:
        return torch.ones(64, 8, dtype=torch.float64) + next(shifts)

    finding = examine(case("combine", "triton", torch.float32, "unsteady", unsteady, lambda: [torch.ones(64, 8)]))
    assert not finding.same_bits and not finding.right
    assert "two runs differ" in wrong_kernels([finding])[BROKEN]


def test_bits_are_compared_in_any_layout() -> None:
    nan = torch.tensor([[float("nan"), 1.0]])
    assert correctness.same_bits(nan.T, nan.T.clone()) and correctness.same_bits(nan, nan.clone())
    assert not correctness.same_bits(nan, nan.double()) and not correctness.same_bits(nan, nan + 1)


def test_a_kernel_that_raises_is_wrong() -> None:
    def refuses() -> torch.Tensor:
        raise ValueError("x is too odd")

    finding = examine(case("combine", "triton", torch.float32, "refuses", refuses, lambda: []))
    assert not finding.right and finding.problem == "ValueError: x is too odd"


def test_proofs_are_of_kernels_right_in_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "capability", lambda device: "9.0")
    good, bad = torch.ones(64, 8), torch.zeros(64, 8)
    findings = [examine(broken(good)), examine(broken(good))]
    (proof,), failed = proofs_of(findings, CPU)
    assert failed == [] and proof.cases == 2 and proof.holds
    assert (proof.op, proof.backend, proof.dtype, proof.head_dim) == ("combine", "triton", "fp32", None)
    proofs, failed = proofs_of([*findings, examine(broken(bad))], CPU)
    assert proofs == [] and failed == [("combine", "triton", "fp32", None, "9.0")]


def test_infinities_must_be_where_they_are_expected() -> None:
    expected = torch.tensor([[1.0], [float("-inf")]])
    assert worst_error(expected, expected) == 0.0
    assert worst_error(torch.tensor([[1.0], [float("inf")]]), expected) == float("inf")
    assert worst_error(torch.tensor([[1.0], [0.0]]), expected) == float("inf")
    assert worst_error(torch.empty(0, 4), torch.empty(0, 4)) == 0.0


@pytest.mark.parametrize("part", ["grouped_gemm", "attention", "passes"])
def test_the_tuner_knows_the_keys_of_every_model(part: str) -> None:
    bench = Bench(TINY, CPU, 0, kernels=False, tokens=(48,))
    found = list(tune.problems(bench, part))
    assert len({problem.key for problem in found}) == len(found) > 0
    assert all(problem.call(None) is not None and problem.candidates for problem in found)
    assert all((op, backend) in MODULES for op, backend, _, _ in (problem.kernel for problem in found))
    if part == "attention":
        assert {problem.kernel[1] for problem in found} == {"triton", "int8"}, "on a GPU also gluon and int8_fp8"


@pytest.fixture
def own_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards which folders tiles were read from."""
    monkeypatch.setattr(tiles, "_more", [])
    yield
    tiles.tuned_tiles.cache_clear()


@pytest.mark.usefixtures("own_tiles")
def test_what_was_tuned_is_proved_anew_even_if_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = parse(["--tiny", "--device", "cpu", "--tune", "--limit", "0", "--only", "passes", "attention"])
    run = BenchmarkRun(args, "run", tmp_path, tmp_path / "data")
    kernels = [("residual_norm", "triton", "fp32", None), ("qk_norm_rope", "triton", "fp32", None)]
    found = [tune.TuningProblem(f"{kernel[0]}/64", kernel, [RowTile()], lambda tile: None) for kernel in kernels]
    monkeypatch.setattr("zoetrope.benchmarks.kernels.run.device_table", lambda device: "h100")
    monkeypatch.setattr(tune, "problems", lambda bench, part: iter(found))
    monkeypatch.setattr(
        tune, "solve", lambda problem, bench: tune.TuningResult(problem.key, RowTile(2, 4), 1.2, 1.0, 0)
    )
    assert not run.tune(), "the limit stopped it after the first key"
    assert set(run.findings) == {kernels[0]}, "the kernel with the new tile, in its dtype, and no other"
    stored = json.loads((tmp_path / "cpu-smoke-test.json").read_text())
    assert stored["correctness"] and all(entry["right"] for entry in stored["correctness"])
    assert tiles.tuned_tiles("h100")["residual_norm/64"]["num_warps"] == 4, "launches take the new tile"
    monkeypatch.setattr(tune, "solve", lambda problem, bench: tune.TuningResult(problem.key, None, 1.0, 1.0, 0))
    run.findings.clear()
    run.tune()
    assert not run.findings, "what has kept its tiles has kept its proof"


@pytest.mark.usefixtures("own_tiles")
def test_one_process_can_be_about_one_kernel(tmp_path: Path) -> None:
    arguments = ["--tiny", "--device", "cpu", "--out", str(tmp_path), "--only", "passes", "--correctness-only"]
    assert main([*arguments, "--kernel", "residual_norm/triton", "--dtype", "fp32"]) == 0
    stored = json.loads((tmp_path / "cpu-smoke-test.json").read_text())
    assert {(entry["op"], entry["dtype"]) for entry in stored["correctness"]} == {("residual_norm", "fp32")}
    (run,) = stored["runs"].values()
    assert run["selection"] == {"kernels": ["residual_norm/triton"], "backends": [], "dtypes": ["fp32"]}
    assert main([*arguments, "--backend", "gluon"]) == 0
    assert len(json.loads((tmp_path / "cpu-smoke-test.json").read_text())["correctness"]) == len(stored["correctness"])


def test_a_selection_takes_what_fits_all_that_is_named() -> None:
    assert Selection().all and Selection().takes("attention", "gluon", "bf16")
    one = Selection(kernels=("attention/gluon",), dtypes=("bf16",))
    assert one.takes("attention", "gluon", "bf16") and one.takes("attention", "gluon") and not one.all
    assert not (one.takes("attention", "gluon", "fp16") or one.takes("attention", "triton", "bf16"))
    assert Selection(backends=("gluon",)).takes("attention", "gluon", "fp16")
    bench = Bench(TINY, CPU, 0, kernels=False, tokens=(48,), selection=one)
    left_out = bench.ours("x", "combine", "triton", "combine_experts", lambda f, i: f)
    assert not left_out.selected and race(ContenderWork("s", "c"), [left_out], bench.clock, 0.01) == []


def test_the_speeds_of_a_race_are_held_against_the_fastest_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section_choice, "capability", lambda device: "9.0")
    monkeypatch.setattr(section_choice, "device_name", lambda device: "an H100")
    bench = Bench(TINY, CPU, 0, kernels=False, tokens=(48,))
    rivalry = next(one for one in section_choice.rivalries(bench, TINY.models[0], 48) if one.op == "attention")
    times = {"gluon": 1.0, "triton": 2.0, "sdpa": 1.5, "flash_attn": None}
    rows = [ContenderRow("choice", "c", name, seconds) for name, seconds in times.items()]
    speeds = section_choice.speeds_of(rivalry, rows, CPU)
    assert {key[1]: (speed.ratio, speed.fastest, speed.against) for key, speed in speeds.items()} == {
        "gluon": (1.5, "sdpa", ("sdpa",)),
        "triton": (0.75, "sdpa", ("sdpa",)),
    }
    (key, speed) = next(iter(speeds.items()))
    assert (key[0], key[2:]) == ("attention", ("fp32", 32, "9.0"))
    assert (speed.op, speed.shape, speed.device) == ("attention", "64 on 64", "an H100")
    assert section_choice.speeds_of(rivalry, rows[:2], CPU) == {}, "without torch there is nothing to compare with"


def test_the_operations_of_every_model_are_timed_by_the_classes_that_calls_have() -> None:
    """What is measured must be found by a call of the network, or it decides nothing."""
    called: set[tuple[str, str]] = set()

    def noted(op: str, call: KernelCall, asked: str | None = None) -> str:
        called.add((op, call.shape))
        return choose(op, call, asked)

    bench = Bench(TINY, CPU, 0, kernels=False, tokens=(48,))
    for model in TINY.models:
        for rivalry in section_choice.rivalries(bench, model, 48):
            with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
                patch.setattr(f"zoetrope.kernels.ops.{rivalry.op}.choose", noted)
                given = rivalry.make(bench.inputs(0))
                rivalry.run(given, "sdpa" if rivalry.op == "attention" else "torch")
            assert (rivalry.op, rivalry.shape) in called
    assert set(BACKENDS) - {op for op, _ in called} == {"linear_fp8"}, "of which there is no kernel of ours"


def test_every_tuned_product_has_a_case_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"block_m": 64, "block_n": 64, "block_k": 32, "num_warps": 4}
    table = {
        "grouped_gemm/fp32/n48k64/m16": small,
        "grouped_gemm/fp8/rows/n128k128/m64": small,
        "attention/triton/fp32/d64": {"block_m": 64},
    }
    monkeypatch.setattr("zoetrope.benchmarks.kernels.cases_gemm.tuned_tiles", lambda name: table)
    cases = list(tile_cases(KernelInputs(0, CPU, tiny=True, kernels=True)))
    assert [(one.op, one.dtype) for one in cases] == [("grouped_gemm", "fp32"), ("grouped_gemm_fp8", "fp8")]
    assert all(one.name.endswith("tile 64 x 64 x 32") for one in cases)
    assert list(tile_cases(KernelInputs(0, CPU, tiny=True, kernels=False))) == []


def test_the_tuner_takes_the_fastest_right_tile() -> None:
    class Clock:
        """A tile is its own time; nothing else is ``1.0``."""

        def time(self, calls: list[object], cap: float) -> object:
            tile = calls[0].args[0]  # type: ignore[attr-defined]
            if tile == "large":
                raise RuntimeError("too much shared memory")
            return type("Timing", (), {"median": 1.0 if tile is None else tile})

    bench = Bench(TINY, CPU, 0, kernels=False, tokens=(48,))
    bench.clock = Clock()  # type: ignore[assignment]
    wrong = 0.2

    def call(tile: object) -> torch.Tensor:
        return torch.full((4, 4), 7.0 if tile == wrong else 1.0)

    problem = tune.TuningProblem("key", BROKEN, [0.9, "large", wrong, 0.5], call)
    tried = tune.solve(problem, bench)
    assert tried.tile == 0.5 and tried.gain == pytest.approx(2.0) and tried.failed == 2
    assert tune.solve(tune.TuningProblem("key", BROKEN, [0.999, 1.5], call), bench).tile is None


def test_flops_of_a_layer_by_hand() -> None:
    assert WAN_27B.dim == 3072 and WAN_27B.active == 14336
    assert WAN_14B.dim == 5120 and WAN_14B.active == 13824
    n, d = 32768, 5120
    by_hand = 8 * n * d**2 + 4 * n**2 * d + 4 * n * d**2 + 4 * 512 * d**2 + 4 * n * 512 * d + 4 * n * d * 13824
    assert layer_flops(WAN_14B, n) == pytest.approx(by_hand)
