"""The way of a gang with one rank: every message is sent, to itself, by NCCL on a GPU and by gloo elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest
import torch
import torch.distributed as dist

from tests.cluster.parallel.conftest import ROUTERS, Checkpoint
from tests.cluster.parallel.exchange_jobs import Routing, layer_of, tokens_of
from tests.cluster.parallel.gangs import EXCHANGE
from tests.cluster.parallel.jobs import load, take_steps
from tests.cluster.parallel.test_gang import FAMILIES, MIX, STEPS, distance
from zoetrope.cluster.parallel.exchange import GangExchange
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.parallel.runner import run_gang
from zoetrope.cluster.planning.overlap import WHOLE, Chunking
from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.select import backends
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.model.denoising.forward import Runner, run_alone
from zoetrope.model.request.tasks import ModelCard

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One rank that has a group all the same."""
    meeting = tmp_path_factory.mktemp("one") / "meeting"
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{meeting}", EXCHANGE, world_size=1, rank=0)
    yield Mesh(sequence=dist.group.WORLD)
    dist.destroy_process_group()


def denoise(card: ModelCard, runner: Runner) -> list[torch.Tensor]:
    """The latents of the mix."""
    _, latents = take_steps(load(card, Mesh(), runner, DEVICE), card, MIX, STEPS)
    return [x.cpu() for x in latents]


@pytest.fixture(scope="module")
def alone(checkpoint: Checkpoint) -> Callable[[str], list[torch.Tensor]]:
    """The latents of a family without a group."""
    return cache(lambda family: denoise(checkpoint(family), run_alone))


@pytest.mark.parametrize(
    ("family", "chunking"),
    [(family, WHOLE) for family in FAMILIES]
    + [(family, Chunking((0,) * doubled)) for family in ("nano", *ROUTERS) for doubled in (1, 2)],
)
def test_messages_to_oneself_change_nothing(
    family: str, chunking: Chunking, mesh: Mesh, checkpoint: Checkpoint, alone: Callable[[str], list[torch.Tensor]]
) -> None:
    ours = denoise(checkpoint(family), partial(run_gang, mesh, chunking=chunking))
    assert distance(ours, alone(family)) <= 1e-5


@pytest.mark.parametrize("router", ROUTERS)
def test_a_layer_of_a_gang_by_our_kernels(router: str, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter where there is no GPU."""
    case = Routing((23,), top_k=3) if router == "top-k" else Routing((23,), top_k=4, groups=4)
    layer, x, parts = layer_of(case).to(DEVICE), tokens_of(case).to(DEVICE), CuSeqlens.of(case.parts)
    assert mesh.sequence is not None
    chosen: dict[str, str] = {}
    choose = backends._choose

    def watch(op: str, call: KernelCall, asked: str | None) -> str:
        chosen[op] = choose(op, call, asked)
        return chosen[op]

    monkeypatch.setattr(backends, "_choose", watch)
    with torch.inference_mode():
        expected = layer(x)
        with backends.use("triton"):
            made = [layer(x, GangExchange(mesh.sequence, parts, parts, chunks)) for chunks in (1, 2)]
    assert {op for op, name in chosen.items() if name == "triton"} >= {"dispatch", "routing", "grouped_gemm", "combine"}
    assert distance(made, [expected, expected]) <= 1e-5
