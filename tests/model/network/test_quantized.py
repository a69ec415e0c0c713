"""A network in 8-bit floats: which weights, that everything else stays, and that it computes what its numbers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.random_checkpoints import write_t2v
from tests.fixtures.transformer_shape import TRANSFORMER
from tests.model.families.joint import RAW, JointConfig
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints import weights
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.families import all_presets
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.families.quantization import middle_blocks, why_exact
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.costs import quantized_weights, rank_memory
from zoetrope.model.network.experts import MoEFeedForward
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.quantized import QuantizedExperts, QuantizedLinear
from zoetrope.model.network.sequences import Sequence, Stream
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.quantize import Quantize

CPU = torch.device("cpu")
FORMS: tuple[Quantize, ...] = ("none", "fp8")
KEPT = ("gate", "correction", "norm", "table", "bias", "b1", "b2")


def routed_shape() -> TransformerConfig:
    """Of three blocks, the middle one with experts."""
    moe = MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=32)
    return TransformerConfig.model_validate({**TRANSFORMER, "num_layers": 3, "moe": moe})


def nano(quantize: Quantize, rank: int = 0, ranks: int = 1) -> Network:
    return load_transformer(find_model("nano", LoadOptions(quantize=quantize)), CPU, rank=rank, ranks=ranks)


@pytest.fixture(scope="module")
def exact() -> Network:
    return nano("none")


@pytest.fixture(scope="module")
def quantized() -> Network:
    return nano("fp8")


def held(network: Network) -> dict[str, torch.Tensor]:
    """All tensors, those that are not a checkpoint's too."""
    module = module_of(network)
    return dict(module.named_parameters()) | dict(module.named_buffers())


def sequence(config: TransformerConfig, level: float, seed: int) -> Sequence:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(config.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(6, config.text_dim, generator=generator)
    return Sequence((Stream(latents, torch.full((2,), level), 0),), text)


@pytest.mark.parametrize(
    ("layers", "middle"),
    [(2, []), (3, [1]), (5, [1, 2, 3]), (7, [1, 2, 3, 4, 5]), (8, [2, 3, 4]), (30, [*range(2, 27)])],
)
def test_the_outer_blocks_stay(layers: int, middle: list[int]) -> None:
    assert [*middle_blocks(layers)] == middle


@pytest.mark.parametrize("name", all_presets())
def test_matrices_of_attention_and_feed_forward_are_quantised_and_nothing_else(name: str) -> None:
    config = all_presets()[name].config
    found = quantized_weights(config, "fp8")
    assert found and quantized_weights(config, "none") == {}
    middle = {f"blocks.{number}" for number in middle_blocks(config.num_layers)}
    assert {".".join(key.split(".")[:2]) for key in found} == middle
    assert {key.split(".")[2] for key in found} == {"attn1", "attn2", "ffn"}
    assert not [key for key in found if any(word in key for word in KEPT)]
    routed = config.moe is not None
    for block in middle:
        mine = [key.removeprefix(f"{block}.") for key in found if key.startswith(f"{block}.")]
        assert {"attn1.to_q.weight", "attn2.to_v.weight", "attn1.to_out.0.weight"} <= set(mine)
        assert ("ffn.w1" in mine or "ffn.net.2.weight" in mine) and (routed or "ffn.net.0.proj.weight" in mine)
        assert ("attn2.add_k_proj.weight" in mine) == (config.added_kv_proj_dim is not None)


def test_what_is_not_quantised_is_as_it_was(exact: Network, quantized: Network) -> None:
    before, after = held(exact), held(quantized)
    gone = set(quantized_weights(exact.config, "fp8"))
    assert set(quantized.state_dict()) == set(exact.state_dict()) - gone
    assert all(torch.equal(after[name], before[name]) for name in set(before) - gone)
    assert {tensor.dtype for name, tensor in after.items() if name not in before} == {
        torch.float8_e4m3fn,
        torch.float32,
    }


def test_its_bytes_are_those_of_the_planner(exact: Network, quantized: Network) -> None:
    for network, form in zip((exact, quantized), FORMS, strict=True):
        planned = rank_memory(network.config, 1, 1, value_bytes=4, quantize=form)
        assert sum(tensor.nbytes for tensor in held(network).values()) == planned.weights


def test_a_layer_is_the_product_of_its_numbers(exact: Network, quantized: Network) -> None:
    name = "blocks.2.attn1.to_q"
    ours, theirs = (module_of(network).get_submodule(name) for network in (quantized, exact))
    assert isinstance(ours, QuantizedLinear) and isinstance(theirs, torch.nn.Linear)
    weight = ours.weight.double() * ours.scale.double()[:, None]
    assert float((weight - theirs.weight.double()).norm() / weight.norm()) < 0.04
    x = torch.randn(7, 128, generator=torch.Generator().manual_seed(0))
    scale = x.abs().amax(1, keepdim=True).double() / 448
    rows = (x / scale.float()).to(torch.float8_e4m3fn).double() * scale
    with torch.inference_mode():
        assert torch.allclose(ours(x).double(), rows @ weight.mT + theirs.bias.double(), rtol=1e-3, atol=1e-3)


def test_experts_are_the_products_of_their_numbers(exact: Network, quantized: Network) -> None:
    ours, theirs = (module_of(network).get_submodule("blocks.2.ffn") for network in (quantized, exact))
    assert isinstance(ours, QuantizedExperts) and isinstance(theirs, MoEFeedForward)
    x = torch.randn(40, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        made, expected = ours(x), theirs(x)
        assert 0.001 < float((made - expected).norm() / expected.norm()) < 0.1
        assert ours.last_counts is not None and theirs.last_counts is not None
        assert torch.equal(ours.last_counts, theirs.last_counts), "the router sees the same, and is the same"


def test_a_forward_is_near_the_exact_one(exact: Network, quantized: Network) -> None:
    batch = exact.pack([sequence(exact.config, 700.0, 1), sequence(exact.config, 150.0, 2)])
    with torch.inference_mode():
        expected, made = exact(batch), quantized(batch)
        assert 0.001 < float((made - expected).norm() / expected.norm()) < 0.15
        assert torch.equal(made, quantized(batch))


def test_each_rank_holds_its_experts(quantized: Network) -> None:
    whole = held(quantized)
    parts = [held(nano("fp8", rank, 4)) for rank in range(4)]
    for name, tensor in whole.items():
        if ".ffn.up" in name or ".ffn.down" in name:
            assert torch.equal(torch.cat([part[name].view(torch.uint8) for part in parts]), tensor.view(torch.uint8))
        else:
            assert all(torch.equal(part[name].view(torch.uint8), tensor.view(torch.uint8)) for part in parts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_weights_are_quantised_from_their_source(tmp_path: Path, dtype: torch.dtype) -> None:
    """Not from what would be kept otherwise, which has been rounded once; and one at a time."""
    _write(tmp_path, layers=3, dtype=dtype)
    card = find_model(str(tmp_path), LoadOptions(quantize="fp8"))
    network = load_transformer(card, CPU, dtype=torch.bfloat16)
    source = load_file(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    layer = module_of(network).get_submodule("blocks.1.ffn.net.0.proj")
    assert isinstance(layer, QuantizedLinear)
    weight = source["blocks.1.ffn.net.0.proj.weight"].float()
    scale = weight.abs().amax(1) / 448
    assert torch.equal(layer.scale, scale)
    assert torch.equal(layer.weight.float(), (weight * (1 / scale)[:, None]).to(torch.float8_e4m3fn).float())
    assert layer.bias.dtype == torch.bfloat16
    with torch.inference_mode():
        made = network(network.pack([sequence(network.config, 500.0, 0)]))
    assert made.dtype == torch.bfloat16 and bool(made.isfinite().all())


def test_random_weights_are_quantised_like_those_of_a_file() -> None:
    config = routed_shape()
    how = RandomWeights(seed=3, std=0.05)
    exact, ours = (random_network(config, CPU, torch.bfloat16, how, quantize=form) for form in FORMS)
    layer, source = (module_of(network).get_submodule("blocks.1.attn1.to_v") for network in (ours, exact))
    assert isinstance(layer, QuantizedLinear) and isinstance(source, torch.nn.Linear)
    weight = source.weight.float()
    assert torch.equal(layer.scale, weight.abs().amax(1) / 448)
    assert torch.equal(held(ours)["blocks.1.ffn.gate.weight"], held(exact)["blocks.1.ffn.gate.weight"])
    assert rank_memory(config, 1, 1, quantize="fp8").weights == sum(x.nbytes for x in held(ours).values())


def test_a_gelu_is_part_of_the_layer_after_it(tmp_path: Path) -> None:
    _write(tmp_path, layers=3, dtype=torch.float32)
    exact, ours = (load_transformer(find_model(str(tmp_path), LoadOptions(quantize=form)), CPU) for form in FORMS)
    x = torch.randn(9, exact.config.dim, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, made = (module_of(network).get_submodule("blocks.1.ffn")(x) for network in (exact, ours))
        assert float((made - expected).norm() / expected.norm()) < 0.06


def test_networks_without_such_a_form_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_safetensors", None)
    assert why_exact(JointConfig.model_validate(RAW)) == "its network, JointTransformer, has no 8-bit form"
    write_t2v(tmp_path)
    with pytest.raises(ModelError, match=r"quantize: fp8 is not possible for .*: num_layers is 2: .* at least 3"):
        find_model(str(tmp_path), LoadOptions(quantize="fp8"))


def test_a_gpu_without_products_of_8_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoetrope.model.checkpoints.load import configure_torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "an A100")
    assert configure_torch(find_model("nano")).type == "cuda"
    with pytest.raises(
        ModelError, match=r"quantize: fp8 needs a GPU of compute capability 8\.9 or newer, an A100 has 8"
    ):
        configure_torch(find_model("nano", LoadOptions(quantize="fp8")))


def test_an_8_bit_network_is_not_trained(quantized: Network) -> None:
    batch = quantized.pack([sequence(quantized.config, 500.0, 0)])
    batch.tokens.requires_grad_()
    with pytest.raises(ValueError, match="no backward pass"):
        quantized(batch)


def _write(root: Path, layers: int, dtype: torch.dtype) -> None:
    """A checkpoint of so many layers, in a dtype."""
    from diffusers import WanTransformer3DModel

    write_t2v(root)
    torch.manual_seed(1)
    folder = root / "transformer"
    network = WanTransformer3DModel(**{**TRANSFORMER, "num_layers": layers})
    network.save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    assert json.loads((folder / "config.json").read_text())["num_layers"] == layers
