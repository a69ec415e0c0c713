"""What `zoetrope doctor` says of a GPU that is small for the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.cluster.planning.hardware import GIB
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.cli.doctor_memory import memory_advice


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A model of 14 billion parameters, as far as plans know, on a GPU of 24 GiB."""
    write_t2v(tmp_path / "wan")
    preset = PRESETS["wan2.1-t2v-14b"]
    monkeypatch.setattr("zoetrope.cluster.planning.gang_plan.preset_of", lambda card: preset)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (24 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    return find_model(str(tmp_path / "wan"))


def test_what_is_streamed_and_what_would_be_better(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    ((fits, text, advice),) = memory_advice(card)
    assert fits and text.startswith("40 of 40 blocks streamed, encoders come when used; 24.0 of 24.0 GiB for 1280x720")
    assert text.endswith("GiB of the host; free from 6,500 tokens a pass on")
    assert advice.startswith("with --quantize fp8: 20 of 40 blocks streamed")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    assert [advice for _, _, advice in memory_advice(card)] == [""], "it has no products of 8-bit floats"


def test_a_model_that_must_stay_and_cannot(card: ModelCard) -> None:
    ((fits, text, advice),) = memory_advice(replace(card, load=LoadOptions(offload="never")))
    assert not fits and text.startswith("offload: wan needs ")
    assert advice.startswith("with --offload auto: 40 of 40 blocks streamed")


def test_a_machine_without_a_gpu_needs_no_advice(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(memory_advice(card)) == []
