"""Compiled steps give what eager ones give, whatever the family and the mix, and all ranks of a gang choose alike."""

from __future__ import annotations

import pytest

from tests.cluster.parallel import compiled_jobs
from tests.cluster.parallel.compiled_jobs import LADDER, Way, denoise_both_ways
from tests.cluster.parallel.conftest import ROUTERS, Checkpoint
from tests.cluster.parallel.gangs import Gangs
from tests.cluster.parallel.jobs import Wish
from tests.cluster.parallel.test_gang import MIX, distance
from zoetrope.cluster.parallel import compiled

LONG = pytest.mark.long
PAIR = [Wish("x", (4, 3, 3), words=(9, 5), known=2), Wish("y", (2, 2, 2), words=(4, 3), guidance=1.0)]
# Many sequences with sources, known frames and several noise levels; two; one with a single noise level.
MIXES = [MIX, PAIR, [Wish("z", (3, 3, 2), words=(7, 6))]]


def check(mixes: list[tuple[Way, Way]]) -> None:
    """Compiled steps call what is compiled already, eager ones do not, and both give the same."""
    assert len(mixes) == len(MIXES)
    for eager, fast in mixes:
        assert (eager.graphs, eager.calls, fast.graphs) == (0, 0, 0)
        assert fast.calls > 0
        assert distance(fast.latents, eager.latents) <= 1e-5


@pytest.mark.parametrize(
    "family",
    ["short", *(pytest.param(name, marks=LONG) for name in ("nano", "clip", "two pictures", "vace", *ROUTERS))],
)
def test_any_mix_runs_the_code_that_was_compiled_at_the_start(family: str, checkpoint: Checkpoint) -> None:
    check(denoise_both_ways(checkpoint(family), MIXES)[1])


@LONG
def test_both_noise_experts_run_compiled(checkpoint: Checkpoint) -> None:
    late = [Wish("late", (2, 2, 3), ahead=2), Wish("early", (3, 2, 2), steps=9)]  # one expert each
    ((eager, fast),) = denoise_both_ways(checkpoint("two noise experts"), [late])[1]
    assert (fast.graphs, eager.calls) == (0, 0)
    assert fast.calls > 0
    assert distance(fast.latents, eager.latents) <= 1e-5


@pytest.mark.long
def test_one_mix_to_compile_for_would_not_do(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above are worth: that no code fits several noise levels does not pass unseen."""
    monkeypatch.setattr(compiled, "MIXES", compiled.MIXES[:1])
    monkeypatch.setattr(compiled_jobs, "LADDER", (2,))
    with pytest.raises(RuntimeError, match="fail_on_recompile"):
        denoise_both_ways(checkpoint("dense"), MIXES)


@LONG
@pytest.mark.parametrize(("family", "groups", "ranks"), [("grouped", 1, 2), ("top-k", 2, 2)])
def test_a_gang_measures_alike_and_its_compiled_steps_give_what_one_process_gives(
    family: str, groups: int, ranks: int, gangs: Gangs, checkpoint: Checkpoint
) -> None:
    card = checkpoint(family)
    _, alone = denoise_both_ways(card, MIXES)
    results = gangs.run(groups * ranks, denoise_both_ways, card, MIXES, groups)
    for gains, mixes in results:
        assert gains.rungs == results[0][0].rungs
        assert len(gains.rungs) == len(LADDER)
        check(mixes)
        for (_, fast), (expected, _) in zip(mixes, alone, strict=True):
            assert distance(fast.latents, expected.latents) <= 1e-5
