"""Run scripts of Node, with the packages of ``package.json`` that the Makefile installs into ``.venv/node``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
PACKAGES = Path(sys.prefix) / "node"  # packages are looked up from the working folder on


def run_node(script: str, **env: str) -> Any:
    """Run ``tests/node/SCRIPT.mjs`` with these environment variables, and return what it prints last, parsed as JSON.

    Skips the test on a machine without Node; in CI that is a failure.
    """
    if shutil.which("node") is None or not (PACKAGES / "node_modules").is_dir():
        assert not os.environ.get("CI"), "Node and the packages of tests/node/package.json have to be installed"
        pytest.skip("needs Node: install it and run `make test` again")
    done = subprocess.run(
        ["node", "--input-type=module"],
        input=(FOLDER / f"{script}.mjs").read_text(encoding="utf-8"),
        env={**os.environ, "NO_COLOR": "1", **env},
        cwd=PACKAGES,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{script}.mjs: {done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])
