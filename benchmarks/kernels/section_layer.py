"""A whole transformer layer: ours as the model runs it, and diffusers' under torch.compile."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderWork
from zoetrope.benchmarks.kernels.peers import compiled, installed
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.benchmarks.kernels.timing import Call
from zoetrope.kernels.select.backends import use
from zoetrope.kernels.types.varlen import CuSeqlens
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.blocks import Block, Hidden
from zoetrope.model.network.sequences import PackedBatch

EPS = 1e-6
# Name -> settings of `kernels.select.backends` and the attention kernel that they use.
OURS: dict[str, tuple[str, str]] = {
    "ours": ("triton,attention=gluon", "gluon"),
    "ours, Triton attention": ("triton", "triton"),
    "ours, 8-bit attention": ("triton,attention=int8_fp8", "int8_fp8"),
    "ours, int8 attention": ("triton,attention=int8", "int8"),
}
# Operations of a layer, and the dtype of their kernels' proofs if it is not the layer's.
OPERATIONS = {
    "residual_norm": None,
    "qk_norm_rope": None,
    "grouped_gemm": None,
    "router_logits": None,
    "routing": "fp32",
    "combine": None,
}


def layer(bench: Bench) -> Rows:
    """Time each model's layer at one token count; models with experts compete with a dense layer of equal FLOPs."""
    tokens = bench.scope.layer_tokens
    for model in bench.scope.models:
        sets = bench.sets(partial(_inputs, dtype=bench.half, tokens=tokens, model=model))
        peer = _peer(bench, model)
        block = _block(bench, model, peer if isinstance(peer, nn.Module) else None)
        work = ContenderWork("layer", f"{model.name}, {tokens} tokens", flops=layer_flops(model, tokens))
        yield bench.race(work, [*_ours(bench, sets, block, tokens, model), *_diffusers(bench, sets, peer)])


def layer_flops(model: ModelShape, tokens: int) -> float:
    """Count the FLOPs of the matrix products: both attentions and the feed-forward."""
    n, d, text = float(tokens), model.dim, model.text
    own = 8 * n * d * d + 4 * n * n * d
    cross = 4 * n * d * d + 4 * text * d * d + 4 * n * text * d
    return own + cross + 4 * n * d * model.active


def _inputs(inputs: KernelInputs, dtype: torch.dtype, tokens: int, model: ModelShape) -> dict[str, torch.Tensor]:
    angle = inputs.randn(tokens, model.head_dim // 2, scale=3.0)
    return {
        "x": inputs.randn(tokens, model.dim, dtype=dtype),
        "text": inputs.randn(model.text, model.dim, dtype=dtype),
        "modulation": inputs.randn(1, 6, model.dim, scale=0.1),
        "cos": angle.cos(),
        "sin": angle.sin(),
    }


def _block(bench: Bench, model: ModelShape, peer: nn.Module | None) -> Block:
    """Return our layer, with the peer's weights where both have them."""
    moe = None
    if model.experts > 1:
        moe = MoEConfig(
            layers=(0,),
            num_experts=model.experts,
            top_k=model.groups,
            expert_dim=model.hidden,
            router="grouped_top1",
            groups=model.groups,
            expert_bias=True,
        )
    config = TransformerConfig(
        num_attention_heads=model.heads,
        attention_head_dim=model.head_dim,
        in_channels=16,
        out_channels=16,
        text_dim=model.dim,
        ffn_dim=model.active,
        num_layers=1,
        moe=moe,
    )
    with torch.device(bench.device):
        block = Block(config, 0).to(bench.half).eval().requires_grad_(False)
    if peer is not None:
        state = {name: value for name, value in peer.state_dict().items() if moe is None or not name.startswith("ffn.")}
        block.load_state_dict(state, strict=moe is None)
    return block


def _ours(
    bench: Bench, sets: list[dict[str, torch.Tensor]], block: Block, tokens: int, model: ModelShape
) -> list[Contender]:
    def make(i: int, choices: str) -> Call:
        x, device = sets[i], bench.device
        batch = PackedBatch(
            tokens=x["x"],
            cos=x["cos"],
            sin=x["sin"],
            timesteps=torch.zeros(1, device=device),
            noise_row=torch.zeros(tokens, dtype=torch.int64, device=device),
            cu_tokens=CuSeqlens.of([tokens]),
            texts=(x["text"],),
            cu_text=CuSeqlens.of([model.text]),
            targets=((0, (1, 1, tokens)),),
        )

        def call() -> torch.Tensor:
            with use(choices):
                rope = (x["cos"], x["sin"])
                out: Hidden = block(Hidden(x["x"]), x["text"], None, x["modulation"], rope, batch)
                return out.settle(batch.noise_row)

        return call

    if not bench.kernels or bench.device.type != "cuda":
        return [Contender("ours", lambda i: make(i, ""))]
    wrong = [op for op, dtype in OPERATIONS.items() if bench.problem(op, "triton", dtype) is not None]
    instead = "".join(f",{op}=torch" for op in wrong)  # the layer is measured without them, and says so
    suffix = f", without {', '.join(wrong)}" if wrong else ""
    found = []
    for name, (choices, attention) in OURS.items():
        problem = bench.problem("attention", attention, head_dim=model.head_dim)
        make_it = None if problem else partial(make, choices=choices + instead)
        selected = bench.selection.takes("attention", attention)
        found.append(Contender(f"{name}{suffix}", make_it, problem and f"wrong: {problem}", selected))
    return found


def _peer(bench: Bench, model: ModelShape) -> Any:
    """Return diffusers' block, or the reason why there is none."""
    reason = installed("diffusers")
    if reason:
        return reason
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    with torch.device(bench.device):
        block = WanTransformerBlock(model.dim, model.active, model.heads, cross_attn_norm=True, eps=EPS)
    return block.to(bench.half).eval().requires_grad_(False)


def _diffusers(bench: Bench, sets: list[dict[str, torch.Tensor]], peer: Any) -> list[Contender]:
    if isinstance(peer, str):
        return [Contender(name, absent=peer) for name in ("diffusers", "diffusers, torch.compile")]

    def make(i: int) -> Call:
        x = sets[i]
        rotary = tuple(x[name].repeat_interleave(2, -1)[None, :, None] for name in ("cos", "sin"))
        arguments = (x["x"][None], x["text"][None], x["modulation"], rotary)
        return lambda: peer(*arguments)[0]

    return [Contender("diffusers", make), compiled("diffusers, torch.compile", make, bench.device)]
