"""The gain of torch.compile is measured as an engine measures it, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.transformer_shape import TRANSFORMER
from zoetrope.benchmarks import compile_gain
from zoetrope.benchmarks.compile_gain import main, network_of
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import TransformerConfig


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.long
def test_it_is_measured_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "compile-gain-0.1"
    command = ["--device", "cpu", "--tokens", "64", "--tokens", "16", "--out", str(out)]
    assert main(command, backend="eager") == 0
    record = json.loads((out.parent / "compile-gain-0.1.json").read_text())
    assert record["environment"]["command"] == "python -m zoetrope.benchmarks.compile_gain " + " ".join(command)
    about = record["measured_on"]
    assert (about["model"], about["dtype"]) == ("nano", "torch.float32")
    assert (about["longest_sequence"], about["text_tokens"]) == (320, 32)
    assert record["compile_seconds"] > 0
    assert [rung["tokens"] for rung in record["rungs"]] == [16, 54]
    for rung in record["rungs"]:
        assert rung["gain"] == pytest.approx(rung["eager"] / rung["compiled"])
        assert rung["chosen"] == ("compiled" if rung["compiled"] < rung["eager"] else "eager")
    page = (out.parent / "compile-gain-0.1.md").read_text()
    assert page in capsys.readouterr().out
    assert "| 54 |" in page and "nano, float32" in page


def test_without_a_compiler_nothing_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        raise OSError("no such compiler")

    assert main(["--device", "cpu", "--tokens", "8", "--out", str(tmp_path / "x")], backend=broken) == 1
    assert "nothing can be compiled here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_presets_have_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "wan2.1-t2v-1.3b"
    small = replace(PRESETS[name], config=TransformerConfig.model_validate(TRANSFORMER))
    monkeypatch.setattr(compile_gain, "all_presets", lambda: {name: small})
    network, longest, words = network_of(name, torch.device("cpu"))
    assert network.config == small.config
    assert network.dtype == torch.float32 and 0.01 < float(network.state_dict()["proj_out.weight"].std()) < 0.03
    assert (longest, words) == (21 * 68 * 120, 512)  # 81 frames of 1080p


def test_nothing_is_measured_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tokens", "0"])
    assert "--tokens: must be at least 1, not 0" in capsys.readouterr().err
