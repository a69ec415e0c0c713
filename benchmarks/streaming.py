"""Compare a network whose blocks are streamed from the host with a resident one: memory, results and time.

    python -m zoetrope.benchmarks.streaming                                    12 small blocks, gangs of 1, 2 and 4
    python -m zoetrope.benchmarks.streaming --preset wan2.1-t2v-14b --device cuda --size 480p

All blocks are streamed that can be. The exit status is 1 if velocities differ in a bit or more than three blocks are on
the device. Times of a CPU say nothing about a GPU: there copies take the cores that compute.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence as Items
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.parallel.runner import run_gang
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.load import compute_dtype
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.forward import Runner, run_alone
from zoetrope.model.families import all_presets
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.costs import frames_of
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence
from zoetrope.model.request.sizes import SIZES
from zoetrope.model.streaming.copies import copies_for
from zoetrope.model.streaming.loading import StreamedLoading, WeightRoom

TIMEOUT = timedelta(seconds=300)
MOST_BLOCKS = 3
SMALL = TransformerConfig(
    num_attention_heads=4, attention_head_dim=32, in_channels=16, out_channels=16, text_dim=64, ffn_dim=512,
    num_layers=12,
)  # fmt: skip
SMALL_SHAPE = (16, 3, 12, 16)


@dataclass(frozen=True)
class StreamedRow:
    """Of one gang; of its rank that has the most.

    Attributes:
        on_device: blocks' worth of memory behind the tensors of all blocks. host_bytes: of a rank.
        equal: velocities are those of the resident network, bit for bit.
        resident, streamed: seconds of a forward pass. copies: of all copies with nothing beside them.
    """

    ranks: int
    blocks: int
    tokens: int
    on_device: float
    host_bytes: int
    equal: bool
    resident: float
    streamed: float
    copies: float

    @property
    def ratio(self) -> float:
        """Return the speed of a streamed pass over that of a resident one."""
        return self.resident / self.streamed

    @property
    def hidden(self) -> float:
        """Return the share of the copies that the computation hides."""
        return max(0.0, min(1.0, 1 - (self.streamed - self.resident) / self.copies))


@torch.inference_mode()
def measure(
    config: TransformerConfig, device: torch.device, shape: tuple[int, int, int, int], mesh: Mesh, repeats: int
) -> StreamedRow:
    """Run both networks, one after the other; every rank of a gang calls this at the same time."""
    runner: Runner = partial(run_gang, mesh) if mesh.sequence is not None else run_alone
    text = torch.randn(64, config.text_dim, generator=torch.Generator().manual_seed(1)).to(device)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    sequences = [blank_conditions(config, shape, text).sequence(latents, 500.0, text)]
    how = RandomWeights(seed=0, std=0.02)
    made = random_network(config, device, compute_dtype(device), how)
    expected, resident, tokens = _run(made, sequences, runner, repeats)
    each = max(sum(t.nbytes for t in (*layer.parameters(), *layer.buffers())) for layer in made.layers())
    del made
    with torch.inference_mode(False):
        loading = StreamedLoading(WeightRoom(0), device)
        made = random_network(config, device, compute_dtype(device), how, streaming=loading)
        store = loading.finish()
    assert store is not None, "a network of one block has nothing to stream"
    velocities, streamed, _ = _run(made, sequences, runner, repeats)
    tensors = [t for layer in made.layers() for t in (*layer.parameters(), *layer.buffers())]
    memory = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return StreamedRow(
        ranks=mesh.ranks,
        blocks=len(made.layers()),
        tokens=tokens,
        on_device=sum(memory.values()) / each,
        host_bytes=store.host_bytes,
        equal=all(torch.equal(a, b) for a, b in zip(velocities, expected, strict=True)),
        resident=resident,
        streamed=streamed,
        copies=_copies(device, each, store.streamed, repeats),
    )


def _run(
    network: Network, sequences: list[Sequence], runner: Runner, repeats: int
) -> tuple[list[torch.Tensor], float, int]:
    """Return the velocities, the seconds of the fastest pass, and its tokens."""
    run = runner(network, sequences)
    best = min(_timed(network.device, partial(runner, network, sequences)) for _ in range(repeats))
    return run.velocities, best, run.tokens


def _copies(device: torch.device, size: int, count: int, repeats: int) -> float:
    """Return the seconds of as many copies of a block as a pass has, one after the other."""
    with torch.inference_mode(False):
        host = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        slab = torch.empty(size, dtype=torch.uint8, device=device)
    copies = copies_for(device)

    def run() -> None:
        for _ in range(count):
            copies.copy(host, slab, None)
        copies.drain(TIMEOUT.total_seconds())

    run()
    return min(_timed(device, run) for _ in range(repeats))


def _timed(device: torch.device, run: partial[object] | object) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()  # type: ignore[operator]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def run_rank(rank: int, ranks: int, meeting: str, repeats: int) -> None:
    """Run one rank of a gang of small blocks; each writes its row to ``{meeting}.{rank}.json``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", TIMEOUT, world_size=ranks, rank=rank)
    cpu = torch.device("cpu")
    row = measure(SMALL, cpu, SMALL_SHAPE, Mesh.build(cpu, 1, TIMEOUT), repeats)
    Path(f"{meeting}.{rank}.json").write_text(json.dumps(asdict(row)))
    dist.barrier()
    dist.destroy_process_group()


def gang(ranks: int, repeats: int) -> StreamedRow:
    """Run a gang in processes of its own. Raises RuntimeError if a rank fails."""
    with tempfile.TemporaryDirectory() as folder:
        meeting, context = f"{folder}/meeting", multiprocessing.get_context("forkserver")
        # Imports take longer than all ranks do.
        context.set_forkserver_preload(["zoetrope.cluster.parallel.runner", "zoetrope.model.checkpoints.load"])
        processes = [context.Process(target=run_rank, args=(rank, ranks, meeting, repeats)) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a rank failed; its traceback is above")
        rows = [StreamedRow(**json.loads(Path(f"{meeting}.{rank}.json").read_text())) for rank in range(ranks)]
    most = max(rows, key=lambda row: row.on_device)
    return StreamedRow(**{**asdict(most), "equal": all(row.equal for row in rows)})


def main(arguments: Items[str] | None = None) -> int:
    parser, presets = command.parser("streaming", __doc__), sorted(all_presets())
    parser.add_argument("--preset", choices=presets, help="model with random weights (default: 12 small blocks)")
    parser.add_argument("--size", choices=sorted(SIZES), default="480p", help="of a clip at 16:9 (default: 480p)")
    parser.add_argument("--frames", type=command.at_least(1), help="of the clip (default: the model's)")
    parser.add_argument(
        "--ranks", type=int, nargs="+", choices=(1, 2, 4), default=[1, 2, 4], help="gangs of small blocks on the CPU"
    )
    parser.add_argument("--repeats", type=command.at_least(1), default=3, help="timed passes (default: 3)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--out", type=Path, help="write the figures to OUT.json")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if args.preset is None and device.type == "cpu":
        alone = partial(measure, SMALL, device, SMALL_SHAPE, Mesh())
        rows = [gang(ranks, args.repeats) if ranks > 1 else alone(args.repeats) for ranks in args.ranks]
    else:
        config, shape = _clip(args.preset, args.size, args.frames)
        rows = [measure(config, device, shape, Mesh(), args.repeats)]
    for row in rows:
        print(
            f"{row.ranks} rank{'s' if row.ranks > 1 else ''}, {row.blocks} blocks: {row.on_device:.2f} on the device, "
            f"{row.host_bytes / 2**20:.1f} MiB on the host, velocities {'equal' if row.equal else 'DIFFER'}"
            + (_times(row) if device.type == "cuda" else ""),
            flush=True,
        )
    if args.out:
        made = [{**asdict(row), "ratio": row.ratio, "hidden": row.hidden} for row in rows]
        environment = header(device, command.command_line("streaming", None if arguments is None else arguments), 0)
        command.write_results(args.out, {"environment": environment, "model": args.preset or "small", "rows": made})
    return 0 if all(row.equal and row.on_device <= MOST_BLOCKS for row in rows) else 1


def _times(row: StreamedRow) -> str:
    return (
        f"; {row.tokens:,} tokens: resident {row.resident:.4f} s, streamed {row.streamed:.4f} s, {row.ratio:.1%} of "
        f"the speed; copies {row.copies:.4f} s, {row.hidden:.0%} of them hidden"
    )


def _clip(name: str | None, size: str, frames: int | None) -> tuple[TransformerConfig, tuple[int, int, int, int]]:
    """Return a model and the latents of a clip."""
    if name is None:
        return SMALL, SMALL_SHAPE
    preset = all_presets()[name]
    width, height = preset.denoised_size(*SIZES[size]["16:9"])
    vae, (_, high, wide) = preset.vae, preset.config.patch_size
    frames = frames or frames_of(preset.sampling.frames / preset.sampling.fps, preset.sampling.fps, vae.temporal)
    rows, columns = (-(-side // (vae.spatial * unit)) * unit for side, unit in ((height, high), (width, wide)))
    return preset.config, (vae.z_dim, 1 + (frames - 1) // vae.temporal, rows, columns)


if __name__ == "__main__":
    sys.exit(main())
