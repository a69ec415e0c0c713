"""Which implementation runs, and what it takes to be chosen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from zoetrope.kernels import CuSeqlens, varlen_attention
from zoetrope.kernels.select import backends
from zoetrope.kernels.select.backends import BACKENDS, FP8, KernelCall, choose, parse, report, use
from zoetrope.kernels.select.proofs import Proof

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
BF16 = KernelCall(GPU, torch.bfloat16, grad=False)
HEADS = KernelCall(GPU, torch.bfloat16, grad=False, head_dim=128)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The properties of an H100 where the choice asks for them; nothing is run on it."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(backends, "find_spec", lambda name: object() if name == "triton" else None)
    backends._choose.cache_clear()
    yield
    backends._choose.cache_clear()


def test_torch_runs_on_a_cpu() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        chosen = {choice.op: choice.backend for choice in report(CPU, dtype) if choice.chosen}
        assert chosen.pop("attention") == "sdpa"
        assert set(chosen.values()) == {"torch"}
        assert set(chosen) | {"attention"} == set(BACKENDS)


@pytest.mark.usefixtures("hopper")
def test_our_kernels_wait_for_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "proved", lambda *args, **kwargs: None)
    assert choose("attention", HEADS) == "sdpa"
    assert choose("grouped_gemm", BF16) == "torch"
    assert choose("linear_gelu", BF16) == "cublas"
    unproved = {(choice.op, choice.backend) for choice in report(GPU) if choice.unproved}
    assert unproved == {("attention", "gluon"), ("attention", "triton")} | {
        (op, "triton") for op in BACKENDS if op not in ("attention", "linear_fp8")
    }
    assert choose("attention", HEADS, "gluon") == "gluon", "asked for by the call"
    with use("attention=triton,routing=triton"):
        assert choose("attention", HEADS) == "triton", "asked for by the settings"
        assert choose("combine", BF16) == "torch"


@pytest.mark.usefixtures("hopper")
def test_a_proof_of_the_same_kernel_lets_it_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def proved(op: str, backend: str, dtype: torch.dtype, capability: tuple[int, int], head_dim: int | None) -> object:
        asked.append((op, backend, dtype, capability, head_dim))
        return (op, backend) in {("attention", "triton"), ("grouped_gemm", "triton")} or None

    monkeypatch.setattr(backends, "proved", proved)
    assert choose("attention", HEADS) == "triton", "gluon comes first but has no proof"
    assert choose("linear_gelu", BF16) == "triton", "it is the grouped GEMM's kernel"
    assert ("attention", "gluon", torch.bfloat16, (9, 0), 128) in asked
    assert ("grouped_gemm", "triton", torch.bfloat16, (9, 0), None) in asked


@pytest.mark.usefixtures("hopper")
def test_kernels_that_change_the_result_run_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "proved", lambda *args, **kwargs: Proof)
    assert choose("attention", HEADS) == "gluon"
    reasons = {c.backend: c.reason for c in report(GPU) if c.op == "attention"}
    assert "changes the result" in reasons["int8"]
    assert "changes the result" in reasons["int8_fp8"]
    assert choose("attention", HEADS, "int8") == "int8"


@pytest.mark.usefixtures("hopper")
def test_products_of_8_bits_are_torch_s_until_ours_are_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    call = KernelCall(GPU, FP8, grad=False)
    monkeypatch.setattr(backends, "proved", lambda *args, **kwargs: None)
    assert choose("linear_fp8", call) == "scaled_mm"
    assert choose("grouped_gemm_fp8", call) == "scaled_grouped_mm"
    assert choose("grouped_gemm_fp8", call, "triton") == "triton", "asked for"
    backends._choose.cache_clear()
    monkeypatch.setattr(backends, "proved", lambda op, backend, *args, **kwargs: op == "grouped_gemm_fp8" or None)
    assert choose("grouped_gemm_fp8", call) == "triton"


@pytest.mark.parametrize(
    ("capability", "linear", "grouped"),
    [
        ((8, 0), "torch", "torch"),
        ((8, 9), "scaled_mm", "torch"),
        ((9, 0), "scaled_mm", "scaled_grouped_mm"),
        ((10, 0), "scaled_mm", "torch"),
    ],
)
def test_products_of_8_bits_by_capability(
    capability: tuple[int, int], linear: str, grouped: str, hopper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    call = KernelCall(GPU, FP8, grad=False)
    assert (choose("linear_fp8", call), choose("grouped_gemm_fp8", call)) == (linear, grouped)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("call", "asked", "reason"),
    [
        (KernelCall(GPU, torch.bfloat16, grad=True, head_dim=128), "triton", "no backward"),
        (KernelCall(GPU, torch.bfloat16, grad=False, head_dim=80), "triton", "heads of 32, 64, 128, not 80"),
        (KernelCall(GPU, torch.float32, grad=False, head_dim=128), "gluon", "not torch.float32"),
        (KernelCall(GPU, torch.bfloat16, grad=False, head_dim=128, masked=True), "gluon", "no block mask"),
        (KernelCall(GPU, torch.bfloat16, grad=False, head_dim=128), "flash_attn", "not installed"),
        (KernelCall(CPU, torch.bfloat16, grad=False, head_dim=128), "gluon", "CUDA"),
        (KernelCall(GPU, torch.bfloat16, grad=False, head_dim=128), "fastest", "no implementation 'fastest'"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(call: KernelCall, asked: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        choose("attention", call, asked)


def test_the_variable_in_words() -> None:
    assert parse("") == {}
    assert parse(" attention=triton , routing=torch ") == {"attention": "triton", "routing": "torch"}
    assert parse("triton")["grouped_gemm"] == parse("triton")["attention"] == "triton"
    assert "attention" not in parse("torch")
    for wrong in ("fastest", "attention=fastest", "hearing=triton"):
        with pytest.raises(ValueError, match="ZOETROPE_KERNELS"):
            parse(wrong)


def test_the_variable_reaches_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    x, cu = torch.randn(4, 1, 8, dtype=torch.float64), CuSeqlens.of([4])
    monkeypatch.setenv(backends.VARIABLE, "attention=gluon")
    with pytest.raises(ValueError, match="attention by gluon"):
        varlen_attention(x, x, x, cu, cu)
    with use("attention=reference"):
        out = varlen_attention(x, x, x, cu, cu)
    assert torch.allclose(out, varlen_attention(x, x, x, cu, cu, backend="sdpa"), rtol=1e-5, atol=1e-6)
