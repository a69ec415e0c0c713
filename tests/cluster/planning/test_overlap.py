"""Messages hide behind work where that gains something, and only there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoetrope.cluster.planning.expert_traffic import ranks_of_token
from zoetrope.cluster.planning.hardware import INFINIBAND, hardware
from zoetrope.cluster.planning.overlap import MOST_CHUNKS, WHOLE, Chunking, chunk_seconds, chunking
from zoetrope.cluster.planning.rates import Rates, roofline
from zoetrope.cluster.planning.step_time import step_time
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import TransformerConfig

MOE = PRESETS["wan2.7-27b"].config
WIDE = PRESETS["wan2.7-27b-wide"].config
DENSE = PRESETS["wan2.1-t2v-14b"].config
H100 = roofline(hardware("h100"))
SLOW = replace(H100, hardware=replace(H100.hardware, inside=INFINIBAND))


def cost(config: TransformerConfig, rates: Rates, ranks: int, tokens: int, chunks: int) -> float:
    """Of a layer, from the description: what stays exposed, what hiding takes from the work, and the chunks' price."""
    link = rates.hardware.inside
    sent = 2 * tokens * ranks_of_token(config, ranks) * config.dim * 2 * (ranks - 1) / ranks
    wire = sent / (link.bandwidth * link.fraction)
    return wire / chunks + 0.12 * wire * (1 - 1 / chunks) + (chunks - 1) * chunk_seconds(config, rates, ranks)


@pytest.mark.parametrize("config", [MOE, WIDE])
@pytest.mark.parametrize("rates", [H100, SLOW], ids=["nvlink", "slow link"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_number_of_chunks_is_the_cheapest_one(config: TransformerConfig, rates: Rates, ranks: int) -> None:
    found = chunking(config, rates, ranks)
    seen = set()
    for tokens in [*range(0, 4_000, 97), *range(4_000, 400_000, 3_989)]:
        options = [1, 2, 4, MOST_CHUNKS]
        cheapest = min(options, key=lambda chunks: cost(config, rates, ranks, tokens, chunks))
        assert found.of(tokens) == cheapest, f"{tokens} tokens"
        seen.add(cheapest)
    assert len(seen) >= 3


def test_what_has_no_message_to_hide_or_no_stream_to_hide_it_on_stays_whole() -> None:
    assert chunking(DENSE, H100, 4) == chunking(MOE, H100, 1) == WHOLE
    assert chunking(MOE, roofline(hardware("cpu")), 4) == WHOLE
    assert WHOLE.of(10**9) == 1
    assert [Chunking((5, 9)).of(n) for n in (4, 5, 8, 9)] == [1, 2, 2, 4]


def test_a_step_counts_hidden_messages_apart() -> None:
    tokens = 4 * 63_000
    gpu, cpu = (step_time(MOE, [tokens], rates, sequence_ranks=4) for rates in (H100, roofline(hardware("cpu"))))
    assert cpu.hidden == 0
    assert 0 < gpu.hidden < gpu.all_to_all + gpu.hidden
    assert gpu.total == pytest.approx(sum(gpu.parts().values()))
    assert "hidden" not in gpu.parts()
    short = step_time(MOE, [1_000], H100, sequence_ranks=4)
    assert short.hidden / (short.hidden + short.all_to_all) < gpu.hidden / (gpu.hidden + gpu.all_to_all)
    assert step_time(MOE, [tokens], H100).hidden == 0
