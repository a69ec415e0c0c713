"""What one rank of a gang cannot take no rank keeps, and the others of the batch go on."""

from __future__ import annotations

import socket

import pytest
import torch

from cluster.messages import Failed, Held
from model.conditions import Conditions
from tests.cluster.parallel.admission_jobs import Given, admitted
from tests.cluster.parallel.conftest import Checkpoint
from tests.cluster.parallel.gangs import Gangs
from tests.tiny import TEXT_DIM

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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    told = gangs.run(groups * ranks, admitted, checkpoint("top-k"), address, groups, given, STEPS)
    for outcomes in told:
        assert [outcome.held for outcome in outcomes] == [(Held("good", step + 1),) for step in range(STEPS)]
        assert [failed.id for failed in outcomes[0].failed] == ["lost", "lost by all", "refused", "both"]
        assert [failed.lost for failed in outcomes[0].failed] == [True, True, False, False]
        assert outcomes[1].failed == ()
    assert told[last][0].failed[2] == Failed("refused", "MemoryError: no memory")
    assert told[0][0].failed[2] == Failed("refused", "another rank could not take it")
