"""What ranks do in tests of adapters: each function runs in all processes of a gang."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
import torch
import torch.distributed as dist

from tests.cluster.parallel.gangs import EXCHANGE
from zoetrope.cluster.engine.rank import Rank
from zoetrope.cluster.engine.rank_process import StepOutcome
from zoetrope.cluster.protocol.messages import Admit, Owner, StepPlan
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.tasks import ModelCard

STEPS = 3


@dataclass(frozen=True)
class Adapted:
    """A segment with adapters; ``size``: latent frames, rows and columns of tokens."""

    name: str
    loras: tuple[AdapterUse, ...]
    size: tuple[int, int, int]
    guidance: float = 2.0

    @property
    def owner(self) -> Owner:
        return Owner(f"vid_{self.name}", 0, 1)

    def admit(self, card: ModelCard, snapshot: bytes | None = None) -> Admit:
        seed = sum(self.name.encode())
        generator = torch.Generator().manual_seed(seed)
        positive, negative = (torch.randn(words, 32, generator=generator) for words in (4, 2))
        t, h, w = self.size
        spec = SegmentSpec(
            self.name, (card.latent_channels, t, 2 * h, 2 * w), STEPS, self.guidance, seed, loras=self.loras
        )
        return Admit(spec, Conditions(positive, negative), self.owner, snapshot)


def joined(card: ModelCard, groups: int, storage: Path, snapshots: Path | None = None) -> Rank:
    """A rank of a gang that has met the others; on all but the first rank the storage is a copy, where there is one."""
    number, ranks = dist.get_rank(), dist.get_world_size()
    own = storage.with_name(f"{storage.name}-{number}")
    settings = EngineSettings(
        ranks=ranks,
        cfg_groups=groups,
        start_seconds=EXCHANGE.total_seconds(),
        adapters=str(own if own.is_dir() else storage),
        adapter_rank=16,
        snapshots=None if snapshots is None else str(snapshots),
        snapshot_steps=1,
    )
    rank = Rank(card, settings)
    address = [rank.free_address() if number == 0 and ranks > 1 else ""]
    if ranks > 1:
        dist.broadcast_object_list(address)
        dist.barrier()  # or one of them is gone before the others have met it
        dist.destroy_process_group()  # a rank meets the others by itself
    rank.join(number, address[0])
    return rank


def advance(rank: Rank, admits: Sequence[Admit], steps: int, prefetch: Sequence[AdapterUse] = ()) -> list[StepOutcome]:
    """The outcomes of plans; what travels by reference goes as it is."""
    ids = tuple(admit.spec.id for admit in admits)
    with patch.object(ray, "get", _same), patch.object(ray, "put", _same):
        return [
            rank.execute(StepPlan(admit=tuple(admits) if step == 0 else (), advance=ids, prefetch=tuple(prefetch)))
            for step in range(steps)
        ]


def finished(outcomes: Sequence[StepOutcome]) -> dict[str, Any]:
    """By id; None on all ranks but the first."""
    ended = [done for outcome in outcomes for done in outcome.finished]
    return {done.id: None if done.latents is None else torch.from_numpy(done.latents) for done in ended}


def together(card: ModelCard, groups: int, storage: Path, wishes: Sequence[Sequence[Adapted]]) -> dict[str, Any]:
    """The latents of segments, those of each list in one batch, one batch after the other."""
    made: dict[str, Any] = {}
    rank = joined(card, groups, storage)
    for batch in wishes:
        outcomes = advance(rank, [wish.admit(card) for wish in batch], STEPS, wishes[-1][-1].loras)
        assert [outcome.failed for outcome in outcomes] == [()] * STEPS
        made |= finished(outcomes)
    return made


def interrupted(
    card: ModelCard, groups: int, storage: Path, snapshots: Path, wishes: Sequence[Adapted], steps: int
) -> None:
    """Some steps, with snapshots; then the gang is gone."""
    rank = joined(card, groups, storage, snapshots)
    advance(rank, [wish.admit(card) for wish in wishes], steps)
    rank.checkpoint(30.0)


def resumed(
    card: ModelCard, groups: int, storage: Path, snapshots: Path, wishes: Sequence[Adapted], steps: int
) -> tuple[dict[str, Any], list[tuple[str, str, bool, str]]]:
    """The rest of the steps from the snapshots: the latents, and what failed at once."""
    rank, store = joined(card, groups, storage), SnapshotStore(str(snapshots))
    admits = [wish.admit(card, store.latest_bytes(wish.owner)) for wish in wishes]
    assert all(admit.snapshot is not None for admit in admits)
    outcomes = advance(rank, admits, steps)
    return finished(outcomes), [(f.id, f.reason, f.lost, f.code) for f in outcomes[0].failed]


def _same(value: Any) -> Any:
    return value


def copies(storage: Path, numbers: Sequence[int]) -> None:
    """Give ranks a storage of their own."""
    for number in numbers:
        shutil.copytree(storage, storage.with_name(f"{storage.name}-{number}"))
