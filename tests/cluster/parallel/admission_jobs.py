"""What ranks do in tests of admission: each function runs in all processes of a gang."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import ray
import torch.distributed as dist
from ray.exceptions import ObjectLostError

from cluster.messages import Admit, Plan
from cluster.rank import Rank
from cluster.rank_process import Outcome
from cluster.settings import EngineSettings
from model.conditions import Conditions
from model.tasks import ModelCard, SegmentSpec
from tests.cluster.parallel.gangs import EXCHANGE


@dataclass(frozen=True)
class Given:
    """What stands here for a reference: conditions, and the ranks that do not get them or have no memory for them."""

    conditions: Conditions
    lost: tuple[int, ...] = ()
    no_memory: tuple[int, ...] = ()


def admitted(card: ModelCard, address: str, groups: int, given: dict[str, Given], steps: int) -> list[Outcome]:
    """A segment for each of ``given``, all in one plan, and then steps with them; what each plan came to."""
    number, ranks = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()  # a rank meets the others by itself
    settings = EngineSettings(ranks=ranks, cfg_groups=groups, start_seconds=EXCHANGE.total_seconds())
    rank = Rank(card, settings)
    rank.join(number, address)
    shape = (card.latent_channels, 1, card.size_multiple // card.spatial, card.size_multiple // card.spatial)
    admits = tuple(Admit(SegmentSpec(name, shape, steps + 1, 1.0, 3), what) for name, what in given.items())
    with patch.object(ray, "get", partial(_get, number)):
        return [rank.execute(Plan(admit=admits if step == 0 else (), advance=tuple(given))) for step in range(steps)]


def _get(rank: int, given: Given) -> Conditions:
    if rank in given.lost:
        raise ObjectLostError("00" * 28, None, "")
    if rank in given.no_memory:
        raise MemoryError("no memory")
    return given.conditions
