"""Processes load what they need and no more: torch, diffusers and transformers take seconds and hundreds of MB."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers")


def loaded_by(code: str) -> list[str]:
    """The heavy packages that a process has loaded after ``code``."""
    code += f"; import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_a_supervisor_a_router_a_gateway_and_a_sweeper_do_without_torch() -> None:
    """A supervisor has the classes of all deployments, and an engine's leader its ranks to start."""
    serving = ("supervisor.supervisor", "ray_host.application", "router.router", "gateway.main", "sweeper.main")
    modules = ", ".join(["zoetrope.cluster.engine.engine", *(f"zoetrope.serving.{name}" for name in serving)])
    assert loaded_by(f"import {modules}") == []


def test_a_decoder_of_a_linear_autoencoder_does_without_diffusers() -> None:
    code = (
        "from zoetrope.model.checkpoints.load import *\nfrom zoetrope.model.pipeline import tail\n"
        "from zoetrope.model.catalog.presets import find_model\nload_autoencoder(find_model('nano'), 'cpu')"
    )
    assert loaded_by(code) == ["torch"]


@pytest.mark.long
def test_a_rank_does_without_transformers() -> None:
    assert loaded_by("import zoetrope.cluster.engine.rank") == ["torch", "diffusers"], "the samplers are diffusers'"


def test_the_variable_for_kernels_is_the_one_that_they_read() -> None:
    from zoetrope.kernels.select.backends import VARIABLE
    from zoetrope.serving.config.deployment_checks import KERNELS_VARIABLE

    assert KERNELS_VARIABLE == VARIABLE
