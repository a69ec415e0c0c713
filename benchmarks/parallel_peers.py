"""Experts and attention over ranks beside DeepSpeed's: its MoE layer and its Ulysses, same weights, tokens and ranks.

    python -m benchmarks.parallel_peers --ranks 2 --out benchmarks/results/parallel-peers.json

Ranks are processes on this CPU that speak gloo, so the figures say what the bookkeeping around the messages costs, and
nothing about NVLink. Both sides take turns in the same run; a ratio is DeepSpeed's seconds over ours, medians.
DeepSpeed is optional: `pip install deepspeed`.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
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

from cluster.parallel.exchange import GangExchange
from cluster.parallel.mesh import Mesh
from kernels import CuSeqlens, Permutation
from kernels.reference.routing import permute_by_expert
from model.experts import DenseFeedForward, MoEFeedForward

LABEL = "CPU processes over gloo: not figures of a GPU"
PATIENCE = timedelta(seconds=300)
Forward = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Of each rank ``tokens``. Of the experts a token takes two; heads are of 64."""

    tokens: int = 1024
    dim: int = 512
    hidden: int = 512
    experts: int = 16
    heads: int = 8


@dataclass(frozen=True)
class Row:
    """Medians of the slowest rank, in seconds; ``difference``: the largest of the results, relative to their norm."""

    what: str
    ours: float
    deepspeed: float
    difference: float

    @property
    def ratio(self) -> float:
        return self.deepspeed / self.ours


class _TopTwo(MoEFeedForward):
    """Routed as DeepSpeed does: the two best, weighted by a softmax over all that is made to add up to one."""

    def route(self, x: torch.Tensor) -> Permutation:
        gates, chosen = self.gate(x).softmax(-1).topk(2)
        return permute_by_expert(chosen, gates / gates.sum(-1, keepdim=True), self.num_experts)


def experts(mesh: Mesh, shape: Shape) -> tuple[Forward, Forward]:
    """A routed layer of ours and of DeepSpeed's, with the same experts, neither dropping tokens."""
    from deepspeed.moe.layer import MoE

    torch.manual_seed(0)
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


def attention(mesh: Mesh, shape: Shape) -> tuple[Forward, Forward]:
    """One sequence over all ranks, every head with every token."""
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


def work(rank: int, ranks: int, meeting: str, shape: Shape, repeats: int) -> None:
    """A rank; the first one writes the rows beside the file where they meet."""
    logging.disable(logging.INFO)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(1)
    import deepspeed

    # It would compile a reduction in shared memory first, which takes minutes; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    dist.init_process_group("gloo", f"file://{meeting}", PATIENCE, world_size=ranks, rank=rank)
    deepspeed.init_distributed("gloo", verbose=False, auto_mpi_discovery=False)
    mesh = Mesh.build(torch.device("cpu"), 1, PATIENCE)
    made = []
    with torch.no_grad():
        for what, pair in (("experts", experts(mesh, shape)), ("attention", attention(mesh, shape))):
            made.append(asdict(_measure(what, *pair, repeats)))
    if rank == 0:
        Path(f"{meeting}.json").write_text(json.dumps(made))
    dist.destroy_process_group()


def _measure(what: str, ours: Forward, theirs: Forward, repeats: int) -> Row:
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
    return Row(what, *figures.tolist())


def compare(ranks: int, shape: Shape, repeats: int) -> list[Row]:
    """In processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"{folder}/meeting"
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=work, args=(rank, ranks, meeting, shape, repeats)) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a rank failed; its traceback is above")
        return [Row(**row) for row in json.loads(Path(f"{meeting}.json").read_text())]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2, choices=(2, 4))
    parser.add_argument("--tokens", type=int, default=Shape.tokens, help="of each rank")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(arguments)
    if find_spec("deepspeed") is None:
        print("error: DeepSpeed is not installed (pip install deepspeed)", file=sys.stderr)
        return 2
    if args.tokens < 1 or args.repeats < 1:
        print(f"error: tokens is {args.tokens}, repeats {args.repeats}: both must be at least 1", file=sys.stderr)
        return 2
    shape = Shape(tokens=args.tokens)
    rows = compare(args.ranks, shape, args.repeats)
    print(LABEL)
    for row in rows:
        print(
            f"{row.what}: ours {1e3 * row.ours:.2f} ms, DeepSpeed {1e3 * row.deepspeed:.2f} ms, ratio {row.ratio:.2f}; "
            f"results differ by {row.difference:.1e}"
        )
    if args.out:
        given = sys.argv[1:] if arguments is None else arguments
        record: dict[str, Any] = {
            "label": LABEL,
            "command": " ".join(["python -m benchmarks.parallel_peers", *given]),
            "device": f"{platform.machine()} CPU",
            "torch": torch.__version__,
            "ranks": args.ranks,
            "shape": asdict(shape),
            "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
