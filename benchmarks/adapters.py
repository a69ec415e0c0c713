"""Measure what adapters of single requests cost in a step, against the same step without.

    python -m zoetrope.benchmarks.adapters --out benchmarks/results/adapters

Besides the time it counts the multiplications of matrices, of which an adapter adds ``rank x (inputs + outputs)`` a
token to each layer's ``inputs x outputs``: on a narrow network that alone is several percent.

A dense network with Wan2.1-1.3B's proportions and random weights, and adapters of all linear layers of its blocks.
Steps of each kind take turns in one network, so that whatever else the machine does meets all of them: ``plain`` has
no adapter, ``one`` has one for everybody, ``mixed`` has three, a pair of two and none, each for a part of the
sequences.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.model.adapters.patches import LowRank
from zoetrope.model.adapters.registered import BLOCK, LINEARS, HostAdapter
from zoetrope.model.adapters.slots import AdapterSlots
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.load import compute_dtype
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.forward import run_alone
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence as Tokens
from zoetrope.model.request.loras import AdapterUse

SEED = 0
HEAD = 64
FFN = 8_960 / 1_536  # widths, of Wan2.1-1.3B
WORDS = 64
KINDS = ("plain", "one", "mixed")
# Adapters of each sequence of a mixed step, by number.
MIX: tuple[tuple[int, ...], ...] = ((0,), (1,), (), (2, 0), (1,), (2,))


def network_of(width: int, layers: int, device: torch.device) -> Network:
    """Return a dense network with random weights."""
    config = TransformerConfig(
        num_attention_heads=width // HEAD,
        attention_head_dim=HEAD,
        in_channels=16,
        out_channels=16,
        text_dim=256,
        ffn_dim=round(FFN * width / 64) * 64,
        num_layers=layers,
    )
    return random_network(config, device, compute_dtype(device), RandomWeights(seed=SEED, std=0.02))


def adapter_of(network: Network, number: int, rank: int) -> HostAdapter:
    """Return an adapter with random changes to every linear layer of the blocks."""
    generator = torch.Generator().manual_seed(number)
    patches = {}
    for name, weight in network.state_dict().items():
        match = BLOCK.fullmatch(name)
        if match is not None and match[2] in LINEARS:
            out, width = weight.shape
            a = torch.randn(rank, width, generator=generator) * width**-0.5
            patches[name] = LowRank(name, a, torch.randn(out, rank, generator=generator) * 0.01)
    return HostAdapter(f"adapter {number}", {"any": patches})


def sequences_of(network: Network, tokens: int) -> list[Tokens]:
    """Return as many sequences as `MIX` has, of ``tokens`` in total."""
    config, device = network.config, network.device
    generator = torch.Generator().manual_seed(SEED)
    side = max(1, round((tokens / len(MIX)) ** (1 / 3)))
    frames = max(1, round(tokens / len(MIX) / side**2))
    shape = (config.out_channels, frames, 2 * side, 2 * side)
    made = []
    for _ in MIX:
        text = torch.randn(WORDS, config.text_dim, generator=generator).to(device, network.dtype)
        latents = torch.randn(shape, generator=generator).to(device)
        made.append(blank_conditions(config, shape, text).sequence(latents, torch.full((frames,), 500.0), text))
    return made


@torch.inference_mode()
def measure(width: int, layers: int, rank: int, tokens: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time steps of each kind in turn.

    Returns:
        By kind the seconds of the fastest step, of the clock and of the processor, which a busy machine disturbs least,
        and its multiplications and additions in products of matrices; and for all but ``plain`` what each is more than
        the plain one's, as a share.
    """
    network = network_of(width, layers, device)
    slots = AdapterSlots({"any": network}, 4, next(r for r in (16, 32, 64, 128) if r >= rank))
    half = max(1, rank // 2)  # of each of a pair
    adapters = [adapter_of(network, number, half if number != 1 else rank) for number in range(3)]
    plain = sequences_of(network, tokens)
    steps = {
        "plain": plain,
        "one": _with_adapters(slots, "one", plain, [adapters[1:2]] * len(plain)),
        "mixed": _with_adapters(slots, "mixed", plain, [[adapters[i] for i in chosen] for chosen in MIX]),
    }
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in steps}
    for turn in range(repeats + 1):
        for kind, sequences in steps.items():
            _settle(device)
            started = time.perf_counter(), time.process_time()
            run_alone(network, sequences)
            _settle(device)
            if turn:  # the first one warms up
                found[kind].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    result: dict[str, Any] = {"width": width, "layers": layers, "rank": rank, "tokens": _total(network, plain)}
    flops = {kind: _flops(network, sequences) for kind, sequences in steps.items()}
    best = {kind: tuple(map(min, zip(*taken, strict=True))) for kind, taken in found.items()}
    for kind, (clock, processor) in best.items():
        result[kind] = {"seconds": clock, "processor_seconds": processor, "flops": flops[kind]}
        if kind != "plain":
            base = best["plain"]
            result[kind] |= {"more": clock / base[0] - 1, "processor_more": processor / base[1] - 1}
            result[kind] |= {"flops_more": flops[kind] / flops["plain"] - 1}
    return result


def _with_adapters(
    slots: AdapterSlots, kind: str, plain: Sequence[Tokens], chosen: Sequence[Sequence[HostAdapter]]
) -> list[Tokens]:
    made = []
    for number, (sequence, adapters) in enumerate(zip(plain, chosen, strict=True)):
        if not adapters:
            made.append(sequence)
            continue
        slots.acquire(f"{kind} {number}", adapters)
        loras = [AdapterUse(a.digest, "", a.digest, a.rank, 0.8) for a in adapters]
        made.append(replace(sequence, adapter=slots.use(f"{kind} {number}", loras, False)))
    return sorted(made, key=lambda sequence: -1 if sequence.adapter is None else sequence.adapter.slot)


def _total(network: Network, sequences: Sequence[Tokens]) -> int:
    return network.pack(list(sequences)).cu_tokens.total


def _flops(network: Network, sequences: list[Tokens]) -> int:
    """Count the multiplications and additions of a step's products of matrices, attention's too."""
    others = {torch.ops.aten.addmm_: _added, torch.ops.aten._grouped_mm: _grouped}  # which torch itself does not count
    with FlopCounterMode(display=False, custom_mapping=others) as counter:
        run_alone(network, sequences)
    return int(counter.get_total_flops())


def _added(_: Any, a: tuple[int, ...], b: tuple[int, ...], *__: Any, **___: Any) -> int:
    """Count those of ``y += a @ b``, by shapes."""
    return 2 * math.prod(a) * b[-1]


def _grouped(a: tuple[int, ...], b: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Count those of a grouped product: each row is in one group."""
    return 2 * math.prod(a) * b[-1]


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def page_of(record: Mapping[str, Any]) -> str:
    """Return the figures as a page."""
    environment = record["environment"]
    lines = [
        "# Cost of adapters",
        "",
        f"`{environment['command']}` on {environment['device']}, torch {environment['torch']}, "
        f"{record['threads']} threads, a load of {record['load_average']}, {environment['date']}. The fastest of each "
        "kind, which take turns, and what that is more than the plain one, by the clock and by the processor; and how "
        "much more is multiplied.",
        "",
        "| tokens | rank | plain | one adapter | mixed |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        cells = [
            f"{row[kind]['seconds'] * 1000:.1f} ms ({100 * row[kind]['more']:+.1f} %, "
            f"processor {100 * row[kind]['processor_more']:+.1f} %, multiplied {100 * row[kind]['flops_more']:+.1f} %)"
            for kind in KINDS[1:]
        ]
        lines.append(
            f"| {row['tokens']} | {row['rank']} | {row['plain']['seconds'] * 1000:.1f} ms | {' | '.join(cells)} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("adapters", __doc__)
    parser.add_argument("--width", type=command.at_least(HEAD), default=512, help="of the network, a multiple of 64")
    parser.add_argument("--layers", type=command.at_least(1), default=4)
    parser.add_argument("--ranks", type=command.at_least(1), nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--tokens", type=command.at_least(6), nargs="+", default=[1_500, 6_000])
    parser.add_argument("--repeats", type=command.at_least(1), default=9)
    parser.add_argument("--threads", type=command.at_least(1), default=1, help="of a CPU")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    given = parser.parse_args(arguments)
    if given.width % HEAD:
        parser.error(f"--width is {given.width}: it must be a multiple of {HEAD}")
    if max(given.ranks) > 128:
        parser.error(f"--ranks has {max(given.ranks)}: at most 128 are allowed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(given.threads)
    rows = []
    for tokens in given.tokens:
        for rank in given.ranks:
            rows.append(measure(given.width, given.layers, rank, tokens, given.repeats, device))
            print(page_row(rows[-1]), flush=True)
    record = {
        "environment": header(device, command.command_line("adapters", arguments), SEED),
        "threads": given.threads,
        "load_average": round(os.getloadavg()[1], 1),
        "rows": rows,
    }
    command.write_results(given.out, record, page_of(record))
    return 0


def page_row(row: Mapping[str, Any]) -> str:
    """Return the figures of a size in a line."""
    cells = [f"{kind} {100 * row[kind]['processor_more']:+.1f} %" for kind in KINDS[1:]]
    plain = f"{row['plain']['processor_seconds'] * 1000:.1f} ms"
    return f"{row['tokens']} tokens, rank {row['rank']}: plain {plain} of the processor, {', '.join(cells)}"


if __name__ == "__main__":
    sys.exit(main())
