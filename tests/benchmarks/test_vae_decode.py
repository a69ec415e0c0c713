"""The benchmark of decoding, with narrow networks on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoetrope.benchmarks.memory_copies import copies_in
from zoetrope.benchmarks.vae_decode import clip_seconds, main


@pytest.mark.long
@pytest.mark.integration  # it asks git
def test_every_way_gives_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "decode.json"
    small = ["--channels", "4", "--size", "96x64", "--tile", "64", "--latents", "3", "--device", "cpu"]
    assert main([*small, "--vae", "wan2.2", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    rows = {(row["dtype"], row["way"]): row for row in record["rows"]}
    assert list(rows) == [(dtype, way) for dtype in ("float32", "bfloat16") for way in ("whole", "tiles")]
    for row in rows.values():
        assert (row["width"], row["height"], row["frames"], row["clip_frames"]) == (96, 64, 9, 81)
        assert row["clip_seconds"] > 19 * row["chunk_seconds"] > 0
        assert row["peak_bytes"] > 0 and row["moved_bytes"] is None and row["error"] is None
    assert rows["float32", "whole"]["psnr"] is None
    assert rows["bfloat16", "whole"]["psnr"] > 40, "narrow networks round worse than the public ones"
    assert rows["float32", "tiles"]["tiles"] == 2
    assert capsys.readouterr().out.count("s for 81 frames") == 4


def test_a_clip_costs_its_first_two_latent_frames_and_as_many_of_the_others() -> None:
    assert clip_seconds([1.0, 5.0, 2.0, 9.0, 2.0], 81, 4) == (2.0, 1.0 + 5.0 + 19 * 2.0)


def test_copies_are_counted_by_kind() -> None:
    def copy(name: str, size: int, category: str = "gpu_memcpy") -> dict[str, object]:
        return {"name": name, "cat": category, "args": {"bytes": size}}

    trace = {
        "traceEvents": [
            copy("Memcpy HtoD (Pinned -> Device)", 10),
            copy("Memcpy HtoD (Pinned -> Device)", 5),
            copy("Memcpy DtoH (Device -> Pageable)", 3),
            copy("Memcpy DtoD (Device -> Device)", 100),
            copy("Memcpy HtoD (Pinned -> Device)", 100, "cuda_runtime"),
            {"name": "process_name", "ph": "M"},
        ]
    }
    assert copies_in(trace) == {"HtoD (Pinned -> Device)": 15, "DtoH (Device -> Pageable)": 3}
