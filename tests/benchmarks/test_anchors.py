"""Plots show what their figures are held against, and say who measured it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.gpu_day import page
from zoetrope.benchmarks.kernels.anchors import LABEL, anchors
from zoetrope.benchmarks.kernels.contenders import ContenderRow
from zoetrope.benchmarks.kernels.plot import plot
from zoetrope.benchmarks.kernels.report import TITLES
from zoetrope.model.families import all_presets
from zoetrope.model.request.sizes import SIZES

pytest.importorskip("matplotlib")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn, as they were when they were closed."""
    from matplotlib import pyplot

    kept: list[Any] = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    return kept


def labels(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def row(section: str, case: str, name: str, seconds: float | None = 1.0, *, moved: float = 0.0) -> dict[str, Any]:
    flops = 0.0 if moved else 4e14
    return {**ContenderRow(section, case, name, seconds, flops=flops, moved=moved).as_dict(), "run": "1"}


def test_every_section_has_its_anchors(tmp_path: Path, figures: list[Any]) -> None:
    rows = [
        row("bounds", "product", "cuBLAS bfloat16", 0.5),
        row("bounds", "copy", "copy", moved=3e12),
        row("grouped_gemm", "up", "triton bf16"),
        row("grouped_gemm", "up", "cublas bf16", 0.8),
        row("moe", "ffn", "triton"),
        row("moe", "ffn", "torch grouped_mm + permutes"),
        row("attention", "self", "gluon"),
        row("attention", "self", "sdpa cudnn", 0.9),
        row("attention", "self", "flash_attn 3", 0.8),
        row("attention", "cross", "sdpa cudnn", 2.0),
        row("attention", "cross", "flash_attn 3", None),
        row("passes", "norm", "triton", moved=2e12),
        row("layer", "27b", "ours"),
        row("layer", "27b", "diffusers, torch.compile", 1.25),
    ]
    assert plot({"rows": rows, "notice": None}, tmp_path / "plot.png") is None
    (figure,) = figures
    drawn = {axis.get_title(): axis for axis in figure.axes}
    limit = "anchor: cuBLAS bf16, measured"
    assert {
        title: [label for label in labels(axis) if label.startswith("anchor")] for title, axis in drawn.items()
    } == {
        TITLES["grouped_gemm"]: [limit, "anchor: cuBLAS, one dense product, measured"],
        TITLES["moe"]: [limit, "anchor: torch grouped_mm + permutes, measured"],
        TITLES["attention"]: [limit, "anchor: the better of FA3 and cuDNN, measured"],
        TITLES["passes"]: ["anchor: copy, measured"],
        TITLES["layer"]: [limit, "anchor: diffusers, torch.compile, measured"],
    }
    (bars,) = drawn[TITLES["attention"]].collections
    assert [segment[0][1] for segment in bars.get_segments()] == [4e14 / 0.8 / 1e12, 4e14 / 2 / 1e12]
    assert drawn[TITLES["passes"]].get_lines()[-1].get_ydata()[0] == 3.0
    assert drawn[TITLES["layer"]].get_lines()[-1].get_ydata()[0] == 800.0


def test_what_is_absent_has_no_anchor(tmp_path: Path, figures: list[Any]) -> None:
    rows = [row("attention", "self", "gluon"), row("attention", "self", "sdpa cudnn", None)]
    assert plot({"rows": rows, "notice": None}, tmp_path / "plot.png") is None
    assert labels(figures[0].axes[0]) == ["gluon"]


def test_steps_stand_beside_what_others_published(tmp_path: Path, figures: list[Any]) -> None:
    steps = [
        {"key": "wan2.7-27b 480p", "device": "a GPU", "seconds": 0.9},
        {"key": "wan2.2-t2v-a14b 480p", "device": "a GPU", "seconds": 5.0},
    ]
    assert page.plot({"steps": steps}, tmp_path / "steps.png") is None
    (axis,) = figures[0].axes
    assert labels(axis) == ["measured by us", LABEL]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names[:2] == ["wan2.7-27b 480p, a GPU", "wan2.2-t2v-a14b 480p, a GPU"]
    assert [name.split(":")[0] for name in names[2:]] == [f"{one.system}, 1 x H100" for one in anchors().published]
    assert page.plot({"steps": []}, tmp_path / "none.png") == "no step was measured"


def test_what_others_published_says_where_and_on_what() -> None:
    ours = {f"{preset} {size}" for preset in all_presets() for size in SIZES}
    for one in anchors().published:
        assert one.seconds > 0 and one.gpus >= 1 and one.hardware and one.publisher and one.what and one.source
        assert one.compare and set(one.compare) <= ours
    sections = {peer.section for peer in anchors().peers} | {s for bound in anchors().bounds for s in bound.sections}
    assert sections <= set(TITLES)
