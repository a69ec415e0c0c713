"""Runs sequences through a network on all ranks of a gang."""

from __future__ import annotations

import math

import torch

from zoetrope.cluster.parallel.collectives import gather_rows
from zoetrope.cluster.parallel.exchange import GangExchange
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.planning.expert_traffic import check_divides
from zoetrope.cluster.planning.overlap import WHOLE, Chunking
from zoetrope.cluster.planning.slicing import assign, even_parts
from zoetrope.model.denoising.forward import ForwardRun
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence, count_tokens, token_grid, unpatchify


def run_gang(mesh: Mesh, network: Network, sequences: list[Sequence], *, chunking: Chunking = WHOLE) -> ForwardRun:
    """Run sequences; a `model.denoising.forward.Runner` once ``mesh`` and ``chunking`` are bound. Every rank calls it
    with equal sequences and gets bitwise equal results.

    Each group takes some of the sequences, each of its ranks an even slice of their tokens; then all ranks gather all
    velocities. A group without sequences waits for the others.

    Args:
        network: with this rank's share of the experts, those of its place in the group.
        chunking: into how many chunks a rank's tokens are split on their way to the experts; equal on every rank.

    Raises:
        ValueError: the ranks do not divide heads or experts, or a sequence does not fit the network; on every rank,
            before anything is exchanged. Any other failure of one rank leaves the others waiting for it: kill them.
    """
    config = network.config
    check_divides(config, mesh.ranks)
    network.check(sequences)
    if not sequences:
        return ForwardRun([], 0)
    patch = config.patch_size
    tokens = [count_tokens(s, patch) for s in sequences]
    costs = [config.forward_cost(n, len(s.text)).total for n, s in zip(tokens, sequences, strict=True)]
    groups = assign(costs, mesh.groups)
    rows = _targets(mesh, network, [sequences[i] for i in groups[mesh.group]], chunking)
    grids = [token_grid(s.target, patch) for s in sequences]
    if mesh.across is not None:
        counts = [sum(math.prod(grids[i]) for i in members) for members in groups]
        rows = gather_rows(rows, counts, mesh.across)
    order = [i for members in groups for i in members]
    parts = rows.float().split([math.prod(grids[i]) for i in order])
    made = {i: unpatchify(part, grids[i], patch) for i, part in zip(order, parts, strict=True)}
    return ForwardRun([made[i] for i in range(len(sequences))], sum(tokens))


def _targets(mesh: Mesh, network: Network, sequences: list[Sequence], chunking: Chunking) -> torch.Tensor:
    """Run a group's sequences; return the output of their targets, ``[tokens, patch volume * C]``, on each rank."""
    if not sequences:
        width = math.prod(network.config.patch_size) * network.config.out_channels
        return torch.empty(0, width, dtype=network.dtype, device=network.device)
    batch = network.pack(sequences)
    if mesh.sequence is None:
        output = network(batch)
    else:
        parts = even_parts(batch.cu_tokens.total, mesh.ranks)
        start, stop = parts.offsets[mesh.place : mesh.place + 2]
        chunks = chunking.of(max(parts.lengths))
        exchange = GangExchange(mesh.sequence, batch.cu_tokens, parts, chunks)
        output = network(batch.part(start, stop, exchange))
        output = gather_rows(output, parts.lengths, mesh.sequence)
    return torch.cat([output[first : first + math.prod(grid)] for first, grid in batch.targets])
