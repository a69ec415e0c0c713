"""Plans of gangs: what is chosen and why, and refusals that say what would work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.dense_networks import write_dense_ti2v
from tests.fixtures.random_checkpoints import write_a14b, write_t2v
from zoetrope.cluster.planning.gang_plan import GangPlan, Overrides, PlanError, plan_gang, preset_of
from zoetrope.cluster.planning.hardware import GIB, hardware
from zoetrope.cluster.planning.rates import Rates, roofline
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS
from zoetrope.model.families.family import Preset
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.costs import rank_memory
from zoetrope.model.request.sizes import SIZES

H100 = roofline(hardware("h100"))


def plan(
    model: str | Preset,
    gpus: int,
    size: str = "720p",
    *,
    gpu: str = "h100",
    seconds: float = 5,
    domain: int = 8,
    batch: int = 1,
    overrides: Overrides | None = None,
    rates: Rates | None = None,
) -> GangPlan:
    preset = PRESETS[model] if isinstance(model, str) else model
    rates = rates or roofline(hardware(gpu))
    return plan_gang(
        preset, gpus, gpu, *SIZES[size]["16:9"], seconds,
        nvlink_domain=domain, batch=batch, overrides=overrides, rates=rates,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_a_plan_for_four_gpus(name: str) -> None:
    made = plan(name, 4, "480p")
    config = PRESETS[name].config
    assert made.ranks == made.cfg_groups * made.sequence_ranks == 4
    assert config.num_attention_heads % made.sequence_ranks == 0
    assert made.expert_ranks == (made.sequence_ranks if config.moe else 1)
    assert made.memory.total <= made.memory.available == 80 * GIB
    assert (made.sequences, made.domains, made.origin) == (2, 1, "roofline")
    assert made.why


def test_the_fastest_split_wins_and_the_others_are_told() -> None:
    made = plan("wan2.7-27b", 8, "1080p")
    others = [plan("wan2.7-27b", 8, "1080p", overrides=Overrides(cfg_groups=n)) for n in (1, 2)]
    assert made.time.total == min(other.time.total for other in others)
    slower = max(others, key=lambda other: other.time.total)
    assert (made.cfg_groups, made.sequence_ranks, made.expert_ranks) == (2, 4, 4)
    assert any(f"would take {slower.time.total:.3g} s a step" in reason for reason in made.why)
    assert any("20 of 80 experts" in reason for reason in made.why)


def test_memory_is_that_of_the_networks_shapes() -> None:
    made = plan("wan2.7-27b", 8, "1080p", overrides=Overrides(cfg_groups=1))
    held = rank_memory(PRESETS["wan2.7-27b"].config, 2 * 63_240, 8)
    assert (made.memory.weights, made.memory.activations) == (held.weights, held.activations)
    latents = 48 * 31 * 68 * 120 * 4
    keys_values = 2 * 2 * 30 * 512 * 3072 * 2  # of both branches, in 30 layers
    assert made.memory.buffers == 14 * latents + 2 * 63_240 // 8 * 8 * 3072 * 2 + keys_values
    assert made.memory.reserve == 6 * GIB
    pair = plan("wan2.7-27b", 8, "1080p", batch=2, overrides=Overrides(cfg_groups=1))
    assert pair.memory.activations == pytest.approx(2 * made.memory.activations, rel=1e-3)
    assert (pair.memory.weights, pair.sequences) == (made.memory.weights, 4)


def test_one_gpu_has_nothing_to_share() -> None:
    made = plan("wan2.1-t2v-14b", 1, "480p")
    assert (made.cfg_groups, made.sequence_ranks, made.time.traffic) == (1, 1, ())
    assert made.why[0].startswith("One rank holds the whole network")


def test_more_than_a_domain_means_a_guidance_group_in_each() -> None:
    made = plan("wan2.7-27b", 16)
    assert (made.cfg_groups, made.sequence_ranks, made.domains, made.domain_ranks) == (2, 8, 2, 8)
    assert made.time.sent("InfiniBand") == made.tokens * 4 * 48 * 2
    assert made.time.sent("NVLink") > 100 * made.time.sent("InfiniBand")
    assert any("only velocities cross InfiniBand" in reason for reason in made.why)
    wide = plan("wan2.1-t2v-14b", 10, domain=16)
    assert (wide.ranks, wide.domains) == (10, 1)


def test_without_guidance_there_is_one_group() -> None:
    preset = PRESETS["wan2.1-t2v-14b"]
    distilled = replace(preset, sampling=replace(preset.sampling, guidance=1.0))
    made = plan(distilled, 4)
    assert (made.cfg_groups, made.sequence_ranks, made.sequences) == (1, 4, 1)
    assert plan(distilled, 4, batch=2).cfg_groups == 2


def test_noise_experts_stay_together_where_they_fit() -> None:
    together = plan("wan2.2-t2v-a14b", 2)
    assert (together.noise_experts, together.gangs) == ("together", 1)
    forced = plan("wan2.2-t2v-a14b", 2, overrides=Overrides(noise_experts="apart"))
    assert (forced.noise_experts, forced.gangs) == ("apart", 2)
    assert together.memory.weights == 2 * forced.memory.weights
    apart = plan("wan2.2-t2v-a14b", 1, "1080p")
    assert apart.noise_experts == "apart"
    assert any("a segment moves over at the boundary" in reason for reason in apart.why)
    assert any("needs 102.0 GiB per rank of 80.0" in reason for reason in apart.why)
    with pytest.raises(PlanError, match=r"needs 102\.0 GiB per rank of 80\.0"):
        plan("wan2.2-t2v-a14b", 1, "1080p", overrides=Overrides(noise_experts="together"))
    assert plan("wan2.2-t2v-a14b", 1, "1080p", gpu="h200").noise_experts == "together"


@pytest.mark.parametrize(
    ("model", "gpus", "size", "parts"),
    [
        ("wan2.7-27b", 6, "720p", ["6 ranks do not divide 24 heads x 80 experts", "8 or 4 ranks would work"]),
        ("wan2.1-t2v-14b", 3, "720p", ["3 ranks do not divide 40 heads", "4 or 2 ranks would work"]),
        ("wan2.7-27b", 1, "1080p", ["needs 90.5 GiB per rank of 80.0 (50.7 weights", "2 ranks or 720p would work"]),
        ("wan2.7-27b", 64, "720p", ["2 groups of 32 do not divide", "4 gangs of 16 would work"]),
        ("wan2.1-t2v-14b", 20, "720p", ["20 ranks do not fit into an NVLink domain of 8", "16 ranks would work"]),
        ("wan2.1-t2v-1.3b", 7, "480p", ["7 ranks do not divide 12 heads", "8 or 6 ranks would work"]),
    ],
)
def test_what_does_not_work_and_what_would(model: str, gpus: int, size: str, parts: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        plan(model, gpus, size)
    assert caught.value.field == "gpus"
    for part in parts:
        assert part in str(caught.value)


def test_what_is_proposed_does_work() -> None:
    for gpus in (8, 4):
        plan("wan2.7-27b", gpus)
    plan("wan2.7-27b", 2, "1080p")
    plan("wan2.7-27b", 1, "720p")
    plan("wan2.7-27b", 16)
    plan("wan2.1-t2v-1.3b", 8, "480p")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"gpus": 0}, "gpus", "0 is not at least 1"),
        ({"gpu_kind": "b200"}, "gpu", "'b200': it must be one of h100, h200, a100, l40s, rtx4090, cpu"),
        ({"width": 0}, "size", "0x720 has a side below 1"),
        ({"seconds": float("nan")}, "duration", "nan is not above 0"),
        ({"seconds": -1.0}, "duration", "-1.0 is not above 0"),
        ({"nvlink_domain": 0}, "nvlink", "0 is not at least 1"),
        ({"batch": 0}, "batch", "0 is not at least 1"),
        ({"overrides": Overrides(cfg_groups=3)}, "cfg_groups", "3 is neither 1 nor 2"),
    ],
)
def test_bad_arguments(change: dict[str, object], field: str, message: str) -> None:
    given = {"gpus": 4, "gpu_kind": "h100", "width": 1280, "height": 720, "seconds": 5.0, "rates": H100} | change
    with pytest.raises(PlanError, match=message) as caught:
        plan_gang(PRESETS["wan2.7-27b"], **given)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_nano_is_planned_at_its_own_size_and_segment_length() -> None:
    nano = find_model("nano")
    made = plan_gang(nano, 2, "cpu", 1280, 720, 5)
    assert (made.width, made.height, made.frames, made.tokens) == (40, 24, 17, 300)
    assert (made.gpu, made.is_gpu, made.ranks) == ("cpu", False, 2)
    assert made.memory.available == hardware("cpu").memory // 2


def test_checkpoint_directories_are_planned_too(tmp_path: Path) -> None:
    write_t2v(tmp_path / "wan")
    made = plan_gang(find_model(str(tmp_path / "wan")), 2, "h100", 32, 32, 1)
    assert (made.model, made.frames, made.cfg_groups) == ("wan", 17, 2)
    write_a14b(tmp_path / "pair")
    card = find_model(str(tmp_path / "pair"))
    assert preset_of(card).transformers == 2
    assert plan_gang(card, 1, "h100", 32, 32, 1).noise_experts == "together"


def test_a_clip_longer_than_a_segment_is_planned_by_the_segment(tmp_path: Path) -> None:
    card = find_model(str(write_dense_ti2v(tmp_path / "ti2v")))
    short, long = (plan_gang(card, 1, "h100", 64, 64, seconds) for seconds in (5, 15))
    assert short.frames == long.frames == card.segment_frames == 121


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    card = replace(find_model("nano"), directory=str(tmp_path))
    with pytest.raises(ModelError):
        plan_gang(card, 1, "cpu", 40, 24, 2)
