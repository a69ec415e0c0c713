"""An engine whose gangs fail one after the other gives up, and says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.cluster.fake_router import start_engine
from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.cluster.engine.engine import MAX_FAILURES
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]


@pytest.mark.timeout(400)
def test_an_engine_that_loses_three_gangs_in_a_row_is_out_and_its_reports_count_them(
    router: Any, tmp_path: Path
) -> None:
    write_t2v(tmp_path)
    engine = start_engine(find_model(str(tmp_path)), router, EngineSettings(rank_resources={"CPU": 0.5}))
    name = engine.name()
    for lost in range(1, MAX_FAILURES + 1):
        since = ray.get(router.now.remote())
        os.kill(engine.ranks()[0].process.pid, signal.SIGKILL)
        state = "out" if lost == MAX_FAILURES else "rebuilding"
        event = ray.get(router.until_state.remote(state, name, since))
        assert (event.restarts.died, event.failures, event.out_of_service) == (lost, lost, state == "out")
        assert event.reason == "a rank died in a step"
        if state == "rebuilding":
            again = ray.get(router.until_state.remote("ready", name, event.at))
            assert (again.restarts, again.failures) == (event.restarts, lost), "it has taken no step since"
    with pytest.raises(ray.exceptions.RayTaskError, match="has stopped"):
        ray.get(engine.actor.check_health.remote())  # by which Serve replaces the replica
    engine.end()
