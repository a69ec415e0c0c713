"""Finished latents on their way to the decoder: held up to a bound, then spilled, and equal in both cases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.serving.router.harness import House
from zoetrope.serving.router.latents import LatentShelf
from zoetrope.serving.stages.latents import SpilledLatents, gather
from zoetrope.serving.storage.store import ArtifactStore, ArtifactUnavailable, open_artifacts

SIZE = 16 * 2 * 4 * 6 * 4


def latents(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((16, 2, 4, 6)).astype(np.float32)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, "")


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return open_artifacts(str(tmp_path / "artifacts"))


async def test_what_exceeds_the_memory_is_spilled_and_comes_back_equal(house: House, artifacts: ArtifactStore) -> None:
    job = house.create("j1")
    shelf = LatentShelf(artifacts, 2 * SIZE, SIZE)
    kept = [await shelf.keep(job, index, f"j1/1/{index}", latents(index)) for index in range(4)]
    assert [isinstance(one, SpilledLatents) for one in kept] == [False, False, True, True]
    assert (shelf.held, shelf.spilled, shelf.full) == (2 * SIZE, 2 * SIZE, True)
    for index, array in enumerate(gather(kept[2:], artifacts), 2):
        assert array.dtype == np.float32 and array.flags.writeable and np.array_equal(array, latents(index))
    waiting = asyncio.create_task(shelf.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await shelf.release("j1")
    await asyncio.wait_for(waiting, 5)
    assert (shelf.held, shelf.spilled, shelf.full) == (0, 0, False)
    assert artifacts.below("jobs") == [], "spilled files are gone"
    await shelf.release("j1")


async def test_latents_made_anew_replace_none_of_before(house: House, artifacts: ArtifactStore) -> None:
    shelf, job = LatentShelf(artifacts, 0, SIZE), house.create("j1")
    first, again = [await shelf.keep(job, 0, "j1/1/0", latents(seed)) for seed in (1, 2)]
    assert [array[0, 0, 0, 0] for array in gather([first, again], artifacts)] == [
        latents(seed)[0, 0, 0, 0] for seed in (1, 2)
    ]


async def test_latents_that_cannot_be_spilled_do_not_count(
    house: House, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, job = LatentShelf(artifacts, 0, SIZE), house.create("j1")

    def refuse(*_: object) -> None:
        raise ArtifactUnavailable("full")

    monkeypatch.setattr(artifacts, "put_bytes", refuse)
    with pytest.raises(ArtifactUnavailable):
        await shelf.keep(job, 0, "j1/1/0", latents(0))
    assert shelf.spilled == 0 and not shelf.full


async def test_an_engine_that_stops_can_wait_until_its_latents_are_taken(
    house: House, artifacts: ArtifactStore
) -> None:
    shelf, job = LatentShelf(artifacts, SIZE, 0), house.create("j1")
    taken = shelf.taken("j1/1/0")
    assert not taken.is_set()
    await shelf.keep(job, 0, "j1/1/0", latents(0))
    assert taken.is_set()


async def test_an_engine_that_stops_waits_no_longer_for_a_job_that_is_over(
    house: House, artifacts: ArtifactStore
) -> None:
    shelf = LatentShelf(artifacts, SIZE, 0)
    taken, other = shelf.taken("j1/1/0"), shelf.taken("j2/1/0")
    await shelf.release("j1")
    assert taken.is_set() and not other.is_set()
    assert shelf.taken("j1/1/0") is not taken, "nothing is kept of it"
