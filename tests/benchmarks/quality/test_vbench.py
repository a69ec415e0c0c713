"""VBench's package is called as it wants to be; where it or its weights are missing, nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.quality.vbench import score

# As vbench 0.1.5 takes and writes it.
FAKE = """
import json, os
print("progress goes to stdout")

class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.output_path = output_path

    def evaluate(self, videos_path, name, prompt_list=[], dimension_list=None, local=False, read_frame=False,
                 mode="vbench_standard", **kwargs):
        assert local and mode == "custom_input"
        each = [{"video_path": path, "video_results": 0.5} for path in sorted(os.listdir(videos_path))]
        found = {dimension: [0.25 * len(each), each] for dimension in dimension_list}
        with open(os.path.join(self.output_path, name + "_eval_results.json"), "w") as file:
            json.dump(found, file)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of VBench's interface, and an empty folder for its weights."""
    site = tmp_path / "site"
    (site / "vbench").mkdir(parents=True)
    (site / "vbench" / "__init__.py").write_text(FAKE)
    (site / "vbench-0.1.5.dist-info").mkdir()
    (site / "vbench-0.1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_scores(installed: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (clips / name).touch()
    weights = installed / "amt_model" / "amt-s.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    found = score(sys.executable, clips, ["motion_smoothness", "temporal_flickering"])
    assert found == {"version": "0.1.5", "scores": {"motion_smoothness": 0.5, "temporal_flickering": 0.5}}


def test_missing_weights_are_named(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"lacks .*amt-s\.pth \(motion_smoothness\).*ViT-L-14\.pt"):
        score(sys.executable, tmp_path)
    assert not installed.exists()


def test_without_the_package(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="the package vbench is not installed there"):
        score(sys.executable, tmp_path)
    with pytest.raises(BenchmarkError, match="VBench did not run"):
        score(str(tmp_path / "absent"), tmp_path)
