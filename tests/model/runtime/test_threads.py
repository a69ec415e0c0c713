"""Idle threads give their cores to others, unless the user wants it otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import configure_torch
from zoetrope.model.runtime.threads import SMALL_DIM, VARIABLE, WAITING, compute_threads, usable_cores, wait_passively
from zoetrope.serving.config.settings import Settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, WAITING),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_what_the_user_says_stays(given: dict[str, str], expected: dict[str, str]) -> None:
    environment = dict(given)
    wait_passively(environment)
    assert environment == expected


@pytest.mark.integration
@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_it_is_set_before_torch_is_loaded(given: str | None) -> None:
    """By `generate --local`, for one."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    code = (
        "import os, sys, zoetrope.serving.cli.local; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'],"
        " os.environ.get('GOMP_SPINCOUNT'))"
    )
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == (["False", "ACTIVE", "None"] if given else ["False", *WAITING.values()])


def test_every_process_of_a_model_has_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert compute_threads(SMALL_DIM - 1) == 1
    assert compute_threads(SMALL_DIM) == max(1, usable_cores() - 1)
    configure_torch(find_model("nano"))
    assert torch.get_num_threads() == 1 or torch.cuda.is_available()


def test_the_number_of_threads_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3")
    assert compute_threads(1) == compute_threads(4096) == Settings().threads == 3
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(ValueError, match="ZOETROPE_THREADS is 'many', give a number"):
        compute_threads(1)
