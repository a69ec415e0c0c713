"""Measure the error of 8-bit and block-sparse attention, on nano's activations and on adversarial inputs.

    python -m zoetrope.benchmarks.attention_error --out benchmarks/results/attention-error.json

Writes JSON and a Markdown page (`benchmarks.attention_report`), which explains the comparison.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.attention_report import markdown
from zoetrope.benchmarks.environment import header
from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.reference.attention import attention
from zoetrope.kernels.reference.attention_8bit import attention_8bit
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.network.blocks import Attention
from zoetrope.model.network.protocol import module_of
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

PROMPT = "a red circle moves right on a blue background"
SEED = 7
LONG_FRAMES = 65  # more than the 17 of nano's training, so that a mask has enough tiles to choose from
MASSES = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)
KINDS = ("self", "cross")
Attend = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of one attention call, and where they come from."""

    source: str  # origin of the activations
    part: str  # layer and kind of attention, or the kind of adversarial input
    q: torch.Tensor  # [Nq, heads, d]
    k: torch.Tensor
    v: torch.Tensor
    cu_q: CuSeqlens
    cu_k: CuSeqlens

    @property
    def args(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, CuSeqlens, CuSeqlens]:
        return self.q, self.k, self.v, self.cu_q, self.cu_k

    def to(self, dtype: torch.dtype) -> AttentionInputs:
        return replace(self, q=self.q.to(dtype), k=self.k.to(dtype), v=self.v.to(dtype))


@dataclass
class Error:
    """Accumulates the error over all elements of all added results."""

    error: float = 0.0
    truth: float = 0.0
    found: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    density: list[float] = field(default_factory=list)

    def add(self, found: torch.Tensor, truth: torch.Tensor, density: float = 1.0) -> None:
        """Add a result and its float64 reference."""
        found = found.double()
        self.error += (found - truth).square().sum().item()
        self.truth += truth.square().sum().item()
        self.found += found.square().sum().item()
        self.product += (found * truth).sum().item()
        self.largest = max(self.largest, (found - truth).abs().max().item())
        self.density.append(density)

    def figures(self) -> dict[str, float]:
        """Return relative L2 error, cosine, largest absolute error, and share of blocks computed."""
        norm = math.sqrt(self.found * self.truth)
        return {
            "relative_l2": math.sqrt(self.error / self.truth),
            "cosine": self.product / norm if norm else 0.0,
            "max_abs": self.largest,
            "density": sum(self.density) / len(self.density),
        }


METHODS: dict[str, dict[str, Any]] = {
    "int8": {"pv": "fp16"},
    "int8, no smoothing": {"pv": "fp16", "smooth": False},
    "int8 + fp8": {"pv": "fp8"},
    "int8 + fp8, no smoothing": {"pv": "fp8", "smooth": False},
}


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens, mask: BlockMask | None = None
) -> torch.Tensor:
    """Compute attention in the dtype of its inputs, at least float32."""
    found = attention(q, k, v, cu_q, cu_k, mask=mask)
    assert isinstance(found, torch.Tensor)  # without log-sum-exp
    return found


def in_bf16(function: Attend, **options: Any) -> Attend:
    """Wrap attention so that its inputs are rounded to bfloat16; the result keeps the input's dtype."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens) -> torch.Tensor:
        rounded = (x.to(torch.bfloat16) for x in (q, k, v))
        return function(*rounded, cu_q, cu_k, **options).to(q.dtype)

    return attend


def dense_methods() -> dict[str, Attend]:
    """Return the dense methods to compare, by name."""
    eight = {name: in_bf16(attention_8bit, **options) for name, options in METHODS.items()}
    return {"bf16": in_bf16(exact), **eight}


def top_mass(shares: torch.Tensor, mass: float) -> torch.Tensor:
    """Select the fewest entries of the last dimension that sum to ``mass``, as a bool tensor; all for a mass of 1."""
    if mass >= 1:
        return torch.ones_like(shares, dtype=torch.bool)
    ordered, order = shares.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(shares, dtype=torch.bool).scatter(-1, order, before < mass)


def _averages(x: torch.Tensor, block: int) -> torch.Tensor:
    """Average over tiles: ``[L, heads, d]`` -> ``[heads, tiles, d]``."""
    return torch.stack([part.mean(0) for part in x.split(block)], dim=1)


def block_mask(inputs: AttentionInputs, mass: float, oracle: bool = False) -> BlockMask:
    """Make a mask in which each tile of queries keeps the tiles of keys with the largest shares, up to ``mass``.

    The shares are the softmax of the products of tile averages, or with ``oracle`` the true ones.
    """
    masks = []
    parts = (x.split(cu.lengths) for x, cu in ((inputs.q, inputs.cu_q), (inputs.k, inputs.cu_k)))
    for q, k in zip(*parts, strict=True):
        sizes = torch.tensor([len(part) for part in k.split(BLOCK_K)], dtype=q.dtype)
        if oracle:
            p = (torch.einsum("qhd,khd->hqk", q, k) * q.shape[2] ** -0.5).softmax(-1)
            tiles = torch.stack([part.sum(-1) for part in p.split(BLOCK_K, dim=-1)], dim=-1)
            shares = torch.stack([part.mean(1) for part in tiles.split(BLOCK_Q, dim=1)], dim=1)
        else:
            scores = _averages(q, BLOCK_Q) @ _averages(k, BLOCK_K).mT * q.shape[2] ** -0.5
            shares = (scores + sizes.log()).softmax(-1)
        masks.append(top_mass(shares, mass))
    return BlockMask.of(masks)


def density(mask: BlockMask) -> float:
    """Return the share of blocks that a mask keeps."""
    return mask.count.sum().item() / (mask.heads * sum(queries * keys for queries, keys in mask.tiles))


@contextmanager
def attention_by(pipeline: LocalPipeline, attend: Callable[[str, AttentionInputs], torch.Tensor]) -> Iterator[None]:
    """Replace the network's attention by ``attend(module name, inputs)`` within the context."""
    names: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: names.append(name))
        for name, module in module_of(pipeline.denoiser.transformer).named_modules()
        if isinstance(module, Attention)
    ]

    def replaced(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens) -> torch.Tensor:
        return attend(names[-1], AttentionInputs("", names[-1], q, k, v, cu_q, cu_k))

    try:
        with (
            patch("zoetrope.model.network.blocks.varlen_attention", replaced),
            patch("zoetrope.model.network.exchange.varlen_attention", replaced),
        ):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def part_of(name: str) -> str:
    """Convert ``blocks.3.attn1`` to ``layer 3 self``."""
    _, layer, kind = name.split(".")
    return f"layer {layer} {KINDS[kind == 'attn2']}"


def spec_of(frames: int, steps: int) -> VideoSpec:
    """Resolve the clip to generate, in one segment regardless of its length."""
    card = replace(find_model("nano"), segment_frames=frames + (1 - frames) % 4)
    request = VideoRequest(task=TextToVideo(prompt=PROMPT), frames=frames, steps=steps, seed=SEED)
    return resolve(request, card, random_seed=SEED)


def captured(pipeline: LocalPipeline, spec: VideoSpec, source: str, samples: int) -> list[AttentionInputs]:
    """Capture the inputs of every attention call in ``samples`` steps, spread evenly from first to last."""
    calls: list[AttentionInputs] = []
    steps = {round(i * (spec.steps - 1) / max(samples - 1, 1)) for i in range(samples)}
    now = 0

    def keep(name: str, inputs: AttentionInputs) -> torch.Tensor:
        if now in steps:
            calls.append(replace(inputs, source=source, part=part_of(name)))
        return exact(*inputs.args)

    def count(step: int, _steps: int) -> None:
        nonlocal now
        now = step

    with attention_by(pipeline, keep):
        pipeline.run(spec, on_step=count)
    expected = {f"layer {i} {kind}" for i in range(pipeline.denoiser.transformer.config.num_layers) for kind in KINDS}
    if {call.part for call in calls} != expected:
        raise RuntimeError(f"attention of {sorted(expected - {call.part for call in calls})} was not captured")
    return calls


def adversarial(length: int = 1024, heads: int = 2, dim: int = 128, seed: int = 0) -> list[AttentionInputs]:
    """Return normally distributed inputs, plain and with outliers that are known to break 8-bit attention."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v = (normal(length, heads, dim) for _ in range(3))
    channels, rows = torch.randperm(dim, generator=generator)[:4], torch.randperm(length, generator=generator)[:8]
    cases: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {"normal numbers": (q, k, v)}

    def times(x: torch.Tensor, factor: float, dimension: int, index: torch.Tensor) -> torch.Tensor:
        return x.index_copy(dimension, index, x.index_select(dimension, index) * factor)

    offset = torch.zeros(heads, dim).index_copy(1, channels, normal(heads, 4).sign())
    for factor in (20, 50, 100):
        cases[f"4 channels of k x{factor}"] = (q, times(k, factor, 2, channels), v)
        cases[f"4 channels of k offset by {factor}"] = (q, k + factor * offset, v)
    cases["all of k offset by 20 (one vector a head)"] = (q, k + 20 * normal(heads, dim), v)
    cases["8 rows of k x20"] = (q, times(k, 20, 0, rows), v)
    cases["8 rows of v x50"] = (q, k, times(v, 50, 0, rows))
    cases["4 channels of v x50"] = (q, k, times(v, 50, 2, channels))
    cases["8 rows of q x30"] = (times(q, 30, 0, rows), k, v)
    cases["q x8"] = (q * 8, k, v)
    cu = CuSeqlens.of([length])
    return [AttentionInputs("adversarial", name, *x, cu, cu) for name, x in cases.items()]


def study(calls: Sequence[AttentionInputs], sparse: Sequence[AttentionInputs]) -> list[dict[str, Any]]:
    """Compute the errors of each source, part and method, and of each source as a whole (part ``all``)."""
    errors: dict[tuple[str, str, str], Error] = defaultdict(Error)

    def add(call: AttentionInputs, method: str, found: torch.Tensor, truth: torch.Tensor, share: float = 1.0) -> None:
        for part in (call.part, "all"):
            errors[call.source, part, method].add(found, truth, share)

    for call in calls:
        truth = exact(*call.to(torch.float64).args)
        for name, attend in dense_methods().items():
            add(call, name, attend(*call.args), truth)
    for call in sparse:
        wide = call.to(torch.float64)
        truth = exact(*wide.args)
        for mass in MASSES:
            for oracle in (False, True) if mass < 1 else (False,):
                mask = block_mask(wide, mass, oracle)
                method = f"mass {mass:g}{', oracle' if oracle else ''}"
                add(call, method, exact(*wide.args, mask), truth, density(mask))
    return [
        {"source": source, "part": part, "method": method, **error.figures()}
        for (source, part, method), error in errors.items()
        if source != "adversarial" or part != "all"  # an average over adversarial inputs is meaningless
    ]


def generations(pipeline: LocalPipeline, spec: VideoSpec) -> list[dict[str, Any]]:
    """Generate the clip with each method in all attention layers and compare it with float32."""

    def run(method: Callable[[str, AttentionInputs], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        with attention_by(pipeline, method):
            (latents,) = pipeline.run(spec)
        frames = torch.cat([torch.from_numpy(chunk) for chunk in pipeline.decode(latents)])
        return latents.double(), frames.double()

    def masked(mass: float) -> Callable[[str, AttentionInputs], torch.Tensor]:
        def attend(name: str, inputs: AttentionInputs) -> torch.Tensor:
            mask = block_mask(inputs, mass) if name.endswith("attn1") else None
            return exact(*inputs.args, mask)

        return attend

    methods = {
        name: lambda _name, inputs, method=method: method(*inputs.args) for name, method in dense_methods().items()
    } | {f"mass {mass:g} (self-attention)": masked(mass) for mass in (0.8, 0.95)}
    latents, frames = run(lambda _name, inputs: exact(*inputs.args))
    rows = []
    for name, method in methods.items():
        found, shown = run(method)
        noise = (shown - frames).square().mean().item()
        rows.append(
            {
                "method": name,
                "relative_l2": ((found - latents).norm() / latents.norm()).item(),
                "psnr": 10 * math.log10(255**2 / noise) if noise else None,
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("attention_error", __doc__)
    parser.add_argument("--out", type=Path, required=True, help=command.OUT_HELP)
    parser.add_argument("--steps", type=int, default=30, help="steps of nano's clip of 17 frames (default: 30)")
    parser.add_argument("--long-steps", type=int, default=8, help="steps of the longer clip; 0 skips it (default: 8)")
    parser.add_argument("--length", type=int, default=1024, help="tokens of the adversarial inputs (default: 1024)")
    parser.add_argument("--no-generations", action="store_true", help="skip the whole generations")
    args = parser.parse_args(arguments)
    started = time.process_time()
    pipeline = LocalPipeline.load(find_model("nano"))
    spec = spec_of(17, args.steps)
    calls = captured(pipeline, spec, "nano", samples=4)
    selves = [call for call in calls if call.part.endswith("self")]
    sources = {"nano": _describe(calls, spec.steps)}
    with torch.inference_mode():
        if args.long_steps:
            longer = captured(pipeline, spec_of(LONG_FRAMES, args.long_steps), "nano, 65 frames", samples=3)
            sources["nano, 65 frames"] = _describe(longer, args.long_steps) + " It was trained with 17 frames."
            calls, selves = calls + longer, selves + [call for call in longer if call.part.endswith("self")]
        made = adversarial(args.length)
        sources["adversarial"] = f"{args.length} tokens, {made[0].q.shape[1]} heads of {made[0].q.shape[2]}."
        rows = study([*calls, *made], [*selves, *made])
        clips = [] if args.no_generations else generations(pipeline, spec)
    record = {
        "environment": header(torch.device("cpu"), command.command_line("attention_error", arguments), SEED),
        "cpu_seconds": time.process_time() - started,
        "sources": sources,
        "rows": rows,
        "generated": f"{spec.model_frames} frames, {spec.steps} steps, prompt '{PROMPT}', seed {SEED},",
        "generations": clips,
    }
    command.write_results(args.out, record, markdown(record), indent=1)
    print(markdown(record))
    return 0


def _describe(calls: Sequence[AttentionInputs], steps: int) -> str:
    q = calls[0].q
    return (
        f"Text to video, {calls[0].cu_q.lengths[0]} tokens, {q.shape[1]} heads of {q.shape[2]}: {len(calls)} calls of "
        f"attention from steps spread over {steps}, prompt '{PROMPT}', seed {SEED}."
    )


if __name__ == "__main__":
    sys.exit(main())
