"""The grouped GEMM: the Triton kernel (interpreted without a GPU) and the plain form, against float64."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from tests.draws import draws
from tests.kernels.numbers import DEVICE, DTYPES, LIMITS, randn, relative_error
from zoetrope import kernels as ops
from zoetrope.kernels.gpu.grouped_gemm import grouped_gemm, linear_gelu
from zoetrope.kernels.gpu.grouped_gemm_fp8 import grouped_gemm_fp8
from zoetrope.kernels.gpu.permute_rows import permute_rows
from zoetrope.kernels.gpu.quantise_fp8 import quantise_rows
from zoetrope.kernels.gpu.tiles import GemmTile, gemm_candidates, gemm_key, gemm_tile
from zoetrope.kernels.reference import grouped_gemm as plain
from zoetrope.kernels.reference import quantise_fp8 as plain_quantise
from zoetrope.kernels.select.backends import use
from zoetrope.kernels.types.permutation import Permutation

# The interpreter's own.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:Conversion of an array")

SMALL = GemmTile(32, 32, 16, group_m=2, num_warps=4, num_stages=2, flatten=True)  # several tiles of all three sizes
Operation = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    """The arguments of one call."""

    counts: tuple[int, ...]
    k: int = 40
    n: int = 48
    dtype: torch.dtype = torch.float32
    transposed: bool = False
    bias: str = "none"
    gelu: bool = False
    gate: bool = False
    scatter: bool = False

    def arguments(self) -> dict[str, Any]:
        """What is passed to the operation."""
        m, experts = sum(self.counts), len(self.counts)
        order = torch.Generator().manual_seed(m + experts)
        weight = randn(experts, *((self.n, self.k) if self.transposed else (self.k, self.n)), seed=1, dtype=self.dtype)
        found: dict[str, Any] = {
            "x": randn(m, self.k, seed=2, dtype=self.dtype),
            "weight": weight.mT if self.transposed else weight,
            "offsets": torch.tensor([0, *self.counts]).cumsum(0).to(DEVICE, torch.int32),
            "gelu": self.gelu,
        }
        if self.bias != "none":
            dtype = torch.float32 if self.bias == "float32" else self.dtype
            found["bias"] = randn(experts, self.n, seed=3, dtype=dtype)
        if self.gate:
            found["gate"] = randn(m, seed=4)
        if self.scatter:
            found["scatter"] = torch.randperm(m, generator=order).to(DEVICE, torch.int32)
        return found


def exact(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
    gate: torch.Tensor | None = None,
    scatter: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition, row by row, in float64."""
    x = x.double()
    ends = offsets.tolist()
    result = torch.zeros(x.shape[0], weight.shape[2], dtype=torch.float64, device=x.device)
    for expert in range(len(ends) - 1):
        for row in range(ends[expert], ends[expert + 1]):
            y = x[row] @ weight[expert].double()
            if bias is not None:
                y = y + bias[expert].double()
            if gelu:
                y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
            if gate is not None:
                y = y * gate[row].double()
            result[row if scatter is None else int(scatter[row])] = y
    return result


def check(case: Case, operation: Operation, **options: Any) -> None:
    arguments = case.arguments()
    result = operation(**arguments, **options)
    assert result.dtype == case.dtype
    assert relative_error(result, exact(**arguments)) <= LIMITS[case.dtype]


cases = st.builds(
    Case,
    counts=st.lists(st.sampled_from([0, 0, 1, 2, 7, 16, 31, 32, 33, 70]), min_size=1, max_size=64)
    .filter(lambda counts: sum(counts) <= 256)
    .map(tuple),
    k=st.sampled_from([8, 16, 24, 40, 64]),
    n=st.sampled_from([8, 32, 40, 72]),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
    bias=st.sampled_from(["none", "same", "float32"]),
    gelu=st.booleans(),
    gate=st.booleans(),
    scatter=st.booleans(),
)


@settings(max_examples=draws(15), deadline=None)
@given(cases)
def test_kernel_against_float64(case: Case) -> None:
    check(case, grouped_gemm, tile=SMALL)


@settings(max_examples=draws(25), deadline=None)
@given(cases)
def test_plain_form_against_float64(case: Case) -> None:
    check(case, plain.grouped_gemm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_default_tiles(dtype: torch.dtype, transposed: bool) -> None:
    case = Case((130, 0, 70), 72, 264, dtype, transposed, "same", True, gate=True, scatter=True)
    check(case, grouped_gemm)


@pytest.mark.parametrize("counts", [(0,), (0, 0, 0), (1,), (0, 5, 0), (1,) * 64, (33,)])
def test_corners(counts: tuple[int, ...]) -> None:
    for operation, options in ((grouped_gemm, {"tile": SMALL}), (plain.grouped_gemm, {})):
        check(Case(counts, bias="same", gate=True, scatter=True), operation, **options)


def test_many_experts() -> None:
    check(Case(tuple(index % 3 for index in range(200)), 16, 8), grouped_gemm, tile=SMALL)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("group_m", [1, 3, 8])
def test_order_of_tiles_changes_nothing(flatten: bool, group_m: int) -> None:
    arguments = Case((100, 5, 64), n=104, bias="same", gelu=True).arguments()
    tile = GemmTile(32, 32, 16, group_m=group_m, num_warps=4, num_stages=2, programs=2, flatten=flatten)
    assert torch.equal(grouped_gemm(**arguments, tile=tile), grouped_gemm(**arguments, tile=SMALL))


@pytest.mark.parametrize("transposed", [False, True])
def test_nothing_leaks_from_neighbours(transposed: bool) -> None:
    """Tiles reach into the rows and weights next to theirs: NaN there must stay there."""
    arguments = Case((5, 40, 9), 24, 40, transposed=transposed).arguments()
    arguments["x"][5:45] = torch.nan
    arguments["weight"][1] = torch.nan
    result = grouped_gemm(**arguments, tile=SMALL)
    assert result[:5].isfinite().all()
    assert result[5:45].isnan().all()
    assert result[45:].isfinite().all()


def test_rows_of_a_wider_tensor() -> None:
    arguments = Case((20, 13)).arguments()
    wide = torch.full((33, 64), torch.nan, device=DEVICE)
    wide[:, 8:48] = arguments["x"]
    expected = grouped_gemm(**arguments, tile=SMALL)
    assert torch.equal(grouped_gemm(**{**arguments, "x": wide[:, 8:48]}, tile=SMALL), expected)
    one = {**arguments, "x": wide[:1, 8:48], "offsets": torch.tensor([0, 0, 1], dtype=torch.int32, device=DEVICE)}
    assert relative_error(grouped_gemm(**one, tile=SMALL), exact(**one)) <= 1e-5


def test_scatter_is_an_index_operation() -> None:
    arguments = Case((30, 0, 41), gate=True).arguments()
    order = torch.randperm(71, generator=torch.Generator().manual_seed(7)).to(DEVICE)
    expected = grouped_gemm(**arguments, tile=SMALL)
    assert torch.equal(grouped_gemm(**arguments, scatter=order.int(), tile=SMALL)[order], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("biased", [False, True])
def test_a_layer_without_experts(dtype: torch.dtype, rows: int, biased: bool) -> None:
    """The bits of one expert that has all rows, which needs offsets."""
    x, weight = randn(rows, 40, seed=1, dtype=dtype), randn(48, 40, seed=2, dtype=dtype)
    bias = randn(48, seed=3, dtype=dtype) if biased else None
    result = linear_gelu(x, weight, bias, tile=SMALL)
    offsets = torch.tensor([0, rows], dtype=torch.int32, device=DEVICE)
    one: dict[str, Any] = {"x": x, "weight": weight.mT[None], "offsets": offsets}
    one["bias"] = None if bias is None else bias[None]
    assert torch.equal(result, grouped_gemm(**one, gelu=True, tile=SMALL))
    assert relative_error(linear_gelu(x, weight, bias), exact(**one, gelu=True)) <= LIMITS[dtype]


def test_a_layer_without_experts_makes_no_table() -> None:
    """It sends nothing to the device: no tensor is made of numbers that the host has, none is moved."""
    x, weight, bias = randn(5, 40, seed=1), randn(48, 40, seed=2), randn(48, seed=3)
    made: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made.append(getattr(function, "__name__", str(function)))
            return function(*args, **(kwargs or {}))

    with Watch(), use("linear_gelu=triton"):
        for rows in (5, 4, 5):
            ops.linear_gelu(x[:rows], weight, bias)
    assert "new_empty" in made, "the result is seen"
    assert not {"tensor", "as_tensor", "full", "zeros", "arange", "cuda", "copy_"} & set(made)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(5, 41)}, "x has shape"),
        ({"x": torch.zeros(5, 40, dtype=torch.float16)}, "weight torch.float32"),
        ({"weight": torch.zeros(48, 80)[:, ::2]}, "contiguous"),
        ({"bias": torch.zeros(47)}, "bias has shape"),
        ({"bias": torch.zeros(48, dtype=torch.float16)}, "bias has shape"),
    ],
)
def test_bad_layers(change: dict[str, torch.Tensor], message: str) -> None:
    given = {"x": torch.zeros(5, 40), "weight": torch.zeros(48, 40), "bias": torch.zeros(48), **change}
    with pytest.raises(ValueError, match=message):
        linear_gelu(given["x"], given["weight"], given["bias"])


def test_no_rows_of_a_layer() -> None:
    assert linear_gelu(randn(0, 40, seed=1), randn(48, 40, seed=2)).shape == (0, 48)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(33, 41)}, "x has shape"),
        ({"x": torch.zeros(33, 40).double(), "weight": torch.zeros(2, 40, 48).double()}, "float64"),
        ({"x": torch.zeros(33, 40, dtype=torch.float16)}, "weight torch.float32"),
        ({"x": torch.zeros(33, 80)[:, ::2]}, "x has strides"),
        ({"x": torch.zeros(33, 42)[:, 1:41]}, "x "),
        ({"x": torch.zeros(1, 40).expand(33, 40)}, "overlap"),
        ({"weight": torch.zeros(2, 40, 96)[:, :, ::2]}, "weight has shape"),
        ({"weight": torch.zeros(2, 40, 50)}, "weight has rows of 50"),
        ({"weight": torch.zeros(0, 40, 48)}, "not 0"),
        ({"offsets": torch.zeros(3)}, "offsets has shape"),
        ({"offsets": torch.zeros(4, dtype=torch.int32)}, "offsets has shape"),
        ({"bias": torch.zeros(2, 47)}, "bias has shape"),
        ({"bias": torch.zeros(2, 48, dtype=torch.float16)}, "bias is torch.float16"),
        ({"gate": torch.zeros(32)}, "gate has shape"),
        ({"gate": torch.zeros(33, dtype=torch.float16)}, "gate is torch.float16"),
        ({"scatter": torch.zeros(33, dtype=torch.int64)}, "scatter is torch.int64"),
    ],
)
def test_bad_input(change: dict[str, torch.Tensor], message: str) -> None:
    arguments = Case((20, 13)).arguments()
    moved = {name: tensor.to(DEVICE) if tensor.is_contiguous() else tensor for name, tensor in change.items()}
    if any(tensor.device != DEVICE for tensor in moved.values()) and DEVICE.type == "cuda":
        pytest.skip("the strides of this input are lost on the way to the device")
    with pytest.raises(ValueError, match=message):
        grouped_gemm(**{**arguments, **moved})


@pytest.mark.skipif(DEVICE.type != "cpu", reason="offsets on a device are taken on trust")
@pytest.mark.parametrize("offsets", [[0, 20, 32], [1, 20, 33], [0, 34, 33], [0, -1, 33]])
@pytest.mark.parametrize("operation", [grouped_gemm, plain.grouped_gemm])
def test_offsets_on_a_cpu_are_checked(offsets: list[int], operation: Operation) -> None:
    arguments = {**Case((20, 13)).arguments(), "offsets": torch.tensor(offsets, dtype=torch.int32)}
    with pytest.raises(ValueError, match="offsets are"):
        operation(**arguments)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="the interpreter checks offsets")
def test_wild_numbers_stay_inside() -> None:
    """Run under compute-sanitizer this finds nothing."""
    wild = torch.tensor([-5, 10**6, -(2**31)], dtype=torch.int32, device=DEVICE)
    arguments = Case((20, 13), scatter=True).arguments()
    for name in ("offsets", "scatter"):
        values = wild if name == "offsets" else wild.repeat(11)
        grouped_gemm(**{**arguments, name: values}, tile=SMALL)
    torch.cuda.synchronize()


@pytest.mark.parametrize(
    "launcher", ["grouped_gemm", "linear_gelu", "grouped_gemm_fp8", "quantise_rows", "permute_rows"]
)
def test_launches_go_to_the_device_of_their_inputs(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current device, which may be another one than that of the tensors."""
    given = Case((20, 13), 32, 48).arguments()
    x, weight, offsets = given["x"], given["weight"], given["offsets"]
    q, scale = plain_quantise.quantise_rows(x)
    w, w_scale = plain_quantise.quantise_weight(weight)
    position = torch.arange(33, dtype=torch.int32, device=DEVICE)[:, None]
    calls: dict[str, Callable[[], object]] = {
        "grouped_gemm": lambda: grouped_gemm(x, weight, offsets, tile=SMALL),
        "linear_gelu": lambda: linear_gelu(x, weight[0].mT.contiguous(), tile=SMALL),
        "grouped_gemm_fp8": lambda: grouped_gemm_fp8(q, scale, w, w_scale, offsets, tile=replace(SMALL, block_k=32)),
        "quantise_rows": lambda: quantise_rows(x),
        "permute_rows": lambda: permute_rows(x, Permutation(position[:, 0], scale, offsets, offsets, position)),
    }
    guarded: list[torch.device] = []

    def guard(tensor: torch.Tensor) -> AbstractContextManager[None]:
        guarded.append(tensor.device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device_of", guard)
    calls[launcher]()
    assert guarded == [DEVICE]


def test_plain_form_goes_backward() -> None:
    weight = torch.randn(3, 8, 8, dtype=torch.float64).mT.requires_grad_()
    x = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    gate = torch.rand(9, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    scatter = torch.randperm(9).int()

    def full(*inputs: torch.Tensor) -> torch.Tensor:
        x, weight, bias, gate = inputs
        return plain.grouped_gemm(x, weight, offsets, bias, gelu=True, gate=gate, scatter=scatter)

    assert torch.autograd.gradcheck(full, (x, weight, bias, gate))
    assert torch.autograd.gradcheck(lambda x, weight: plain.grouped_gemm(x, weight, offsets[:3]), (x[:4], weight[:2]))


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_grouped_mm(transposed: bool) -> None:
    """Also where the gradient that comes in is one number seen as a matrix, and where a group is empty."""
    case = Case((20, 0, 13), 16, 32, transposed=transposed)
    found = []
    for dtype in (torch.float32, torch.float64):
        arguments = {name: value.cpu() for name, value in case.arguments().items() if name != "gelu"}
        x, weight = (arguments[name].to(dtype).requires_grad_() for name in ("x", "weight"))
        plain.grouped_gemm(x, weight, arguments["offsets"]).sum().backward()
        assert x.grad is not None and weight.grad is not None
        found.append((x.grad, weight.grad))
    for result, expected in zip(*found, strict=True):
        assert relative_error(result, expected) <= 1e-5


KINDS = ["bf16", "fp16", "fp32", "fp8/rows", "fp8/blocks"]


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_fit_a_multiprocessor(kind: str) -> None:
    """Stages of rows and columns, and what the epilogue of a flattened loop needs, for each program."""
    size = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1}[kind.split("/")[0]]
    defaults = [gemm_tile(kind, m, experts, n) for m in (1, 5000, 300000) for experts in (1, 80) for n in (64, 1792)]
    for tile in (*defaults, *gemm_candidates(kind)):
        stages = (tile.block_m + tile.block_n) * tile.block_k * size * tile.num_stages
        assert tile.programs * (stages + 1024) <= 227 * 1024
        assert kind != "fp8/blocks" or (tile.block_k, 128 % tile.block_n) == (128, 0)


@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp8/rows"])
def test_columns_that_are_no_multiple_of_16_get_a_narrow_tile(kind: str) -> None:
    """They are stored one by one, which in a wide tile takes more registers than there are."""
    assert [gemm_tile(kind, 10**6, 80, n).block_n for n in (1792, 1784, 1793)] == [256, 128, 128]


def test_key_of_a_size() -> None:
    assert gemm_key("bf16", 80 * 3000, 80, 1792, 3072) == "grouped_gemm/bf16/n1792k3072/m4096"
    assert gemm_key("fp8/rows", 0, 80, 8, 8).endswith("/m16")
    assert gemm_key("fp8/rows", 10**7, 1, 8, 8).endswith("/m8192")
