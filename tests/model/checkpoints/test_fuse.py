"""Fused adapters: the sum in float32, rounded or quantised once, for the right network and the right experts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.adapter_styles import STYLES, block_modules, random_pairs, styled, write
from tests.fixtures.dense_networks import write_dense_ti2v
from tests.fixtures.random_checkpoints import write_a14b, write_t2v
from zoetrope.benchmarks.random_checkpoint import write_random_checkpoint
from zoetrope.kernels import quantise_weight
from zoetrope.model.adapters.files.targets import Targets
from zoetrope.model.catalog.model_card import network_config
from zoetrope.model.catalog.presets import open_model
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.checkpoints.upcycle import upcycle
from zoetrope.model.families import PRESETS
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.protocol import module_of
from zoetrope.model.network.quantized import QuantizedLinear
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.tasks import ModelCard

CPU = torch.device("cpu")
Q = "blocks.0.attn1.to_q"
FFN = ("ffn.net.0.proj", "ffn.net.2", "attn2.to_k")


def model(folder: Path, *lora: str, quantize: Quantize = "none") -> ModelCard:
    return open_model(str(folder), LoadOptions(lora=lora, quantize=quantize))


def weights(card: ModelCard, component: str = "transformer", **more: Any) -> dict[str, torch.Tensor]:
    return dict(module_of(load_transformer(card, CPU, component, **more)).state_dict())


def diffs(targets: Targets, names: Sequence[str], seed: int = 3) -> dict[str, torch.Tensor]:
    """Whole differences of tensors that are named as diffusers names them."""
    generator = torch.Generator().manual_seed(seed)
    parts = {".weight": ".diff", ".bias": ".diff_b"}
    made = {}
    for name in names:
        leaf = next((leaf for leaf in parts if name.endswith(leaf)), "")
        key = f"transformer.{name.removesuffix(leaf)}{parts.get(leaf, '.diff')}"
        made[key] = torch.randn(targets.shapes[name], generator=generator)
    return made


def test_every_kind_of_tensor_gets_the_sum(tmp_path: Path) -> None:
    """Float32 ones, biases, norms, modulation and five-dimensional ones too; of two files, with their strengths."""
    write_t2v(tmp_path / "t2v")
    plain = weights(model(tmp_path / "t2v"))
    targets = Targets(network_config(model(tmp_path / "t2v")))
    names = ("blocks.0.norm2.weight", "blocks.1.scale_shift_table", "patch_embedding.weight", "proj_out.bias",
             "condition_embedder.time_embedder.linear_1.weight", f"{Q}.bias")  # fmt: skip
    whole, pairs = diffs(targets, names), random_pairs(block_modules(), targets)
    first = write(tmp_path / "a.safetensors", styled(STYLES["diffusers with alphas"], pairs, alpha=2.0) | whole)
    again = random_pairs([Q], targets, seed=9)
    second = write(tmp_path / "b.safetensors", styled(STYLES["musubi-tuner"], again, alpha=1.0))
    made = weights(model(tmp_path / "t2v", f"{first}:0.5", f"{second}:-2"))
    assert made.keys() == plain.keys()
    expected = dict(plain)
    for module, (a, b) in pairs.items():
        expected[f"{module}.weight"] = expected[f"{module}.weight"] + 0.5 * (0.5 * (b @ a))
    for name, value in zip(names, whole.values(), strict=True):
        expected[name] = expected[name] + 0.5 * value
    a, b = again[Q]
    expected[f"{Q}.weight"] = expected[f"{Q}.weight"] - 2.0 * (0.25 * (b @ a))
    for name, value in expected.items():
        assert torch.equal(made[name], value), name


def test_rounding_happens_once(tmp_path: Path) -> None:
    """bfloat16(W + delta), of W in float32; what stays in float32 is not rounded at all."""
    write_t2v(tmp_path / "t2v")
    plain = weights(model(tmp_path / "t2v"))
    targets = Targets(network_config(model(tmp_path / "t2v")))
    pairs = random_pairs([Q, "condition_embedder.time_embedder.linear_1"], targets, size=0.01)
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], pairs))
    made = weights(model(tmp_path / "t2v", str(file)), dtype=torch.bfloat16)
    for module, (a, b) in pairs.items():
        name = f"{module}.weight"
        exact = plain[name] + b @ a
        assert torch.equal(made[name], exact.bfloat16() if module == Q else exact)
    a, b = pairs[Q]
    assert not torch.equal(made[f"{Q}.weight"], plain[f"{Q}.weight"].bfloat16() + (b @ a).bfloat16())


def test_quantised_weights_are_those_of_the_sum(tmp_path: Path) -> None:
    folder = write_dense_ti2v(tmp_path / "ti2v")
    targets = Targets(network_config(model(folder)))
    name = "blocks.1.attn2.to_v"
    pairs = random_pairs([name], targets, size=0.05)
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], pairs))
    network = load_transformer(model(folder, str(file), quantize="fp8"), CPU, dtype=torch.bfloat16)
    layer = module_of(network).get_submodule(name)
    assert isinstance(layer, QuantizedLinear)
    a, b = pairs[name]
    weight, scale = quantise_weight(weights(model(folder))[f"{name}.weight"] + b @ a)
    assert torch.equal(layer.weight.view(torch.uint8), weight.view(torch.uint8))
    assert torch.equal(layer.scale, scale)


@pytest.fixture(scope="module")
def upcycled_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A dense model, the one with experts that is made of it, and an adapter with changes of the layers between."""
    root = tmp_path_factory.mktemp("upcycled")
    dense, experts = write_dense_ti2v(root / "ti2v"), root / "moe"
    upcycle(dense, experts, "wan2.7-27b", seed=7)
    targets = Targets(network_config(model(dense)))
    biases = [f"blocks.{layer}.ffn.net.{part}.bias" for layer in range(4) for part in ("0.proj", "2")]
    pairs = random_pairs(block_modules(4, FFN), targets)
    file = write(root / "a.safetensors", styled(STYLES["diffusers"], pairs) | diffs(targets, biases))
    return dense, experts, file


def test_fusing_before_and_after_the_cut_into_experts_are_the_same_bits(
    upcycled_pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """fuse(upcycle(dense)) == upcycle(fuse(dense)), in float32 and in bfloat16."""
    dense, experts, file = upcycled_pair
    fused = load_file(dense / "transformer" / "diffusion_pytorch_model.safetensors")
    fused |= weights(model(dense, str(file)))
    other = tmp_path / "ti2v"
    write_dense_ti2v(other)
    write(other / "transformer" / "diffusion_pytorch_model.safetensors", fused)
    upcycle(other, tmp_path / "moe", "wan2.7-27b", seed=7)
    for dtype in (torch.float32, torch.bfloat16):
        after, before = weights(model(experts, str(file)), dtype=dtype), weights(model(tmp_path / "moe"), dtype=dtype)
        assert after.keys() == before.keys()
        changed = weights(model(experts), dtype=dtype)
        for name, value in before.items():
            assert torch.equal(after[name], value), name
        for name in ("w1", "b1", "w2", "b2"):
            assert not torch.equal(after[f"blocks.1.ffn.{name}"], changed[f"blocks.1.ffn.{name}"])


def test_ranks_add_the_changes_of_their_own_experts(upcycled_pair: tuple[Path, Path, Path]) -> None:
    _, experts, file = upcycled_pair
    card = model(experts, str(file))
    assert "experts get the changes of the layer that they were cut from" in card.warnings[-1]
    whole, parts = weights(card), [weights(card, rank=rank, ranks=4) for rank in range(4)]
    for name, value in whole.items():
        split = name.endswith(("ffn.w1", "ffn.w2", "ffn.b1"))
        held = torch.cat([part[name] for part in parts]) if split else parts[3][name]
        assert torch.equal(held, value), name


def test_each_noise_expert_gets_its_own(tmp_path: Path) -> None:
    """A swapped pair is told from the right one, also in one file with both."""
    write_a14b(tmp_path / "a14b")
    targets = Targets(network_config(model(tmp_path / "a14b")))
    names = ("transformer", "transformer_2")
    plain = [weights(model(tmp_path / "a14b"), name)[f"{Q}.weight"] for name in names]
    (high, low) = (random_pairs([Q], targets, seed=seed) for seed in (1, 2))
    files = [
        write(tmp_path / f"style_{side}_noise.safetensors", styled(STYLES["diffusion-pipe"], pairs))
        for side, pairs in (("high", high), ("low", low))
    ]
    both = write(
        tmp_path / "both.safetensors", styled(STYLES["diffusers"], high) | styled(STYLES["transformer_2."], low)
    )

    def changes(*lora: str) -> list[torch.Tensor]:
        card = model(tmp_path / "a14b", *lora)
        return [weights(card, name)[f"{Q}.weight"] - w for name, w in zip(names, plain, strict=True)]

    first, second = (pairs[Q][1] @ pairs[Q][0] for pairs in (high, low))
    for lora, expected in (
        ([str(file) for file in files], (first, second)),
        ([str(both)], (first, second)),
        ([f"{files[0]}@low", f"{files[1]}@high"], (second, first)),
        ([f"{files[0]}:3@high", f"{files[0]}:1.5@low"], (3 * first, 1.5 * first)),
        ([f"{files[0]}@both"], (first, first)),
        ([str(files[1])], (torch.zeros_like(first), second)),
        ([f"{both}:2@low"], (torch.zeros_like(first), 2 * second)),
    ):
        for change, wanted in zip(changes(*lora), expected, strict=True):
            torch.testing.assert_close(change, wanted, rtol=0, atol=1e-6)


def test_weights_that_are_drawn_get_changes_too(tmp_path: Path) -> None:
    preset = PRESETS["wan2.1-t2v-1.3b"]
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "text_dim": 32}
    small_preset = replace(preset, config=preset.config.model_copy(update=small))
    write_random_checkpoint(small_preset, tmp_path / "drawn")
    plain = model(tmp_path / "drawn")
    pairs = random_pairs([Q], Targets(network_config(plain)))
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], pairs))
    a, b = pairs[Q]
    name = f"{Q}.weight"
    assert torch.equal(weights(model(tmp_path / "drawn", str(file)))[name], weights(plain)[name] + b @ a)


def test_a_file_that_changes_after_the_card_was_read(tmp_path: Path) -> None:
    write_t2v(tmp_path / "t2v")
    targets = Targets(network_config(model(tmp_path / "t2v")))
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], random_pairs([Q], targets)))
    card = model(tmp_path / "t2v", str(file))
    write(file, styled(STYLES["diffusers"], random_pairs([Q], targets, seed=1)))
    with pytest.raises(ModelError, match=r"a\.safetensors: has changed since the service was started"):
        load_transformer(card, CPU)
    assert weights_of(model(tmp_path / "t2v", str(file))) != weights_of(card)


def test_weights_have_the_name_of_what_is_fused(tmp_path: Path) -> None:
    write_t2v(tmp_path / "t2v")
    targets = Targets(network_config(model(tmp_path / "t2v")))
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], random_pairs([Q], targets)))
    plain = weights_of(model(tmp_path / "t2v"))
    names = {weights_of(model(tmp_path / "t2v", *lora)) for lora in ((str(file),), (f"{file}:0.5",))}
    assert len(names) == 2
    assert plain.startswith("t2v@") and all(name.startswith(f"{plain}+lora:") for name in names)


def test_a_change_several_times_the_weight_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_t2v(tmp_path / "t2v")
    targets = Targets(network_config(model(tmp_path / "t2v")))
    pairs = random_pairs(block_modules(), targets, size=3.0)
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], pairs))
    with caplog.at_level(logging.WARNING, "zoetrope.model"):
        load_transformer(model(tmp_path / "t2v", f"{file}:0.01"), CPU)
        assert not caplog.messages
        load_transformer(model(tmp_path / "t2v", f"{file}:4"), CPU)
    (said,) = caplog.messages
    assert "times the weight itself: is its alpha, or the strength 4, too large?" in said
