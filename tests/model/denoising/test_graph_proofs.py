"""Graphs are trusted only on the device, with the versions and the code with which they were right and faster."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoetrope.kernels.select.proofs import triton_version
from zoetrope.model.denoising.graph_proofs import (
    PROOFS,
    GraphProof,
    GraphTiming,
    load,
    network_shape,
    record,
    standing,
    step_code,
)
from zoetrope.model.families import all_presets

CONFIG = all_presets()["wan2.7-27b"].config
DEVICE = "a GPU"
TIMINGS = (GraphTiming(4096, 0.05, 0.04, 0.0), GraphTiming(1024, 0.05, 0.02, 0.0), GraphTiming(16384, 0.2, 0.2, 0.0))


def proof(**changes: object) -> GraphProof:
    versions = {"torch": torch.__version__, "triton": triton_version() or "none"}
    made = GraphProof(network_shape(CONFIG), DEVICE, **versions, fingerprint=step_code(), date="d", timings=TIMINGS)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_steps_are_captured_up_to_the_size_at_which_that_pays(tmp_path: Path) -> None:
    path = tmp_path / "graphs.json"
    assert record([proof()], path) == load(path) == [proof()]
    assert standing(CONFIG, "none", DEVICE, path).tokens == 4096
    slow = replace(TIMINGS[1], graph=0.05)
    record([proof(timings=(slow, TIMINGS[0]))], path)
    found = standing(CONFIG, "none", DEVICE, path)
    assert (found.tokens, found.why) == (0, "not faster than eager steps at any size")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "another"}, "not proved for d3072-h128-f14336-e80x1792 on a GPU"),
        ({"network": "d1"}, "not proved for"),
        ({"torch": "2.3.0"}, "proved with torch 2.3.0, this is"),
        ({"triton": "1.0.0"}, "proved with Triton 1.0.0, this is"),
        ({"fingerprint": "f"}, "the code has changed since the proof of d"),
    ],
)
def test_a_proof_of_something_else_proves_nothing(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    record([proof(**changes)], tmp_path / "graphs.json")
    found = standing(CONFIG, "none", DEVICE, tmp_path / "graphs.json")
    assert found.tokens == 0 and found.why.startswith(said)


def test_a_wrong_run_takes_the_proof_away(tmp_path: Path) -> None:
    path = tmp_path / "graphs.json"
    record([proof()], path)
    assert record([proof(timings=(*TIMINGS, GraphTiming(2048, 0.1, 0.1, 1e-9)))], path) == []
    assert record([proof(timings=())], path) == []
    with pytest.raises(ValueError, match="seconds that are not above 0"):
        record([proof(timings=(GraphTiming(1024, 0.1, math.nan, 0.0),))], path)


def test_networks_of_one_shape_share_a_proof() -> None:
    shapes = {name: network_shape(preset.config) for name, preset in all_presets().items()}
    assert shapes["wan2.1-t2v-14b"] == shapes["wan2.2-t2v-a14b"] != shapes["wan2.1-vace-14b"]
    assert network_shape(CONFIG, "fp8") == f"{shapes['wan2.7-27b']}-fp8"


def test_nothing_is_trusted_that_no_gpu_has_shown() -> None:
    for known in load(PROOFS):
        assert known.right and "fake" not in known.device.lower()
    assert standing(CONFIG, "none", "Hopper of nobody").tokens == 0
