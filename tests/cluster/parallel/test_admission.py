"""What one rank of a gang cannot take no rank keeps, and the others of the batch go on."""

from __future__ import annotations

import pytest
import torch

from tests.cluster.parallel.admission_jobs import OWNER, Given, Kept, admitted, spec_of
from tests.cluster.parallel.conftest import Checkpoint
from tests.cluster.parallel.gangs import Gangs
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.cluster.protocol.messages import Failed, HeldSegment
from zoetrope.cluster.snapshots.format import Fingerprint, Snapshot, encode
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.checkpoints.load import load_denoiser
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.resume import state_of

STEPS = 2


@pytest.mark.parametrize(("groups", "ranks"), [(1, 2), (2, 1), (2, 2)])
def test_ranks_agree_on_what_they_take(groups: int, ranks: int, gangs: Gangs, checkpoint: Checkpoint) -> None:
    conditions = Conditions(torch.ones(3, TEXT_DIM), None)
    last = groups * ranks - 1
    given = {
        "good": Given(conditions),
        "lost": Given(conditions, lost=(last,)),
        "lost by all": Given(conditions, lost=tuple(range(last + 1))),
        "refused": Given(conditions, no_memory=(last,)),
        "both": Given(conditions, lost=(0,), no_memory=(last,)),
    }
    told = gangs.run(groups * ranks, admitted, checkpoint("top-k"), groups, given, STEPS)
    for outcomes in told:
        assert [outcome.held for outcome in outcomes] == [(HeldSegment("good", step + 1),) for step in range(STEPS)]
        assert [failed.id for failed in outcomes[0].failed] == ["lost", "lost by all", "refused", "both"]
        assert [failed.lost for failed in outcomes[0].failed] == [True, True, False, False]
        assert outcomes[1].failed == ()
    assert told[last][0].failed[2] == Failed("refused", "MemoryError: no memory")
    assert told[0][0].failed[2] == Failed("refused", "another rank could not take it")


@pytest.mark.parametrize(("groups", "ranks"), [(1, 2), (2, 1)])
def test_ranks_agree_on_where_they_start(groups: int, ranks: int, gangs: Gangs, checkpoint: Checkpoint) -> None:
    """A snapshot that one of them refuses is used by none, and fails no segment."""
    card, conditions = checkpoint("top-k"), Conditions(torch.ones(3, TEXT_DIM), None)
    denoiser = load_denoiser(card, torch.device("cpu"))
    segment = denoiser.start(spec_of(card, "a", STEPS), conditions)
    denoiser.step([segment])
    fingerprint = Fingerprint.of(weights_of(card), segment.spec, denoiser.scheduler_config)
    data = b"".join(encode(Snapshot(OWNER, fingerprint, state_of(segment))))
    given = {
        "good": Given(conditions, kept=Kept(data)),
        "none": Given(conditions),
        "refused by the first": Given(conditions, kept=Kept(data, damaged=(0,))),
        "refused by the last": Given(conditions, kept=Kept(data, damaged=(1,))),
        "refused by all": Given(conditions, kept=Kept(data, damaged=(0, 1))),
    }
    for outcomes in gangs.run(2, admitted, card, groups, given, STEPS):
        for plan, outcome in enumerate(outcomes):
            assert outcome.failed == ()
            assert [held.step - plan for held in outcome.held] == [2, 1, 1, 1, 1]
