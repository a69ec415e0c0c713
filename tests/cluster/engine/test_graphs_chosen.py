"""A rank captures steps only alone, on a GPU, where it is told to and where that is proved."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from zoetrope.cluster.engine import rank as rank_module
from zoetrope.cluster.engine.rank import Rank
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.denoising.forward import run_alone
from zoetrope.model.denoising.graph_proofs import GraphStanding
from zoetrope.model.denoising.graphs import GraphRunner
from zoetrope.model.streaming.device_plan import ALL_STAYS, DevicePlan
from zoetrope.model.streaming.loading import WeightRoom

CARD = find_model("nano")
AUTO = EngineSettings(cuda_graphs="auto")


def test_a_rank_captures_what_is_proved(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert Rank(CARD, AUTO)._alone(ALL_STAYS) is run_alone, "on a CPU"
    found = {"standing": GraphStanding(4096)}
    monkeypatch.setattr(rank_module, "standing", lambda *given: found["standing"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30))

    def runner(settings: EngineSettings, plan: DevicePlan = ALL_STAYS) -> object:
        rank = Rank(CARD, settings)
        rank._device = torch.device("cuda")
        return rank._alone(plan)

    assert runner(EngineSettings()) is run_alone, "not told to"
    assert runner(AUTO, DevicePlan(room=WeightRoom(0))) is run_alone, "weights come and go"
    captures = runner(AUTO)
    assert isinstance(captures, GraphRunner)
    assert (captures.limits.tokens, captures.limits.memory) == (4096, 8 << 30)
    found["standing"] = GraphStanding(0, "not proved for d1 on a GPU")
    assert runner(AUTO) is run_alone and "no CUDA graphs: not proved for d1 on a GPU" in caplog.text


def test_compiled_steps_are_not_captured() -> None:
    with pytest.raises(ValueError, match="cuda_graphs is 'auto': it must be 'never' where compile is true"):
        EngineSettings(compile=True, cuda_graphs="auto")
