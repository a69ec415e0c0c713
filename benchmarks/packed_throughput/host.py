"""A service whose engine notes every step.

``python -m zoetrope.benchmarks.packed_throughput.host DATA_DIR MODEL [GRPC HTTP]``; the addresses are free ones by
default. Without arguments it is the host of Ray that the supervisor starts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.shutdown import stop_with_stdin
from zoetrope.serving.ray_host.main import main
from zoetrope.serving.supervisor.supervisor import serve

MODULE = "zoetrope.benchmarks.packed_throughput.host"
STEPS_FILE = "steps.jsonl"  # in the data folder: one line for each step, with its end as seconds since the epoch


def deploy(settings: Settings, models: ServedModels) -> None:
    """Deploy the application as a service does, but for the engine."""
    from zoetrope.cluster.engine.engine import EngineReplica
    from zoetrope.serving.ray_host import application

    class NotingEngine(EngineReplica):
        """Writes down every step as its ranks report it."""

        def _report(self, outcome: Any = None) -> Any:
            if outcome is not None and outcome.step_tokens:
                line = {
                    "end": time.time(),
                    "seconds": outcome.step_seconds,
                    "tokens": outcome.step_tokens,
                    "segments": len(outcome.held) + len(outcome.finished),
                    "took": [share.id for share in outcome.shares],
                    "held": {segment.id: segment.step for segment in outcome.held},
                    "finished": [segment.id for segment in outcome.finished],
                }
                with (Path(str(self._settings.snapshots)) / STEPS_FILE).open("a") as file:
                    file.write(json.dumps(line) + "\n")
            return super()._report(outcome)

    application.deploy(settings, models, application.Deployments(engine=NotingEngine))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main(deploy))
    stop_with_stdin()
    here, model, *addresses = sys.argv[1:]
    grpc, http = addresses or ("127.0.0.1:0", "127.0.0.1:0")
    chosen = Settings(data_dir=Path(here), model=(model,), grpc=grpc, http=http)
    sys.exit(serve(chosen, MODULE))
