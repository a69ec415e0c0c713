"""Sequences through a network on all ranks of a gang."""

from __future__ import annotations

import math

import torch

from cluster.overlap import WHOLE, Chunking
from cluster.parallel.collectives import gather_rows
from cluster.parallel.exchange import GangExchange
from cluster.parallel.mesh import Mesh
from cluster.parallel.slicing import assign, even_parts, slice_batch
from cluster.spread import check_divides
from model.costs import forward_cost
from model.running import Run
from model.sequences import Sequence, count_tokens, token_grid, unpatchify
from model.transformer import WanTransformer


def run_gang(mesh: Mesh, network: WanTransformer, sequences: list[Sequence], *, chunking: Chunking = WHOLE) -> Run:
    """With ``mesh`` and ``chunking`` bound, a `model.running.Runner`; every rank calls it with equal sequences and gets
    the same bits.

    Each group takes some of the sequences, each of its ranks an even slice of their tokens; then all ranks are told all
    velocities. A group without sequences waits for the others.

    Args:
        network: with this rank's share of the experts, those of its place in the group.
        chunking: in how many parts a rank's tokens go to the experts; the same on every rank.

    Raises:
        ValueError: the ranks do not divide heads or experts, or a sequence does not fit the network; on every rank,
            before anything is exchanged. What else befalls one rank leaves the others waiting for it: end them.
    """
    config = network.config
    check_divides(config, mesh.ranks)
    network.check(sequences)
    if not sequences:
        return Run([], 0)
    patch = config.patch_size
    tokens = [count_tokens(s, patch) for s in sequences]
    costs = [forward_cost(config, n, len(s.text)).total for n, s in zip(tokens, sequences, strict=True)]
    groups = assign(costs, mesh.groups)
    rows = _targets(mesh, network, [sequences[i] for i in groups[mesh.group]], chunking)
    grids = [token_grid(s.target, patch) for s in sequences]
    if mesh.across is not None:
        counts = [sum(math.prod(grids[i]) for i in members) for members in groups]
        rows = gather_rows(rows, counts, mesh.across)
    order = [i for members in groups for i in members]
    parts = rows.float().split([math.prod(grids[i]) for i in order])
    made = {i: unpatchify(part, grids[i], patch) for i, part in zip(order, parts, strict=True)}
    return Run([made[i] for i in range(len(sequences))], sum(tokens))


def _targets(mesh: Mesh, network: WanTransformer, sequences: list[Sequence], chunking: Chunking) -> torch.Tensor:
    """What the network makes of the targets of a group's sequences: ``[tokens, patch volume * C]`` on each rank."""
    if not sequences:
        return network.proj_out.weight.new_empty(0, network.proj_out.out_features)
    batch = network.pack(sequences)
    if mesh.sequence is None:
        output = network(batch)
    else:
        parts = even_parts(batch.cu_tokens.total, mesh.ranks)
        start, stop = parts.offsets[mesh.place : mesh.place + 2]
        chunks = chunking.of(max(parts.lengths))
        exchange = GangExchange(mesh.sequence, batch.cu_tokens, parts, chunks)
        output = network(slice_batch(batch, start, stop, exchange))
        output = gather_rows(output, parts.lengths, mesh.sequence)
    return torch.cat([output[first : first + math.prod(grid)] for first, grid in batch.targets])
