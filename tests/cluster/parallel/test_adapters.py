"""Segments with adapters share a batch on gangs of every size, resume there, and never run without them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.cluster.parallel.adapter_jobs import STEPS, Adapted, copies, interrupted, resumed, together
from tests.cluster.parallel.conftest import Checkpoint
from tests.cluster.parallel.gangs import Gangs
from tests.fixtures.adapters import changes
from zoetrope.model.adapters.registered import write_registered
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.tasks import ModelCard

SHAPES = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2))  # groups of CFG parallel, ranks of each
RANKS = {"ink": 4, "oil": 8, "pixels": 3}


def store(card: ModelCard, storage: Path) -> dict[str, AdapterUse]:
    """Three registered adapters."""
    network = load_transformer(card, torch.device("cpu"))
    (storage / "adapters").mkdir(parents=True)
    found = {}
    for seed, (name, rank) in enumerate(RANKS.items()):
        path = storage / "adapters" / name
        patches = changes(network, seed, rank, only="" if card.name == "dense" else "attn")
        write_registered(path, [("any", patch) for patch in patches.values()])
        found[name] = AdapterUse(name, f"adapters/{name}", hashlib.sha256(path.read_bytes()).hexdigest(), rank)
    return found


def six(uses: dict[str, AdapterUse]) -> list[Adapted]:
    """Three adapters, two of them at once in one segment, one adapter in two segments, and none."""
    ink, oil, pixels = uses.values()
    softer = AdapterUse(ink.name, ink.key, ink.digest, ink.rank, -0.5)
    return [
        Adapted("a", (ink,), (2, 2, 2)),
        Adapted("b", (), (1, 3, 1)),
        Adapted("c", (oil,), (1, 2, 2), guidance=1.0),
        Adapted("d", (pixels, softer), (2, 1, 2)),
        Adapted("e", (softer,), (1, 1, 1)),
        Adapted("f", (pixels,), (3, 1, 1)),
    ]


def check(made: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert made.keys() == expected.keys()
    for name, latents in expected.items():
        assert torch.allclose(made[name], latents, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("family", ["dense", pytest.param("grouped", marks=pytest.mark.long)])
def test_segments_of_a_batch_equal_themselves_alone_on_gangs_of_every_size(
    family: str, gangs: Gangs, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    card, storage = checkpoint(family), tmp_path / "kept"
    wishes = six(store(card, storage))
    (alone,) = gangs.run(1, together, card, 1, storage, [[wish] for wish in wishes])
    bare = [Adapted(wish.name, (), wish.size, wish.guidance) for wish in wishes]
    (without,) = gangs.run(1, together, card, 1, storage, [bare])
    changed = {name for name in alone if not torch.allclose(alone[name], without[name], rtol=0, atol=1e-2)}
    assert changed == {"a", "c", "d", "e", "f"}
    for groups, ranks in SHAPES:
        made = gangs.run(groups * ranks, together, card, groups, storage, [wishes])
        check(made[0], alone)


def test_adapters_beside_weights_that_are_streamed(gangs: Gangs, checkpoint: Checkpoint, tmp_path: Path) -> None:
    card, storage = checkpoint("dense"), tmp_path / "kept"
    wishes = six(store(card, storage))
    streamed = find_model(card.directory, LoadOptions(offload="always"))
    (resident,), (found,) = (gangs.run(1, together, one, 1, storage, [wishes]) for one in (card, streamed))
    assert all(torch.equal(found[name], latents) for name, latents in resident.items())


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_gang_resumes_what_another_began(step: int, gangs: Gangs, checkpoint: Checkpoint, tmp_path: Path) -> None:
    card, storage = checkpoint("dense"), tmp_path / "kept"
    wishes = six(store(card, storage))
    (whole,) = gangs.run(1, together, card, 1, storage, [wishes])
    gangs.run(2, interrupted, card, 1, storage, tmp_path, wishes, step)
    gangs.close()  # which kills the ranks
    made = gangs.run(2, resumed, card, 2, storage, tmp_path, wishes, STEPS - step)
    check(made[0][0], whole)
    assert [failed for _, failed in made] == [[], []]


@pytest.mark.parametrize("missing", [(0, 1), (1,)], ids=["everywhere", "on one rank"])
def test_what_was_removed_meanwhile_fails_by_name_and_the_others_go_on(
    missing: Sequence[int], gangs: Gangs, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    card, storage = checkpoint("dense"), tmp_path / "kept"
    wishes = six(store(card, storage))
    (whole,) = gangs.run(1, together, card, 1, storage, [wishes])
    gangs.run(2, interrupted, card, 1, storage, tmp_path, wishes, 1)
    copies(storage, (0, 1))
    for rank in missing:
        (tmp_path / f"kept-{rank}" / "adapters" / "ink").unlink()
    reasons = {
        "a": "its adapter ink was removed",
        "d": "its adapter ink was removed",
        "e": "its adapter ink was removed",
    }
    for rank, (made, failed) in enumerate(gangs.run(2, resumed, card, 1, storage, tmp_path, wishes, STEPS - 1)):
        if rank == 0:
            check(made, {name: whole[name] for name in ("b", "c", "f")})
        for name, reason, lost, code in failed:
            assert "ink" in reason and reason.endswith("was removed") and (lost, code) == (False, "FAILED_PRECONDITION")
            assert rank not in missing or reason == reasons[name]
        assert [name for name, *_ in failed] == ["a", "d", "e"]


def test_a_file_that_has_changed_is_not_applied(gangs: Gangs, checkpoint: Checkpoint, tmp_path: Path) -> None:
    card, storage = checkpoint("dense"), tmp_path / "kept"
    wishes = six(store(card, storage))[:2]
    gangs.run(1, interrupted, card, 1, storage, tmp_path, wishes, 1)
    path = storage / "adapters" / "ink"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ((made, failed),) = gangs.run(1, resumed, card, 1, storage, tmp_path, wishes, STEPS - 1)
    reason = "the file of its adapter ink has changed since it was registered"
    assert failed == [("a", reason, False, "FAILED_PRECONDITION")] and list(made) == ["b"]
