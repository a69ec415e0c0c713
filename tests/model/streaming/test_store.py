"""Streamed layers give what resident ones give, bit for bit, whatever the copies' timing; and never more than fits."""

from __future__ import annotations

import pytest
import torch

from tests.model.streaming.hazards import HazardCopies, Timing, ahead, hazards
from tests.model.streaming.streamed_networks import (
    KINDS,
    Streamed,
    config_of,
    denoiser,
    latents,
    network,
    segment,
    streamed,
)
from zoetrope.model.network.protocol import meta_network, module_of
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.streaming.copies import ThreadSlabCopies
from zoetrope.model.streaming.host import HostMemory
from zoetrope.model.streaming.loading import StreamedLoading, WeightRoom, layer_bytes
from zoetrope.model.streaming.slab import ALIGNMENT, SlabLayout
from zoetrope.model.streaming.store import BlockStore

TIMINGS: tuple[Timing, ...] = ("early", "late", "thread")


def equal(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    assert all(bool(x.isfinite().all()) and float(x.norm()) > 0.1 for x in expected)
    return all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def check_order(made: Streamed) -> None:
    assert hazards(made.copies.log, made.host_of()) == []


def device_bytes(made: Streamed) -> int:
    """The memory behind all layers' tensors."""
    found = {}
    for net in made.networks:
        for layer in net.layers():
            for tensor in (*layer.parameters(), *layer.buffers()):
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_bitwise_those_of_a_resident_network(kind: str, timing: Timing) -> None:
    made = streamed(kind, HazardCopies(timing, seed=3))
    assert equal(latents(made.networks), latents([network(kind)]))
    check_order(made)
    assert all(ahead(made.copies.log, made.host_of())), "every layer was on its way while another computed"


@pytest.mark.parametrize("quantize", ["none", "fp8"])
@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_weights_in_other_forms_are_streamed_whole(kind: str, quantize: Quantize) -> None:
    made = streamed(kind, HazardCopies("thread"), quantize=quantize, dtype=torch.bfloat16)
    assert equal(latents(made.networks), latents([network(kind, quantize=quantize, dtype=torch.bfloat16)]))
    check_order(made)
    if quantize == "fp8":
        unit = next(unit for layer, unit in made.store._units.items() if getattr(layer, "quantised", False))
        assert {place.dtype for place in unit.layout.places} == {torch.float8_e4m3fn, torch.bfloat16, torch.float32}


@pytest.mark.parametrize("timing", TIMINGS)
def test_both_noise_experts_share_the_slabs(timing: Timing) -> None:
    made = streamed("dense", HazardCopies(timing), pair=True)
    assert equal(latents(made.networks), latents([network("dense", 0), network("dense", 1)]))
    check_order(made)
    one = next(iter(made.store._units.values())).layout.size
    assert device_bytes(made) == made.store.slab_bytes == 2 * one
    assert made.store.streamed == 24


def test_steps_that_alternate_between_noise_experts_are_foreseen() -> None:
    made = streamed("dense", HazardCopies(), pair=True)
    of = denoiser(made.networks)
    high, low = segment(of, 1, 20), segment(of, 2, 20)
    while not of.takes_low_noise(low):
        of.step([low])
    assert not of.takes_low_noise(high)
    of.step([high, low])
    of.step([high, low])
    started, copies = len(made.copies.log), made.store.copies_started
    of.step([high, low])
    assert made.store.copies_started - copies == 24, "each layer once, none in vain"
    assert all(ahead(made.copies.log[started - 60 :], made.host_of()))


@pytest.mark.parametrize(("kind", "blocks"), [("dense", 2), ("odd", 3)])
def test_a_network_of_twelve_blocks_never_has_more_than_three_on_the_device(kind: str, blocks: int) -> None:
    made = streamed(kind, HazardCopies("thread"))
    latents(made.networks)
    each = next(iter(made.store._units.values())).layout.size
    assert device_bytes(made) <= blocks * each
    assert made.loading.split is not None and made.loading.split.device_bytes <= blocks * each
    assert made.store.host_bytes == made.store.streamed * each


@pytest.mark.parametrize("room", [2, 5, 8, 11, 12])
def test_as_many_layers_stay_as_there_is_room_for(room: int) -> None:
    cpu = torch.device("cpu")
    _, beside = layer_bytes(meta_network(config_of("dense")), torch.float32)
    first = StreamedLoading(WeightRoom(0), cpu)
    network("dense", loading=first)
    assert first.split is not None
    loading = StreamedLoading(WeightRoom(beside + room * first.split.sizes[0]), cpu)
    made = network("dense", loading=loading)
    store = loading.finish()
    kept = 12 if room == 12 else (room - 2) // 2 * 2
    assert loading.split is not None and len(loading.split.resident) == kept
    assert (0 if store is None else store.streamed) == 12 - kept
    assert equal(latents([made]), latents([network("dense")]))


def test_at_most_one_layer_is_on_the_device_while_they_load() -> None:
    class Counting(HostMemory):
        most = 0

        def take(self, size: int) -> torch.Tensor:
            whole = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held() if not in_host(t)}
            Counting.most = max(Counting.most, sum(whole.values()))
            return super().take(size)

    made: list[torch.nn.Module] = []
    hosts: list[HostMemory] = []

    def held() -> list[torch.Tensor]:
        layers = [layer for module in made for layer in module.get_submodule("blocks").children()]
        return [t for layer in layers for t in (*layer.parameters(), *layer.buffers()) if t.device.type == "cpu"]

    def in_host(tensor: torch.Tensor) -> bool:
        return any(tensor.untyped_storage().data_ptr() == part.untyped_storage().data_ptr() for part in parts(hosts))

    def parts(of: list[HostMemory]) -> list[torch.Tensor]:
        return [part for host in of for part in host._free]

    class Watching(StreamedLoading):
        def begin(self, network, names, dtype, ranks=1):  # type: ignore[no-untyped-def]
            made.append(module_of(network))
            placed = super().begin(network, names, dtype, ranks)
            assert self._store is not None
            if not hosts:
                hosts.append(Counting(self._store._host._expected, pinned=False))
                self._store._host = hosts[0]
            return placed

    loading = Watching(WeightRoom(0), torch.device("cpu"))
    network("dense", loading=loading)
    store = loading.finish()
    assert store is not None
    each = next(iter(store._units.values())).layout.size
    assert 0.9 * each < Counting.most <= each


def test_a_failed_pass_leaves_a_consistent_store() -> None:
    made = streamed("dense", HazardCopies("thread"))
    expected = latents([network("dense")])
    of, layers = denoiser(made.networks), list(made.networks[0].layers())
    for number in range(12):
        layer, forward = layers[number], layers[number].forward

        def fail(*_: object) -> None:
            raise RuntimeError("out of memory")

        layer.forward = fail
        with pytest.raises(RuntimeError, match="out of memory"):
            of.step([segment(of, 1)])
        assert made.copies.log[-3:][0].what == "drain", "copies have ended before the failure is told"
        layer.forward = forward
        assert equal(latents(made.networks), expected)
    check_order(made)


def test_a_copy_that_fails_is_made_again() -> None:
    copies = HazardCopies("late")
    made = streamed("dense", copies)
    expected = latents([network("dense")])
    of = denoiser(made.networks)
    failing = {copies._numbers + step for step in (2, 3, 4, 5)}
    copies.fails = failing.__contains__
    for _ in range(4):
        try:
            of.step([segment(of, 1)])
        except RuntimeError as error:
            assert str(error) == "the copy engine is lost"
    copies.fails = lambda number: False
    assert equal(latents(made.networks), expected)


def test_parameters_never_move() -> None:
    made = streamed("dense", HazardCopies())
    before = {name: p.data_ptr() for name, p in module_of(made.networks[0]).named_parameters()}
    kept = {name: id(p) for name, p in module_of(made.networks[0]).named_parameters()}
    latents(made.networks)
    assert before == {name: p.data_ptr() for name, p in module_of(made.networks[0]).named_parameters()}
    assert kept == {name: id(p) for name, p in module_of(made.networks[0]).named_parameters()}
    offsets = [place.offset for unit in made.store._units.values() for place in unit.layout.places]
    assert all(offset % ALIGNMENT == 0 for offset in offsets)


def test_the_thread_of_a_machine_without_a_gpu_copies_in_order() -> None:
    loading = StreamedLoading(WeightRoom(0), torch.device("cpu"))
    made = network("experts", loading=loading)
    store = loading.finish()
    assert store is not None and isinstance(store._copies, ThreadSlabCopies)
    assert equal(latents([made]), latents([network("experts")]))
    assert store._copies.drain(10)


def test_an_odd_number_of_streamed_layers_is_refused() -> None:
    store = BlockStore(torch.device("cpu"), HazardCopies(), HostMemory(0, pinned=False))
    with pytest.raises(ValueError, match="3 layers to stream"):
        store.begin([torch.nn.Linear(2, 2) for _ in range(3)])


def test_a_slab_holds_every_tensor_of_a_layer_in_its_own_layout() -> None:
    layer = torch.nn.Linear(6, 10)
    layer.register_buffer("turned", torch.arange(12.0).reshape(3, 4).T)
    layer.register_buffer("gaps", torch.arange(12.0)[::2])
    layer.register_buffer("bytes", torch.arange(5, dtype=torch.uint8), persistent=False)
    layer.again = layer.weight
    before = {name: value.clone() for name, value in (*layer.named_parameters(), *layer.named_buffers())}
    layout = SlabLayout.of(layer)
    assert layout.size == 5 * ALIGNMENT and len(layout.places) == 5
    slab = torch.zeros(layout.size, dtype=torch.uint8)
    layout.fill(slab)
    after = dict((*layer.named_parameters(), *layer.named_buffers()))
    assert after.keys() == before.keys() and layer.again is layer.weight
    for name, value in after.items():
        assert torch.equal(value, before[name]) and value.untyped_storage().data_ptr() == slab.data_ptr(), name
    assert after["turned"].stride() == (1, 4) and after["gaps"].stride() == (1,)
