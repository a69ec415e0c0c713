"""A service with the stages of `tests.serving.faults.faults`: ``python -m tests.serving.faults.faulty_service
DATA_DIR``.

Without a directory it is the host of Ray that the supervisor starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.shutdown import stop_with_stdin
from zoetrope.serving.ray_host.main import main
from zoetrope.serving.supervisor.supervisor import serve


def deploy(settings: Settings, models: ServedModels) -> None:
    """As `serving.ray_host.application.deploy`, with other classes."""
    from tests.serving.faults.faults import FaultyConditioner, FaultyDecoder
    from zoetrope.serving.ray_host import application

    application.deploy(settings, models, application.Deployments(conditioner=FaultyConditioner, decoder=FaultyDecoder))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main(deploy))
    stop_with_stdin()
    settings = Settings(data_dir=Path(sys.argv[1]), grpc="127.0.0.1:0", http="127.0.0.1:0")
    sys.exit(serve(settings, "tests.serving.faults.faulty_service"))
