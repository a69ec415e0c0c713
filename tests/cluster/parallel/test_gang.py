"""A gang gives what one process gives, whatever the family, the shape of the gang and the mix of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.cluster.parallel.conftest import HEADS, ROUTERS, Checkpoint
from tests.cluster.parallel.gangs import Gangs
from tests.cluster.parallel.jobs import Result, Wish, denoise, poisoned, refused, uneven
from zoetrope.cluster.planning.overlap import Chunking
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.request.load_options import LoadOptions

FAMILIES = ("nano", "dense", "top-k", "grouped", "two noise experts", "clip", "two pictures", "vace")
SHAPES = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2))  # groups of CFG parallel, ranks of each
STEPS = 3
# Lengths, texts, step counts, guidance, sources and known frames all differ; one has branches of unequal length.
MIX = [
    Wish("a", (3, 2, 2), words=(5, 2), steps=6),
    Wish("b", (2, 3, 1), words=(1, 6), steps=3, guidance=1.0, known=1, lead=1),
    Wish("c", (1, 2, 3), mode="rv2v", sources=((2, 2, 1), (1, 3, 3))),
    Wish("d", (2, 1, 2), steps=5, known=1, ending=True, lead=2, ahead=2),
    Wish("e", (1, 1, 1), words=(2, 2), guidance=1.0, sources=((1, 1, 2),)),
]


def distance(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest relative difference of a pair."""
    assert [x.shape for x in ours] == [x.shape for x in expected]
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, expected, strict=True))


def check(results: list[Result], expected: Result) -> None:
    for result in results:
        assert result.tokens == expected.tokens
        assert distance(result.velocities, expected.velocities) <= 1e-5
        assert distance(result.latents, expected.latents) <= 1e-5
    check_alike(results)


def check_alike(results: list[Result]) -> None:
    """To the bit, on all ranks."""
    for other in results[1:]:
        for name in ("velocities", "latents"):
            pairs = zip(getattr(other, name), getattr(results[0], name), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), f"{name} differ between ranks"


@pytest.mark.parametrize("family", FAMILIES)
def test_gangs_of_every_shape_give_the_velocities_and_latents_of_one_process(
    family: str, gangs: Gangs, checkpoint: Checkpoint
) -> None:
    card = checkpoint(family)
    expected = denoise(card, MIX, STEPS)
    assert all(bool(x.isfinite().all()) and float(x.norm()) > 0.1 for x in expected.latents)
    for groups, ranks in SHAPES:
        check(gangs.run(groups * ranks, denoise, card, MIX, STEPS, groups), expected)


def test_steps_that_reuse_a_velocity_or_need_no_guidance_in_gangs(gangs: Gangs, checkpoint: Checkpoint) -> None:
    card = checkpoint("two noise experts")
    mix = [
        Wish("exact", (3, 2, 2), steps=6),
        Wish("fast", (2, 3, 1), steps=9, step_mask="#..#..#.#"),
        Wish("late", (1, 2, 3), steps=6, guidance_end=0.3),
    ]
    expected = denoise(card, mix, 4)
    alone = [denoise(card, [wish], 4).latents[0] for wish in mix]
    assert distance(expected.latents, alone) <= 1e-5
    for groups, ranks in ((1, 2), (2, 1), (2, 2)):
        check(gangs.run(groups * ranks, denoise, card, mix, 4, groups), expected)


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        ("top-k", ((1, 2), (1, 4))),
        pytest.param("top-k", ((1, 1), (2, 1), (2, 2)), marks=pytest.mark.long),
        pytest.param("nano", SHAPES, marks=pytest.mark.long),
    ],
)
def test_gangs_of_a_network_in_8_bits_give_what_one_process_gives(
    family: str, shapes: tuple[tuple[int, int], ...], gangs: Gangs, checkpoint: Checkpoint
) -> None:
    """But for numbers between two of 8 bits, where the last bit of a sum decides, and so for the experts that these
    choose: hence most velocities, not all. What ranks exchange is exact (`test_exchange`)."""
    card = replace(checkpoint(family), load=LoadOptions(quantize="fp8"))
    expected = denoise(card, MIX, STEPS)
    assert distance(expected.latents, denoise(checkpoint(family), MIX, STEPS).latents) > 1e-3, "it is in 8 bits"
    for groups, ranks in shapes:
        results = gangs.run(groups * ranks, denoise, card, MIX, STEPS, groups)
        check_alike(results)
        pairs = zip(results[0].velocities, expected.velocities, strict=True)
        apart = [distance([ours], [theirs]) for ours, theirs in pairs]
        assert sum(d <= 1e-5 for d in apart) >= len(apart) / 2 and max(apart) < 0.5, apart
        if ranks == groups == 1:
            check(results, expected)


@pytest.mark.parametrize("family", ["nano", "top-k", "grouped"])
def test_tokens_that_go_to_the_experts_in_chunks_give_the_same(
    family: str, gangs: Gangs, checkpoint: Checkpoint
) -> None:
    card = checkpoint(family)
    expected = denoise(card, MIX, STEPS)
    for groups, ranks, thresholds in ((1, 2, (0,)), (1, 4, (0, 0)), (2, 2, (0, 0, 0)), (1, 2, (1_000,))):
        check(gangs.run(groups * ranks, denoise, card, MIX, STEPS, groups, Chunking(thresholds)), expected)


@pytest.mark.parametrize("family", ["top-k", "vace"])
@pytest.mark.parametrize(("groups", "ranks"), [(1, 4), (2, 2), (4, 1)])
def test_fewer_tokens_than_ranks_and_fewer_sequences_than_groups(
    family: str, groups: int, ranks: int, gangs: Gangs, checkpoint: Checkpoint
) -> None:
    card = checkpoint(family)
    tiny = [Wish("small", (1, 1, 1), guidance=1.0)]
    check(gangs.run(groups * ranks, denoise, card, tiny, 2, groups), denoise(card, tiny, 2))


def test_a_poisoned_segment_is_named_on_every_rank_and_the_others_advance(gangs: Gangs, checkpoint: Checkpoint) -> None:
    card = checkpoint("top-k")
    good, bad = Wish("good", (2, 2, 1)), Wish("bad", (1, 2, 2), nan=True)
    expected = denoise(card, [good], 1)
    for named, steps, latents in gangs.run(4, poisoned, card, [good, bad], 2):
        assert named == ("bad",)
        assert steps == [1, 0]
        assert distance(latents[:1], expected.latents) <= 1e-5


def test_a_segment_that_does_not_fit_is_refused_on_every_rank_and_no_one_waits(
    gangs: Gangs, checkpoint: Checkpoint
) -> None:
    card = checkpoint("dense")
    wishes = [Wish("good", (2, 2, 1)), Wish("bad", (1, 2, 2), guidance=1.0)]
    expected = denoise(card, wishes[:1], 1)
    answers = gangs.run(4, refused, card, wishes, "bad", 2)
    assert [said for said, _ in answers] == ["text is (2, 7), this network takes [tokens, 32]"] * 4
    check([Result(expected.velocities, r.tokens, r.latents) for _, r in answers], expected)


def test_ranks_that_do_not_divide_heads_or_experts_or_groups_are_refused(gangs: Gangs) -> None:
    shape = {"in_channels": 4, "out_channels": 4, "text_dim": 8, "ffn_dim": 8, "num_layers": 3, **HEADS}
    config = TransformerConfig.model_validate(shape)
    assert gangs.run(3, uneven, config, 1) == ["num_attention_heads is 4, which 3 ranks do not divide"] * 3
    assert gangs.run(3, uneven, config, 2) == ["groups is 2: it must divide the 3 ranks of the gang"] * 3
    six = {**shape, "moe": ROUTERS["top-k"].model_copy(update={"num_experts": 6})}
    config = TransformerConfig.model_validate(six)
    assert gangs.run(4, uneven, config, 1) == ["num_experts is 6, which 4 ranks do not divide"] * 4
