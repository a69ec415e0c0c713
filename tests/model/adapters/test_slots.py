"""Sequences with adapters in a batch equal networks with the changes in their weights, each alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fixtures.adapters import changes, fuse, host_adapter, use_of
from zoetrope.kernels import CuSeqlens
from zoetrope.model.adapters.registered import HostAdapter
from zoetrope.model.adapters.slots import AdapterSlots, NoSlot
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.adapted import BlockSlots, Fan, SlotRows, SlotUse, add_product
from zoetrope.model.network.experts import with_added
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.quantized import quantize_network
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.specs import SegmentSpec

CHANNELS, TEXT_DIM, IMAGE_DIM, HINT_CHANNELS, RANK = 4, 12, 10, 6, 16
SCHEDULER = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"in_channels": CHANNELS + 1, "image_dim": IMAGE_DIM, "added_kv_proj_dim": 24},
    "vace": {"vace_layers": (0, 1), "vace_in_channels": HINT_CHANNELS},
    "experts": {
        "moe": MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=8, shared_dim=8),
    },
}
# For each segment the adapters that it has, by number, with their strengths: three, two at once, and none.
MIX: tuple[tuple[tuple[int, float], ...], ...] = (
    ((0, 1.0),),
    (),
    ((1, 0.7),),
    ((2, 1.0), (0, -1.5)),
    ((0, 1.0),),
    ((2, 2.0),),
)


def network_of(family: str, seed: int = 0) -> WanTransformer:
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
    }
    return WanTransformer(TransformerConfig(**(shape | FAMILIES[family]))).eval().requires_grad_(False)


def segment(of: Denoiser, seed: int, loras: Sequence[AdapterUse] = (), *, guidance: float = 2.0) -> Segment:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    config, shape = of.transformer.config, (CHANNELS, 1 + seed % 3, 2, 4)
    conditions = Conditions(
        random(3 + seed, TEXT_DIM),
        random(2, TEXT_DIM),
        channels=random(1, *shape[1:]) if config.image_dim else None,
        image=random(4, IMAGE_DIM) if config.image_dim else None,
        hints=random(HINT_CHANNELS, *shape[1:]) if config.vace_layers else None,
        hint_scales=(1.0, 0.5) if config.vace_layers else (),
    )
    return of.start(SegmentSpec(str(seed), shape, 3, guidance, seed, loras=tuple(loras)), conditions)


def adapters_of(network: Network) -> list[HostAdapter]:
    return [host_adapter(f"digest-{n}", changes(network, n, rank)) for n, rank in enumerate((4, 7, 3))]


def with_slots(denoiser: Denoiser, count: int = 4) -> Denoiser:
    denoiser.adapters = AdapterSlots({"any": denoiser.transformer}, count, RANK)
    return denoiser


def begin(denoiser: Denoiser, number: int, adapters: Sequence[HostAdapter]) -> Segment:
    """The segment of `MIX` with its adapters in a slot."""
    chosen = MIX[number]
    made = segment(denoiser, number, [use_of(adapters[i], strength) for i, strength in chosen])
    if chosen:
        assert denoiser.adapters is not None
        denoiser.adapters.acquire(made.spec.id, [adapters[i] for i, _ in chosen])
    return made


def expected_of(network: Network, number: int, adapters: Sequence[HostAdapter], steps: int) -> torch.Tensor:
    changed = [(adapters[i].of("any"), strength) for i, strength in MIX[number]]
    denoiser = Denoiser(fuse(deepcopy(network), changed), SCHEDULER)
    alone = segment(denoiser, number)
    for _ in range(steps):
        denoiser.step([alone])
    return alone.latents


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_with_adapters_equal_networks_with_the_changes_in_their_weights(family: str) -> None:
    network = network_of(family)
    adapters = adapters_of(network)
    denoiser = with_slots(Denoiser(deepcopy(network), SCHEDULER))
    segments = [begin(denoiser, number, adapters) for number in range(len(MIX))]
    plain = expected_of(network, 1, adapters, 2)
    for _ in range(2):
        denoiser.step(segments)
    for number, made in enumerate(segments):
        expected = expected_of(network, number, adapters, 2)
        assert torch.allclose(made.latents, expected, rtol=0, atol=1e-5), number
        if MIX[number]:
            bare = segment(other := Denoiser(deepcopy(network), SCHEDULER), number)
            other.step([bare])
            other.step([bare])
            assert not torch.allclose(made.latents, bare.latents, rtol=0, atol=1e-2), "the adapter does something"
        else:
            assert torch.allclose(made.latents, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fixed", [True, False], ids=["remembered text", "text in each layer"])
def test_a_segment_gives_the_same_alone_in_its_slot(fixed: bool) -> None:
    network = network_of("plain")
    adapters = adapters_of(network)
    for number in range(len(MIX)):
        module_of(network).requires_grad_(not fixed)
        denoiser = with_slots(Denoiser(deepcopy(network), SCHEDULER))
        alone = begin(denoiser, number, adapters)
        denoiser.step([alone])
        expected = expected_of(network.requires_grad_(False), number, adapters, 1)
        assert torch.allclose(alone.latents, expected, rtol=0, atol=1e-5), number


def test_what_is_remembered_of_a_text_is_of_its_adapter_and_strength() -> None:
    """The same tensors of text with one adapter after another: the segment's conditions are one object."""
    network = network_of("plain")
    adapters = adapters_of(network)
    denoiser = with_slots(Denoiser(deepcopy(network), SCHEDULER))
    made = segment(denoiser, 0)
    latents = made.latents
    for chosen in (((0, 1.0),), (), ((1, 1.0),), ((1, 0.5),), ((0, 1.0),)):
        made = replace(made, spec=replace(made.spec, loras=tuple(use_of(adapters[i], s) for i, s in chosen)))
        made = replace(made, latents=latents, sampler=segment(denoiser, 0).sampler)
        if chosen:
            assert denoiser.adapters is not None
            denoiser.adapters.acquire("0", [adapters[i] for i, _ in chosen])
        denoiser.step([made])
        other = Denoiser(fuse(deepcopy(network), [(adapters[i].of("any"), s) for i, s in chosen]), SCHEDULER)
        expected = segment(other, 0)
        other.step([expected])
        assert torch.allclose(made.latents, expected.latents, rtol=0, atol=1e-5), chosen


def test_in_8_bits_adapters_are_as_exact_as_elsewhere() -> None:
    """The change of the velocity is that of the exact network, but for what the 8 bits change in the rest."""
    torch.manual_seed(0)
    config = TransformerConfig(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=TEXT_DIM, freq_dim=16,
        ffn_dim=48, num_layers=4,
    )  # fmt: skip
    exact = WanTransformer(config).eval().requires_grad_(False)
    adapters = [host_adapter("digest", changes(exact, 1, 8))]
    with torch.device("meta"):
        rounded = WanTransformer(config)
    waiting = quantize_network(rounded, torch.float32)
    state = exact.state_dict()
    rounded.load_state_dict({k: v for k, v in state.items() if k not in waiting}, strict=False, assign=True)
    for name, weight in waiting.items():
        weight.take(state[name])
    moved = {}
    for name, network in (("exact", exact), ("rounded", rounded.eval().requires_grad_(False))):
        denoiser = with_slots(Denoiser(network, SCHEDULER), 1)
        assert denoiser.adapters is not None
        results = []
        for loras in ((), (use_of(adapters[0]),)):
            made = segment(denoiser, 5, loras)
            if loras:
                denoiser.adapters.acquire(made.spec.id, adapters)
            denoiser.step([made])
            results.append(made.latents)
        moved[name] = results[1] - results[0]
    assert float(moved["exact"].norm()) > 0.1
    assert float((moved["rounded"] - moved["exact"]).norm() / moved["exact"].norm()) < 0.15


def test_the_low_noise_expert_has_a_strength_and_changes_of_its_own() -> None:
    high, low = network_of("plain", 0), network_of("plain", 1)
    to_high, to_low = changes(high, 1, 4), changes(low, 2, 5)
    adapter = HostAdapter("pair", {"high": to_high, "low": to_low})
    denoiser = Denoiser(deepcopy(high), SCHEDULER, deepcopy(low), boundary=0.5)
    denoiser.adapters = AdapterSlots({"high": denoiser.transformer, "low": denoiser.low_noise}, 2, RANK)  # type: ignore[dict-item]
    denoiser.adapters.acquire("3", [adapter])
    made = segment(denoiser, 3, [use_of(adapter, 0.5, -1.0)])
    fused = Denoiser(fuse(deepcopy(high), [(to_high, 0.5)]), SCHEDULER, fuse(deepcopy(low), [(to_low, -1.0)]), 0.5)
    expected = segment(fused, 3)
    experts = set()
    while not made.sampler.done:
        experts.add(denoiser.takes_low_noise(made))
        denoiser.step([made])
        fused.step([expected])
        assert torch.allclose(made.latents, expected.latents, rtol=0, atol=1e-5)
    assert experts == {True, False}


def test_slots_are_shared_by_equal_adapters_and_make_room_when_nobody_needs_them() -> None:
    network = network_of("plain")
    first, second, third = adapters_of(network)
    slots = AdapterSlots({"any": network}, 2, RANK)
    slots.acquire("a", [first])
    slots.acquire("b", [first])
    slots.acquire("c", [second])
    assert slots.use("a", [use_of(first)], False).slot == slots.use("b", [use_of(first, 0.5)], False).slot
    with pytest.raises(NoSlot, match="all 2 adapter slots are in use"):
        slots.acquire("d", [third])
    slots.release("a")
    with pytest.raises(NoSlot):
        slots.acquire("d", [third])  # b still needs it
    slots.release("c")
    assert slots.holds(("digest-1",)), "it stays while there is room"
    slots.acquire("d", [third])
    assert not slots.holds(("digest-1",)) and slots.holds(("digest-0",))
    with pytest.raises(RuntimeError, match="segment c: its adapters are not loaded"):
        slots.use("c", [use_of(second)], False)
    with pytest.raises(RuntimeError, match="segment b: its adapters are not loaded"):
        slots.use("b", [use_of(third)], False)
    with pytest.raises(ValueError, match=r"adapters of rank 4 \+ 7 \+ 7 in a slot of rank 16"):
        slots.acquire("e", [first, second, replace(second, digest="other")])


def test_the_least_recently_used_slot_makes_room() -> None:
    network = network_of("plain")
    slots = AdapterSlots({"any": network}, 2, RANK)
    first, second, third = adapters_of(network)
    for holder, adapter in (("a", first), ("b", second), ("a", first)):
        slots.acquire(holder, [adapter])
        slots.release(holder)
    slots.acquire("c", [third])
    assert slots.holds(("digest-0",)) and not slots.holds(("digest-1",))


def test_a_segment_never_runs_without_its_adapters() -> None:
    network = network_of("plain")
    denoiser = Denoiser(network, SCHEDULER)
    made = segment(denoiser, 1, [use_of(adapters_of(network)[0])])
    with pytest.raises(RuntimeError, match="segment 1: its adapters are not loaded"):
        denoiser.step([made])
    with_slots(denoiser)
    with pytest.raises(RuntimeError, match="segment 1: its adapters are not loaded"):
        denoiser.step([made])
    assert made.sampler.step == 0


def test_rows_are_a_range_where_they_lie_together_and_listed_elsewhere() -> None:
    cpu, cu = torch.device("cpu"), CuSeqlens((3, 2, 4))
    one, two = SlotUse(1, 4, ("x",), (1.0, 1.0)), SlotUse(0, 4, ("y",), (0.5, 1.0))
    rows = SlotRows.of([None, one, one], cu, cpu)
    assert rows is not None and (rows.rows, rows.slot, rows.offsets, rows.factors) == (slice(3, 9), 1, None, None)
    rows = SlotRows.of([one, None, two], cu, cpu)
    assert rows is not None and rows.offsets is not None and rows.factors is not None
    assert isinstance(rows.rows, torch.Tensor) and rows.rows.tolist() == [5, 6, 7, 8, 0, 1, 2]
    assert rows.offsets.tolist() == [0, 4, 7, 7, 7]
    assert rows.factors.tolist() == [[0.5, 1.0]] * 4 + [[1.0, 1.0]] * 3
    assert SlotRows.of([None, None, None], cu, cpu) is None
    assert SlotRows.of([None, one, None], CuSeqlens((3, 0, 4)), cpu) is None


def test_what_a_gpu_computes_in_one_product_a_cpu_computes_in_several() -> None:
    """Both ways of adding to the rows of a batch, and of the layer before a GELU."""
    torch.manual_seed(0)
    cpu, cu = torch.device("cpu"), CuSeqlens((3, 5, 2, 4, 1))
    one, two = SlotUse(2, 4, ("x",), (0.5,) * RANK), SlotUse(0, 4, ("y",), (1.0,) * RANK)
    layer = torch.nn.Linear(24, 40).requires_grad_(False)
    slots = BlockSlots({"ffn.in": Fan(("ffn.net.0.proj",), torch.randn(4, 24, RANK), (torch.randn(4, RANK, 40),))})
    x = torch.randn(cu.total, 24)
    for uses in ([None, two, two, one, None], [None, one, one, one, None], [one, None, two, one, two]):
        rows = SlotRows.of(uses, cu, cpu)
        assert rows is not None
        expected = layer(x)
        for use, start, stop in zip(uses, cu.offsets, cu.offsets[1:], strict=False):
            if use is not None:
                fan = slots.fans["ffn.in"]
                expected[start:stop] += use.factors[0] * x[start:stop] @ fan.a[use.slot] @ fan.b[0][use.slot]
        more = slots.shrink("ffn.in", x, rows)
        assert more is not None
        assert torch.allclose(more.add(layer(x), "ffn.net.0.proj"), expected, rtol=0, atol=1e-4)
        for grouped in (True, False):
            y = rows.take(layer(x)).clone()
            add_product(y, more.h, slots.fans["ffn.in"].b[0], rows, grouped=grouped)
            assert torch.allclose(y, rows.take(expected), rtol=0, atol=1e-4)
        for apart in (True, False):
            made = with_added(layer, x, more, apart=apart)
            assert torch.allclose(made, torch.nn.functional.gelu(expected, approximate="tanh"), rtol=0, atol=1e-4)


class Recorder(TorchDispatchMode):
    """Lists the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_batch_without_adapters_pays_nothing() -> None:
    """It runs the same operations whether there are slots or not, and whether others have used them or not."""
    network = network_of("plain")
    told = []
    denoiser = Denoiser(network, SCHEDULER)
    denoiser.step([segment(denoiser, 1)])  # makes the tables that are kept
    for turn in range(3):
        if turn == 1:
            with_slots(denoiser)
        if turn == 2:
            denoiser.step([begin(denoiser, 0, adapters_of(network))])
        made = segment(denoiser, 1)
        with Recorder() as recorder:
            denoiser.step([made])
        told.append(recorder.names)
    assert len(told[0]) > 100 and told[0] == told[1] == told[2]
