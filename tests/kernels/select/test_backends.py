"""Which implementation runs, and what it takes to be chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from zoetrope.kernels import CuSeqlens, varlen_attention
from zoetrope.kernels.select import abilities, backends
from zoetrope.kernels.select.abilities import FP8, KernelCall
from zoetrope.kernels.select.backends import BACKENDS, choose, parse, report, use
from zoetrope.kernels.select.proofs import Proof, Speed, Standing
from zoetrope.kernels.select.shapes import attention_class, band, product_class, rows_class

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
BF16 = KernelCall(GPU, torch.bfloat16, grad=False)
HEADS = KernelCall(GPU, torch.bfloat16, grad=False, head_dim=128)


H100 = "NVIDIA H100 80GB HBM3"
# (operation and backend of the proof, operation, class of shapes) -> how much faster than which of torch's
Speeds = dict[tuple[str, str, str, str], tuple[float, tuple[str, ...]]]


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The properties of an H100 where the choice asks for them; nothing is run on it."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: H100)
    monkeypatch.setattr(abilities, "find_spec", lambda name: object() if name == "triton" else None)
    backends._choose.cache_clear()
    yield
    backends._choose.cache_clear()


def prove(monkeypatch: pytest.MonkeyPatch, speeds: Speeds) -> list[tuple[object, ...]]:
    """Have all kernels proved, those in ``speeds`` also timed; returns what was asked of the proofs."""
    asked: list[tuple[object, ...]] = []

    def standing(op: str, backend: str, dtype: torch.dtype, capability: tuple[int, int], **more: object) -> Standing:
        asked.append((op, backend, dtype, capability, more["head_dim"], more["table"]))
        found = tuple(
            Speed(of, shape, ratio, against[0], against, 1e-3, H100, "")
            for (proof_op, name, of, shape), (ratio, against) in speeds.items()
            if (proof_op, name) == (op, backend)
        )
        return Standing(Proof(op, backend, "bf16", None, "9.0", H100, "", "", 0.0, 1.0, 1, "", "", "", found))

    monkeypatch.setattr(backends, "standing", standing)
    return asked


def test_torch_runs_on_a_cpu() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        chosen = {choice.op: choice.backend for choice in report(CPU, dtype) if choice.chosen}
        assert chosen.pop("attention") == "sdpa"
        assert set(chosen.values()) == {"torch"}
        assert set(chosen) | {"attention"} == set(BACKENDS)


@pytest.mark.usefixtures("hopper")
def test_our_kernels_wait_for_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "standing", lambda *args, **kwargs: Standing(None, "its tiles have changed"))
    assert choose("attention", HEADS) == "sdpa"
    assert choose("grouped_gemm", BF16) == "torch"
    assert choose("linear_gelu", BF16) == "cublas"
    unproved = {(choice.op, choice.backend): choice.why for choice in report(GPU) if choice.unproved}
    assert set(unproved) == {("attention", "gluon"), ("attention", "triton")} | {
        (op, "triton") for op in BACKENDS if op not in ("attention", "linear_fp8")
    }
    assert set(unproved.values()) == {"its tiles have changed"}
    assert choose("attention", HEADS, "gluon") == "gluon", "asked for by the call"
    with use("attention=triton,routing=triton"):
        assert choose("attention", HEADS) == "triton", "asked for by the settings"
        assert choose("combine", BF16) == "torch"


@pytest.mark.usefixtures("hopper")
def test_a_proof_without_a_speed_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prove(monkeypatch, {})
    assert choose("attention", HEADS) == "sdpa"
    assert choose("linear_gelu", BF16) == "cublas"
    assert ("attention", "gluon", torch.bfloat16, (9, 0), 128, "h100") in asked
    assert ("grouped_gemm", "triton", torch.bfloat16, (9, 0), None, "h100") in asked, "it is the grouped GEMM's kernel"
    untimed = {(c.op, c.backend): c.why for c in report(GPU) if c.untimed}
    assert untimed["attention", "gluon"] == "proved on this device, but not timed against torch"
    assert ("linear_gelu", "triton") in untimed and not any(c.unproved for c in report(GPU))


@pytest.mark.usefixtures("hopper")
def test_a_proved_kernel_runs_on_the_shapes_where_it_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    long, short, text = "64k on 64k", "4k on 4k", "64k on 1k"
    speeds: Speeds = {
        ("attention", "gluon", "attention", long): (1.05, ("sdpa", "reference")),
        ("attention", "triton", "attention", long): (1.01, ("sdpa", "reference")),
        ("attention", "gluon", "attention", short): (1.0, ("sdpa", "reference")),
        ("attention", "gluon", "attention", text): (0.7, ("sdpa", "reference")),
        ("attention", "triton", "attention", text): (1.2, ("sdpa", "reference")),
        ("grouped_gemm", "triton", "grouped_gemm", "a"): (1.3, ("torch",)),
    }
    prove(monkeypatch, speeds)
    chosen = {shape: choose("attention", replace(HEADS, shape=shape)) for shape in (long, short, text, "256k on 1k")}
    assert chosen == {long: "gluon", short: "sdpa", text: "triton", "256k on 1k": "sdpa"}
    assert choose("grouped_gemm", replace(BF16, shape="a")) == "triton"
    assert choose("linear_gelu", replace(BF16, shape="a")) == "cublas", "another operation with the same kernel"
    told = {choice.backend: choice for choice in report(GPU) if choice.op == "attention"}
    assert told["gluon"].chosen and told["gluon"].reason == f"chosen on {long} (1.05 x sdpa, {H100})"
    assert told["triton"].chosen and text in told["triton"].reason and long not in told["triton"].reason
    assert told["sdpa"].chosen and told["sdpa"].reason == "chosen on all other shapes"
    with use("attention=sdpa"):
        assert [c.backend for c in report(GPU) if c.op == "attention" and c.chosen] == ["sdpa"]


@pytest.mark.usefixtures("hopper")
def test_a_kernel_that_torch_outruns_is_named_with_its_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    prove(monkeypatch, {("grouped_gemm", "triton", "linear_gelu", "a"): (0.84, ("cublas", "torch"))})
    assert choose("linear_gelu", replace(BF16, shape="a")) == "cublas"
    (told,) = [c for c in report(GPU) if (c.op, c.backend) == ("linear_gelu", "triton")]
    assert told.why == f"not faster than torch on a (0.84 x cublas, {H100})"
    assert not (told.chosen or told.unproved or told.untimed)


@pytest.mark.usefixtures("hopper")
def test_a_speed_counts_only_against_what_would_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    prove(monkeypatch, {("attention", "gluon", "attention", "a"): (1.5, ("sdpa", "reference"))})
    assert choose("attention", replace(HEADS, shape="a")) == "gluon"
    backends._choose.cache_clear()
    monkeypatch.setattr(abilities, "find_spec", lambda name: object())  # flash_attn too, which was not timed
    assert choose("attention", replace(HEADS, shape="a")) == "flash_attn"
    (told,) = [c for c in report(GPU) if c.backend == "gluon"]
    assert told.untimed and told.why == "proved on this device, but not timed against flash_attn"


@pytest.mark.usefixtures("hopper")
def test_kernels_that_change_the_result_run_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    prove(monkeypatch, {("attention", "int8", "attention", "a"): (9.0, ("sdpa",))})
    assert choose("attention", replace(HEADS, shape="a")) == "sdpa"
    reasons = {c.backend: c.reason for c in report(GPU) if c.op == "attention"}
    assert "changes the result" in reasons["int8"]
    assert "changes the result" in reasons["int8_fp8"]
    assert choose("attention", HEADS, "int8") == "int8"


@pytest.mark.usefixtures("hopper")
def test_products_of_8_bits_are_torch_s_until_ours_are_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    call = KernelCall(GPU, FP8, grad=False)
    monkeypatch.setattr(backends, "standing", lambda *args, **kwargs: Standing(None, "unproved"))
    assert choose("linear_fp8", call) == "scaled_mm"
    assert choose("grouped_gemm_fp8", call) == "scaled_grouped_mm"
    assert choose("grouped_gemm_fp8", call, "triton") == "triton", "asked for"
    prove(monkeypatch, {("grouped_gemm_fp8", "triton", "grouped_gemm_fp8", "a"): (1.2, ("scaled_grouped_mm",))})
    assert choose("grouped_gemm_fp8", replace(call, shape="a")) == "triton"


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


def test_classes_of_shapes() -> None:
    assert [band(rows) for rows in (1, 64, 65, 24_180, 65_536, 65_537, 10**6)] == [
        "64", "64", "256", "64k", "64k", "256k", "over 256k"
    ]  # fmt: skip
    assert rows_class(8192, 3072) == "16k rows of 3072"
    assert product_class(32_768 * 8, 80, 3072, 1792) == "3072 to 1792, 4k rows each"
    assert product_class(32_768, 1, 5120, 13_824) == "5120 to 13824, 64k rows"
    two = CuSeqlens.of([16_384, 16_384])
    assert attention_class(two, CuSeqlens.of([512, 512])) == "64k on 1k"
    assert attention_class(two, two) == "64k on 16k"
    x = torch.empty(300, 16)
    assert KernelCall.of(x).shape == "1k rows of 16" and KernelCall.of(x[:, 0]).shape == "1k rows of 1"
    assert attention_class(CuSeqlens.of([]), CuSeqlens.of([])) == "64 on 64"
