"""What is known of the stages around the engines."""

from __future__ import annotations

from pathlib import Path

from zoetrope.model.runtime.byte_cache import CacheFigures
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.router.around import Surroundings
from zoetrope.serving.storage.store import open_artifacts


async def test_figures_of_several_processes_are_added(tmp_path: Path) -> None:
    around = Surroundings(Settings(), ["a", "b"], ["c"], open_artifacts(str(tmp_path)), lambda _: 0.0)
    assert around.figures() == {
        "calls.conditioner.running": 0,
        "calls.conditioner.waiting": 0,
        "calls.decoder.running": 0,
        "calls.decoder.waiting": 0,
        "latents.held": 0,
        "latents.spilled": 0,
    }
    around.note_caches("1", {"prompts": CacheFigures(hits=1, misses=1, bytes=10)})
    around.note_caches("2", {"prompts": CacheFigures(hits=3, misses=2, bytes=5)})
    around.note_caches("1", {"prompts": CacheFigures(hits=2, misses=1, bytes=10)})
    async with around.decoder.shared() as handle:
        found = around.figures()
    assert handle == "c" and found["calls.decoder.running"] == 1
    assert [found[f"cache.prompts.{name}"] for name in ("hits", "misses", "bytes")] == [5, 3, 15]
