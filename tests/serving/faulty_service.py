"""A service with the stages of `tests.serving.faults`: ``python -m tests.serving.faulty_service DATA_DIR``.

Without a directory it is the host of Ray that the supervisor starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from model.tasks import ModelCard
from serving.app import serve
from serving.host import main
from serving.settings import Settings
from serving.stopping import stop_with_stdin


def deploy(settings: Settings, card: ModelCard) -> None:
    """As `serving.application.deploy`, with other classes."""
    from serving import application
    from tests.serving.faults import FaultyConditioner, FaultyDecoder

    application.deploy(settings, card, application.Parts(conditioner=FaultyConditioner, decoder=FaultyDecoder))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main(deploy))
    stop_with_stdin()
    settings = Settings(data_dir=Path(sys.argv[1]), grpc="127.0.0.1:0", http="127.0.0.1:0")
    sys.exit(serve(settings, "tests.serving.faulty_service"))
