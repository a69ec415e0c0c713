"""The kernel benchmark from end to end at toy sizes, what it refuses, and that it notices a wrong kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zoetrope.benchmarks.kernels import correctness, tune
from zoetrope.benchmarks.kernels.__main__ import SECTIONS, main
from zoetrope.benchmarks.kernels.cases import KernelCase, KernelInputs, case, worst_error
from zoetrope.benchmarks.kernels.correctness import SETS, cases_of, examine, needed_by, proofs_of, wrong_kernels
from zoetrope.benchmarks.kernels.results import NOTICE
from zoetrope.benchmarks.kernels.section import Bench
from zoetrope.benchmarks.kernels.section_layer import layer_flops
from zoetrope.benchmarks.kernels.shapes import TINY, WAN_14B, WAN_27B
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
    assert list(wrong) == [("combine", "triton")] and "one row" in wrong["combine", "triton"]


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
    assert "two runs differ" in wrong_kernels([finding])["combine", "triton"]


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

    problem = tune.TuningProblem("key", [0.9, "large", wrong, 0.5], call)
    tried = tune.solve(problem, bench)
    assert tried.tile == 0.5 and tried.gain == pytest.approx(2.0) and tried.failed == 2
    assert tune.solve(tune.TuningProblem("key", [0.999, 1.5], call), bench).tile is None


def test_flops_of_a_layer_by_hand() -> None:
    assert WAN_27B.dim == 3072 and WAN_27B.active == 14336
    assert WAN_14B.dim == 5120 and WAN_14B.active == 13824
    n, d = 32768, 5120
    by_hand = 8 * n * d**2 + 4 * n**2 * d + 4 * n * d**2 + 4 * 512 * d**2 + 4 * n * 512 * d + 4 * n * d * 13824
    assert layer_flops(WAN_14B, n) == pytest.approx(by_hand)
