"""What ranks do in tests of admission: each function runs in all processes of a gang."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import ray
import torch.distributed as dist
from ray.exceptions import ObjectLostError

from tests.cluster.parallel.gangs import EXCHANGE
from zoetrope.cluster.engine.rank import Rank
from zoetrope.cluster.engine.rank_process import StepOutcome
from zoetrope.cluster.protocol.messages import Admit, Owner, StepPlan
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.tasks import ModelCard

OWNER = Owner("vid_admitted", 0, 1)


@dataclass(frozen=True)
class Kept:
    """What stands here for a reference to a snapshot, and the ranks that get other bytes."""

    data: bytes
    damaged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Given:
    """What stands here for a reference: conditions, and the ranks that do not get them or have no memory for them."""

    conditions: Conditions
    lost: tuple[int, ...] = ()
    no_memory: tuple[int, ...] = ()
    kept: Kept | None = None


def spec_of(card: ModelCard, name: str, steps: int) -> SegmentSpec:
    """A segment that such a number of steps does not end, nor that and one more."""
    side = card.size_multiple // card.spatial
    return SegmentSpec(name, (card.latent_channels, 1, side, side), steps + 2, 1.0, 3)


def admitted(card: ModelCard, groups: int, given: dict[str, Given], steps: int) -> list[StepOutcome]:
    """A segment for each of ``given``, all in one plan, and then steps with them; what each plan came to."""
    number, ranks = dist.get_rank(), dist.get_world_size()
    settings = EngineSettings(ranks=ranks, cfg_groups=groups, start_seconds=EXCHANGE.total_seconds())
    rank = Rank(card, settings)
    address = [rank.free_address() if number == 0 else ""]
    dist.broadcast_object_list(address)
    dist.barrier()  # or one of them is gone before the others have met it
    dist.destroy_process_group()  # a rank meets the others by itself
    rank.join(number, address[0])
    admits = tuple(Admit(spec_of(card, name, steps), what, OWNER, what.kept) for name, what in given.items())
    with patch.object(ray, "get", partial(_get, number)):
        return [
            rank.execute(StepPlan(admit=admits if step == 0 else (), advance=tuple(given))) for step in range(steps)
        ]


def _get(rank: int, given: Given | Kept) -> Conditions | bytes:
    if isinstance(given, Kept):
        return given.data[:-1] if rank in given.damaged else given.data
    if rank in given.lost:
        raise ObjectLostError("00" * 28, None, "")
    if rank in given.no_memory:
        raise MemoryError("no memory")
    return given.conditions
