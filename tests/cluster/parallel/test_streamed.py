"""Gangs whose ranks stream their weights give the latents of resident ones, bit for bit, and hold three blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.cluster.parallel.gangs import Gangs
from tests.cluster.parallel.jobs import Wish
from tests.cluster.parallel.streamed_jobs import Measured, broken_off, denoise
from tests.fixtures.small_presets import small_preset
from zoetrope.benchmarks.random_checkpoint import write_random_checkpoint
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import MoEConfig
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.tasks import ModelCard

BLOCKS = 12
MIX = [Wish("a", (3, 2, 2), words=(5, 2)), Wish("b", (2, 3, 1), words=(1, 6), guidance=1.0)]
STEPS = 2


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """Twelve equal blocks with experts, heads and experts for four ranks."""
    preset = small_preset(PRESETS["wan2.7-27b"])
    moe = preset.config.moe
    assert isinstance(moe, MoEConfig)
    moe = moe.model_copy(update={"layers": tuple(range(BLOCKS)), "num_experts": 8, "top_k": 4, "groups": 4})
    update = {"num_layers": BLOCKS, "num_attention_heads": 4, "attention_head_dim": 12, "moe": moe}
    root = tmp_path_factory.mktemp("blocks") / "wan2.7-27b"
    write_random_checkpoint(replace(preset, config=preset.config.model_copy(update=update)), root, seed=5, std=0.1)
    return find_model(str(root))


def check(streamed: list[Measured], resident: list[Measured]) -> None:
    for ours, theirs in zip(streamed, resident, strict=True):
        assert all(bool(x.isfinite().all()) and float(x.norm()) > 0.1 for x in theirs.latents)
        assert all(torch.equal(a, b) for a, b in zip(ours.latents, theirs.latents, strict=True))
        assert theirs.bytes >= BLOCKS * theirs.largest * 0.99 and theirs.host == 0
        assert ours.bytes <= 3 * theirs.largest * 1.2, "slabs are aligned, which shows in a toy"
        assert ours.host >= BLOCKS * theirs.largest * 0.99


def test_a_process_alone(card: ModelCard) -> None:
    check([denoise(card, MIX, STEPS, 0, True)], [denoise(card, MIX, STEPS, 0, False)])


@pytest.mark.parametrize(("groups", "ranks"), [(1, 2), (1, 4), (2, 1)])
def test_gangs(groups: int, ranks: int, gangs: Gangs, card: ModelCard) -> None:
    resident = gangs.run(groups * ranks, denoise, card, MIX, STEPS, groups, False)
    streamed = gangs.run(groups * ranks, denoise, card, MIX, STEPS, groups, True)
    check(streamed, resident)


@pytest.mark.parametrize("quantize", ["fp8"])
def test_a_gang_in_8_bits(quantize: Quantize, gangs: Gangs, card: ModelCard) -> None:
    eight = find_model(card.directory, LoadOptions(quantize=quantize))
    resident, streamed = (gangs.run(2, denoise, eight, MIX, STEPS, 1, way) for way in (False, True))
    for ours, theirs in zip(streamed, resident, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.latents, theirs.latents, strict=True))
        assert ours.bytes < theirs.bytes / 3


def test_a_step_in_several_passes_gives_the_same(gangs: Gangs, card: ModelCard) -> None:
    whole = denoise(card, MIX, STEPS, 0, False)
    for parts in (denoise(card, MIX, STEPS, 0, True, 1), gangs.run(2, denoise, card, MIX, STEPS, 1, True, 1)[1]):
        for ours, theirs in zip(parts.latents, whole.latents, strict=True):
            assert float((ours - theirs).norm() / theirs.norm()) <= 1e-5


def test_a_rank_that_breaks_off_ends_its_copies_and_waits_for_nobody(gangs: Gangs, card: ModelCard) -> None:
    with pytest.raises(AssertionError, match=r"rank 0 of 2 failed:(.|\n)*out of memory; copies ended: \(True,\)"):
        gangs.run(2, broken_off, card, MIX, 1)
    assert len(gangs.run(2, denoise, card, MIX[:1], 1, 1, True)) == 2, "the next gang starts afresh"
