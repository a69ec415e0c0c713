"""Compare parallel experts and attention with DeepSpeed's MoE layer and Ulysses: same weights, tokens and ranks.

    python -m zoetrope.benchmarks.parallel_peers --ranks 2 --out benchmarks/results/parallel-peers.json

Ranks are processes on this CPU that communicate over gloo, so the figures show the cost of the bookkeeping around the
messages, and nothing about NVLink. Both sides alternate in the same run; a ratio is DeepSpeed's median time over ours.
DeepSpeed is optional: `pip install deepspeed`.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.cluster.parallel.exchange import GangExchange
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.kernels import CuSeqlens, Permutation
from zoetrope.kernels.reference.routing import permute_by_expert
from zoetrope.model.network.experts import DenseFeedForward, MoEFeedForward

SEED = 0
LABEL = "CPU processes over gloo: no GPU figures"
TIMEOUT = timedelta(seconds=300)
Forward = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class PeerShape:
    """The measured shape. ``tokens``: per rank. Each token uses two experts; heads have 64 channels."""

    tokens: int = 1024
    dim: int = 512
    hidden: int = 512
    experts: int = 16
    heads: int = 8


@dataclass(frozen=True)
class PeerRow:
    """Median seconds of the slowest rank. ``difference``: of the results, relative to their norm, on the worst rank."""

    what: str
    ours: float
    deepspeed: float
    difference: float

    @property
    def ratio(self) -> float:
        """Return DeepSpeed's time over ours."""
        return self.deepspeed / self.ours


class _TopTwo(MoEFeedForward):
    """Routes as DeepSpeed does: to the two best experts, weighted by their softmax scores scaled to sum to one."""

    def route(self, x: torch.Tensor) -> Permutation:
        gates, chosen = self.gate(x).softmax(-1).topk(2)
        return permute_by_expert(chosen, gates / gates.sum(-1, keepdim=True), self.num_experts)


def experts(mesh: Mesh, shape: PeerShape) -> tuple[Forward, Forward]:
    """Return our routed layer and DeepSpeed's, with the same experts, neither dropping tokens."""
    from deepspeed.moe.layer import MoE

    torch.manual_seed(SEED)
    ours = _TopTwo(shape.dim, shape.hidden, shape.experts, 2, 0)
    each = shape.experts // mesh.ranks
    own = slice(mesh.place * each, (mesh.place + 1) * each)
    theirs = MoE(
        shape.dim,
        DenseFeedForward(shape.dim, shape.hidden),
        shape.experts,
        ep_size=mesh.ranks,
        k=2,
        drop_tokens=False,
        use_rts=False,
        top2_2nd_expert_sampling=False,
    ).eval()
    theirs.set_deepspeed_parallelism()
    theirs.deepspeed_moe.gate.wg.weight.copy_(ours.gate.weight)
    zeros = {"net.0.proj.bias": torch.zeros(shape.hidden), "net.2.bias": torch.zeros(shape.dim)}
    for number, expert in enumerate(theirs.deepspeed_moe.experts.deepspeed_experts, own.start):
        w1, w2 = ours.w1[number].T, ours.w2[number].T
        expert.load_state_dict({"net.0.proj.weight": w1, "net.2.weight": w2, **zeros})
    ours.w1, ours.w2 = (nn.Parameter(w[own].clone(), requires_grad=False) for w in (ours.w1, ours.w2))
    x = torch.randn(mesh.ranks, shape.tokens, shape.dim)[mesh.place].clone()
    assert mesh.sequence is not None
    parts = CuSeqlens.of([shape.tokens] * mesh.ranks)
    exchange = GangExchange(mesh.sequence, CuSeqlens.of([parts.total]), parts)
    return lambda: ours(x, exchange), lambda: theirs(x[None])[0][0]


def attention(mesh: Mesh, shape: PeerShape) -> tuple[Forward, Forward]:
    """Return our attention and DeepSpeed's, of one sequence over all ranks."""
    from deepspeed.sequence.layer import DistributedAttention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    torch.manual_seed(1)
    q, k, v = torch.randn(3, mesh.ranks, shape.tokens, shape.heads, 64)[:, mesh.place].clone()
    parts = CuSeqlens.of([shape.tokens] * mesh.ranks)
    assert mesh.sequence is not None
    theirs = DistributedAttention(attend, mesh.sequence, scatter_idx=2, gather_idx=1)
    exchange = GangExchange(mesh.sequence, CuSeqlens.of([parts.total]), parts)
    mine = CuSeqlens.of([shape.tokens])
    return (
        lambda: exchange.attend(exchange.share(q), exchange.share(k), exchange.share(v), mine),
        lambda: theirs(q[None], k[None], v[None], batch_dim_idx=0)[0].reshape(q.shape),
    )


def run_rank(rank: int, ranks: int, meeting: str, shape: PeerShape, repeats: int) -> None:
    """Run one rank; rank 0 writes the rows to ``{meeting}.json``. ``meeting``: file for the rendezvous."""
    logging.disable(logging.INFO)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(1)
    import deepspeed

    # Skip compiling a shared-memory reduction, which takes minutes and which gloo does not need.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    dist.init_process_group("gloo", f"file://{meeting}", TIMEOUT, world_size=ranks, rank=rank)
    deepspeed.init_distributed("gloo", verbose=False, auto_mpi_discovery=False)
    mesh = Mesh.build(torch.device("cpu"), 1, TIMEOUT)
    made = []
    with torch.no_grad():
        for what, pair in (("experts", experts(mesh, shape)), ("attention", attention(mesh, shape))):
            made.append(asdict(_measure(what, *pair, repeats)))
    if rank == 0:
        Path(f"{meeting}.json").write_text(json.dumps(made))
    dist.destroy_process_group()


def _measure(what: str, ours: Forward, theirs: Forward, repeats: int) -> PeerRow:
    mine, expected = ours(), theirs()  # to warm up
    difference = float((mine - expected).norm() / expected.norm())
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, forward in zip(seconds, (ours, theirs), strict=True):
            dist.barrier()
            start = time.perf_counter()
            forward()
            times.append(time.perf_counter() - start)
    figures = torch.tensor([*(statistics.median(times) for times in seconds), difference], dtype=torch.float64)
    dist.all_reduce(figures, dist.ReduceOp.MAX)
    return PeerRow(what, *figures.tolist())


def compare(ranks: int, shape: PeerShape, repeats: int) -> list[PeerRow]:
    """Run all ranks in new processes and return the rows."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"{folder}/meeting"
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=run_rank, args=(rank, ranks, meeting, shape, repeats)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a rank failed; its traceback is above")
        return [PeerRow(**row) for row in json.loads(Path(f"{meeting}.json").read_text())]


def main(arguments: list[str] | None = None) -> int:
    parser, positive = command.parser("parallel_peers", __doc__), command.at_least(1)
    parser.add_argument("--ranks", type=int, default=2, choices=(2, 4), help="number of ranks (default: 2)")
    parser.add_argument("--tokens", type=positive, default=PeerShape.tokens, help="tokens per rank (default: 1024)")
    parser.add_argument("--repeats", type=positive, default=9, help="timed runs of each side (default: 9)")
    parser.add_argument("--out", type=Path, help="write the figures to OUT.json")
    args = parser.parse_args(arguments)
    if find_spec("deepspeed") is None:
        print("error: DeepSpeed is not installed (pip install deepspeed)", file=sys.stderr)
        return 2
    shape = PeerShape(tokens=args.tokens)
    rows = compare(args.ranks, shape, args.repeats)
    print(LABEL)
    for row in rows:
        print(
            f"{row.what}: ours {1e3 * row.ours:.2f} ms, DeepSpeed {1e3 * row.deepspeed:.2f} ms, ratio {row.ratio:.2f}; "
            f"results differ by {row.difference:.1e}"
        )
    if args.out:
        record: dict[str, Any] = {
            "label": LABEL,
            "environment": header(torch.device("cpu"), command.command_line("parallel_peers", arguments), SEED),
            "ranks": args.ranks,
            "shape": asdict(shape),
            "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
        }
        command.write_results(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
