"""What fits on GPUs of 24, 48 and 80 GiB, and how: as far as shapes and datasheets say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.fixtures.random_checkpoints import write_a14b, write_t2v
from zoetrope.cluster.planning.device_plan import device_plan
from zoetrope.cluster.planning.hardware import GIB, hardware, with_memory
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.residence import ClipWork, Residence, residence, ways
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.load_options import LoadOptions, Offload
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.sizes import SIZES
from zoetrope.model.streaming.device_plan import ALL_STAYS, DevicePlan
from zoetrope.model.streaming.loading import WeightRoom

CARDS = {24: "rtx4090", 48: "l40s", 80: "h100"}
MODELS = {"1.3b": "wan2.1-t2v-1.3b", "5b": "wan2.2-ti2v-5b", "14b": "wan2.1-t2v-14b", "a14b": "wan2.2-t2v-a14b"}
CPU = torch.device("cpu")


def work(model: str, memory: int, size: str, quantize: Quantize = "none", *, shared: bool = True) -> ClipWork:
    gear = with_memory(hardware(CARDS[memory]), memory * GIB)
    return ClipWork.of(
        PRESETS[MODELS[model]], gear, roofline(gear), SIZES[size]["16:9"], quantize=quantize, shared=shared
    )


def found(model: str, memory: int, size: str, quantize: Quantize = "none", offload: Offload = "auto") -> Residence:
    way = residence(work(model, memory, size, quantize), offload)
    assert way is not None and way.memory.total <= way.memory.available
    return way


# (model, GiB, size, form): are blocks streamed, are guidance branches apart
TABLE: dict[tuple[str, int, str, Quantize], tuple[bool, bool]] = {
    ("1.3b", 24, "720p", "none"): (False, False),
    ("5b", 24, "720p", "none"): (False, False),
    ("14b", 24, "480p", "fp8"): (False, True),
    ("14b", 24, "720p", "fp8"): (True, True),
    ("14b", 24, "480p", "none"): (True, False),
    ("a14b", 24, "720p", "fp8"): (True, True),
    ("14b", 48, "480p", "none"): (False, False),
    ("14b", 48, "720p", "none"): (False, True),
    ("14b", 48, "720p", "fp8"): (False, False),
    ("a14b", 48, "480p", "fp8"): (False, False),
    ("a14b", 48, "720p", "fp8"): (False, True),
    ("a14b", 48, "480p", "none"): (True, False),
    ("14b", 80, "720p", "none"): (False, False),
    ("a14b", 80, "720p", "none"): (False, True),
    ("a14b", 80, "720p", "fp8"): (False, False),
}


@pytest.mark.parametrize("case", TABLE, ids=lambda case: "-".join(map(str, case)))
def test_what_fits_on_one_card(case: tuple[str, int, str, Quantize]) -> None:
    way = found(*case)
    assert (way.streams, way.passes > 1) == TABLE[case]


def test_the_ways_come_in_order_of_what_they_cost() -> None:
    kinds = [(way.encoders_stay, way.passes, way.streams) for way in ways(work("14b", 24, "720p"))]
    assert kinds == [(True, 1, False), (False, 1, False), (False, 2, False), (False, 1, True), (False, 2, True)]
    never = [(way.encoders_stay, way.passes, way.streams) for way in ways(work("14b", 24, "720p"), "never")]
    assert never == [(True, 1, False), (True, 2, False)]
    assert all(way.streams for way in ways(work("1.3b", 80, "480p"), "always"))
    assert residence(work("a14b", 24, "480p"), "never") is None


def test_streaming_is_free_above_the_break_even_and_costs_the_copies_below() -> None:
    long = found("14b", 24, "480p", offload="always")
    assert long.tokens > long.break_even
    assert long.seconds == pytest.approx(found("14b", 80, "480p").seconds, rel=6), "on another card"
    gear = with_memory(hardware("h100"), 24 * GIB)
    short = ClipWork(PRESETS["wan2.1-t2v-14b"], gear, roofline(gear), 480, 272, 17, shared=False)
    streamed = next(ways(short, "always"))
    copies = streamed.memory.host / gear.host
    assert streamed.tokens * streamed.branches < streamed.break_even
    assert streamed.seconds == pytest.approx(copies, rel=0.05)
    assert streamed.seconds > next(ways(short, "never")).seconds


def test_both_noise_experts_are_streamed_through_the_same_slabs() -> None:
    one, two = (next(ways(work(model, 24, "480p"), "always")) for model in ("14b", "a14b"))
    assert two.memory.host == 2 * one.memory.host
    assert sum(two.split.slabs) == sum(one.split.slabs)


def test_a_cpu_streams_only_if_told_to(tmp_path: Path) -> None:
    write_t2v(tmp_path / "wan")
    for offload, expected in (("auto", ALL_STAYS), ("never", ALL_STAYS), ("always", DevicePlan(WeightRoom(0)))):
        card = find_model(str(tmp_path / "wan"), LoadOptions(offload=offload))  # type: ignore[arg-type]
        assert device_plan(card, CPU) == expected


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU whose memory a test chooses."""
    it = SimpleNamespace(memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (it.memory, it.memory))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA GeForce RTX 4090")
    return it


def test_a_gpu_is_planned_by_its_memory(gpu: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_t2v(tmp_path / "wan")
    card, device = find_model(str(tmp_path / "wan")), torch.device("cuda", 0)
    preset = replace(PRESETS["wan2.1-t2v-14b"], sampling=replace(PRESETS["wan2.1-t2v-14b"].sampling, frames=81))
    monkeypatch.setattr("zoetrope.cluster.planning.device_plan.preset_of", lambda card: preset)
    small = device_plan(card, device)
    assert small.room is not None and 1.8e9 < small.room.bytes < 2.1e9 and not small.encoders_stay
    assert small.most_tokens == 2 * 75_600, "both branches of a clip at 720p"
    assert device_plan(card, device, ranks=4).room is None, "four ranks share the activations"
    gpu.memory = 8 * GIB
    with pytest.raises(
        ModelError, match=r"wan needs .* GiB of a GPU for a clip of 848x480 .*rtx4090 has 8\.0; --quantize"
    ):
        device_plan(card, device)
    gpu.memory = 141 * GIB
    assert device_plan(card, device) == ALL_STAYS
    always = device_plan(replace(card, load=LoadOptions(offload="always")), device, groups=2)
    assert always.room == WeightRoom(0, sharers=2)
    gpu.memory = 24 * GIB
    with pytest.raises(ModelError, match="--offload auto streams weights"):
        device_plan(replace(card, load=LoadOptions(offload="never")), device)


def test_a_gang_of_one_noise_expert_has_room_for_one(
    gpu: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_a14b(tmp_path / "a14b")
    card, device = find_model(str(tmp_path / "a14b")), torch.device("cuda", 0)
    monkeypatch.setattr("zoetrope.cluster.planning.device_plan.preset_of", lambda card: PRESETS["wan2.2-t2v-a14b"])
    gpu.memory = 48 * GIB
    assert device_plan(card, device).room is not None
    assert device_plan(card, device, role="low").room is None
