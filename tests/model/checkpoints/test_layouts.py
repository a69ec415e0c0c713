"""Every layout of weights that is read gives the weights that it stands for, and what is wrong with one is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.fixtures.original_checkpoints import original_transformer_name, write_transformer
from tests.fixtures.random_checkpoints import write_t2v
from tests.fixtures.weight_layouts import (
    E4M3,
    E5M2,
    State,
    Written,
    blocks,
    comfy,
    linears,
    plain,
    scaled,
    tiles,
    write_gguf,
)
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.checkpoints.weights import open_weights
from zoetrope.model.families.key_map import transformer_name
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.protocol import module_of
from zoetrope.model.network.quantized import QuantizedLinear
from zoetrope.model.request.load_options import LoadOptions

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 64,
    "ffn_dim": 512,
    "num_layers": 3,
}
WEIGHTS = "transformer/diffusion_pytorch_model"
LAYOUTS: dict[str, Callable[[State], Written]] = {
    "bf16": plain(torch.bfloat16),
    "fp16": plain(torch.float16),
    "fp8 e4m3": plain(E4M3),
    "fp8 e5m2": plain(E5M2),
    "scaled_fp8": scaled(E4M3, marker=0),
    "scaled_fp8 e5m2": scaled(E5M2, marker=0),
    "ModelOpt": scaled(E4M3, "weight_scale"),
    "LightX2V fp8": scaled(E4M3, "weight_scale", "rows"),
    "LightX2V int8": scaled(torch.int8, "weight_scale", "rows"),
    "int8 rows": scaled(torch.int8, "weight_scale", "rows", shape=lambda scale: (scale.shape[0],)),
    "musubi tensor": scaled(E4M3, shape=lambda scale: (1,)),
    "musubi blocks": scaled(E4M3, by="64"),
    "TurboDiffusion": tiles,
    "comfy e4m3": comfy("float8_e4m3fn", in_header=True),
    "comfy e5m2": comfy("float8_e5m2", in_header=False),
    "comfy int8": comfy("int8_tensorwise", in_header=True, convrot=False),
    "comfy mxfp8": comfy("mxfp8", in_header=False),
}
KINDS = ("Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "BF16", "F16", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint in diffusers' layout, whose transformer the tests replace."""
    root = tmp_path_factory.mktemp("layouts") / "tiny"
    write_t2v(root)
    torch.manual_seed(5)
    WanTransformer3DModel(**SHAPE).save_pretrained(root / "transformer")
    return root


@pytest.fixture(scope="module")
def state(folder: Path) -> State:
    from safetensors.torch import load_file

    return load_file(folder / f"{WEIGHTS}.safetensors")


@pytest.fixture
def place(folder: Path) -> Iterator[Path]:
    """Where the transformer's weights belong, whatever their format; afterwards as before."""
    kept = (folder / f"{WEIGHTS}.safetensors").read_bytes()
    (folder / f"{WEIGHTS}.safetensors").unlink()
    yield folder / WEIGHTS
    for path in (folder / "transformer").glob("diffusion*"):
        path.unlink()
    (folder / f"{WEIGHTS}.safetensors").write_bytes(kept)


def loaded(folder: Path, quantize: Any = "none") -> torch.nn.Module:
    card = find_model(str(folder), LoadOptions(quantize=quantize))
    check_files(card)
    return module_of(load_transformer(card, CPU))


def assert_equal(network: torch.nn.Module, expected: State) -> None:
    found = network.state_dict()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_layout_gives_the_weights_that_it_stands_for(folder: Path, place: Path, state: State, name: str) -> None:
    written = LAYOUTS[name](state)
    changed = [key for key in linears(state) if not torch.equal(written.expected[key], state[key])]
    assert changed == linears(state)
    written.save(place.with_suffix(".safetensors"))
    assert_equal(loaded(folder), written.expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_gives_the_weights_of_the_gguf_package(tmp_path: Path, state: State, kind: str) -> None:
    original = {original_transformer_name(name): value for name, value in state.items()}
    path = tmp_path / "model.gguf"
    expected = write_gguf(original, path, kind)
    with open_weights([path], transformer_name) as tensors:
        found = {tensor.name: tensor for tensor in tensors}
        assert found.keys() == state.keys()
        for name, value in expected.items():
            tensor = found[transformer_name(name)]
            assert tensor.shape == tuple(state[tensor.name].shape)
            assert torch.equal(tensor.read(), value.reshape(tensor.shape)), name


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K"])
def test_diffusers_computes_the_same_with_a_gguf(folder: Path, tmp_path: Path, state: State, kind: str) -> None:
    """Within what its products of scales in half precision cost."""
    from diffusers import GGUFQuantizationConfig

    original = {original_transformer_name(name): value for name, value in state.items()}
    path = tmp_path / "model.gguf"
    write_gguf(original, path, kind, flat=False)
    theirs = WanTransformer3DModel.from_single_file(
        str(path),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        config=str(folder),
        subfolder="transformer",
    )
    ours = WanTransformer3DModel(**SHAPE)
    with open_weights([path], transformer_name) as tensors:
        ours.load_state_dict({tensor.name: tensor.read() for tensor in tensors})
    inputs = torch.randn(1, 16, 2, 4, 4), torch.tensor([500]), torch.randn(1, 6, 32)
    with torch.inference_mode():
        expected, found = (network(*inputs, return_dict=False)[0] for network in (theirs, ours))
    assert 0 < float((found - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.parametrize("name", ["fp8 e4m3", "scaled_fp8", "LightX2V fp8"])
def test_bytes_that_8_bit_products_take_stay_as_they_are(folder: Path, place: Path, state: State, name: str) -> None:
    written = LAYOUTS[name](state)
    written.save(place.with_suffix(".safetensors"))
    network = loaded(folder, "fp8")
    layer = network.get_submodule("blocks.1.attn1.to_q")
    assert isinstance(layer, QuantizedLinear)
    stored = written.tensors["blocks.1.attn1.to_q.weight"]
    assert torch.equal(layer.weight.view(torch.uint8), stored.view(torch.uint8))
    assert layer.scale.shape == (256,)
    weight = layer.weight.float() * layer.scale[:, None]
    assert torch.equal(weight, written.expected["blocks.1.attn1.to_q.weight"])
    outer = network.get_parameter("blocks.0.attn1.to_q.weight")
    assert torch.equal(outer, written.expected["blocks.0.attn1.to_q.weight"])


@pytest.mark.parametrize("name", ["musubi blocks", "LightX2V int8", "fp8 e5m2"])
def test_other_layouts_are_quantised_again_by_rows(folder: Path, place: Path, state: State, name: str) -> None:
    written = LAYOUTS[name](state)
    written.save(place.with_suffix(".safetensors"))
    layer = loaded(folder, "fp8").get_submodule("blocks.1.ffn.net.2")
    assert isinstance(layer, QuantizedLinear)
    expected = written.expected["blocks.1.ffn.net.2.weight"]
    error = (layer.weight.float() * layer.scale[:, None] - expected).norm() / expected.norm()
    assert error < 0.03


def test_a_variant_is_loaded_where_it_is_the_only_one(folder: Path, place: Path, state: State) -> None:
    written = LAYOUTS["fp16"](state)
    written.save(place.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert_equal(loaded(folder), written.expected)
    written.save(place.with_name("diffusion_pytorch_model.bf16.safetensors"))
    with pytest.raises(ModelError, match="holds the variants fp16 and bf16 of diffusion_pytorch_model: remove all but"):
        loaded(folder)


def test_a_scale_beside_an_exact_weight_must_be_one(folder: Path, place: Path, state: State) -> None:
    written = LAYOUTS["bf16"](state)
    written.tensors["blocks.1.attn1.to_q.scale_weight"] = torch.ones(())
    written.save(place.with_suffix(".safetensors"))
    assert_equal(loaded(folder), written.expected)
    written.tensors["blocks.1.attn1.to_q.scale_weight"] = torch.tensor(2.0)
    written.save(place.with_suffix(".safetensors"))
    with pytest.raises(ModelError, match=r"to_q\.weight is not quantised, but blocks\.1\.attn1\.to_q\.scale_weight is"):
        loaded(folder)


def change(written: Written, how: str) -> None:
    """Damage a file."""
    layer = "blocks.1.attn1.to_q"
    tensors = written.tensors
    if how == "no scale":
        del tensors[f"{layer}.scale_weight"]
    elif how == "no weight":
        del tensors[f"{layer}.weight"]
    elif how == "scale of another shape":
        tensors[f"{layer}.scale_weight"] = torch.ones(7)
    elif how == "two scales":
        tensors[f"{layer}.weight_scale"] = torch.ones(())
    elif how == "NaN":
        tensors[f"{layer}.scale_weight"] = torch.tensor(float("nan"))
    elif how == "zero":
        tensors[f"{layer}.scale_weight"] = torch.tensor(0.0)
    elif how == "negative":
        tensors[f"{layer}.scale_weight"] = torch.tensor(-0.25)
    elif how == "infinite":
        tensors[f"{layer}.scale_weight"] = torch.tensor(float("inf"))
    elif how == "NaN byte":
        tensors[f"{layer}.weight"].view(torch.uint8)[3, 4] = 0x7F


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no scale", r"blocks\.1\.attn1\.to_q\.scale_weight is missing: blocks\.1\.attn1\.to_q\.weight in F8_E4M3"),
        ("no weight", r"holds blocks\.1\.attn1\.to_q\.scale_weight, but no blocks\.1\.attn1\.to_q\.weight"),
        ("scale of another shape", r"scale_weight has shape \(7,\), which no known format has for a weight of \(256"),
        ("two scales", r"holds both blocks\.1\.attn1\.to_q\.scale_weight and blocks\.1\.attn1\.to_q\.weight_scale"),
    ],
)
def test_a_damaged_group_is_named_before_anything_is_loaded(
    folder: Path, place: Path, state: State, how: str, said: str
) -> None:
    written = LAYOUTS["scaled_fp8"](state)
    change(written, how)
    written.save(place.with_suffix(".safetensors"))
    with pytest.raises(ModelError, match=said):
        check_files(find_model(str(folder)))


@pytest.mark.parametrize("quantize", ["none", "fp8"])
def test_nan_is_found_in_what_is_computed(folder: Path, place: Path, state: State, quantize: str) -> None:
    written = LAYOUTS["scaled_fp8"](state)
    change(written, "NaN byte")
    written.save(place.with_suffix(".safetensors"))
    with pytest.raises(ModelError, match=r"blocks\.1\.attn1\.to_q\.weight holds NaN or infinity"):
        loaded(folder, quantize)


@pytest.mark.parametrize(
    ("format", "more", "said"),
    [
        ("nvfp4", {}, r"of blocks\.0\.attn1\.to_q: NVFP4 .* is not served: use a bf16"),
        ("convrot_w4a4", {}, "convrot_w4a4 .* is not served"),
        ("awq_w4a16", {}, "AWQ .* is not served"),
        ("asym_w4a8_int8", {}, "asym_w4a8_int8 .* is not served"),
        ("int8_tensorwise", {"convrot": True}, "with convrot .* is not served"),
        ("int3_spiral", {}, "int3_spiral is not served"),
    ],
)
def test_other_formats_of_comfyui_are_refused_by_name(
    folder: Path, place: Path, state: State, format: str, more: dict[str, Any], said: str
) -> None:
    written = LAYOUTS["comfy e4m3"](state)
    told = json.loads(written.metadata["_quantization_metadata"])
    told["layers"]["blocks.0.attn1.to_q"] = {"format": format, **more}
    written.metadata["_quantization_metadata"] = json.dumps(told)
    written.save(place.with_suffix(".safetensors"))
    with pytest.raises(ModelError, match=said):
        check_files(find_model(str(folder)))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("attn1.to_q.weight.absmax", "bitsandbytes"),
        ("attn1.to_q.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("attn1.to_q.weight_scale_2", "NVFP4"),
        ("attn1.to_q.pre_quant_scale", "AWQ"),
        ("attn1.to_q.qweight", "AWQ or GPTQ"),
        ("attn1.to_q.wscales", "SVDQuant"),
        ("attn1.to_q.proj_down", "SVDQuant"),
        ("attn1.to_q.weight._data", "optimum-quanto"),
        ("attn1.to_q._weight_qdata", "torchao"),
        ("attn1.to_q.weight_codebook", "w4a8"),
    ],
)
def test_quantisations_of_other_tools_are_refused_by_name(
    folder: Path, place: Path, state: State, key: str, what: str
) -> None:
    written = LAYOUTS["bf16"](state)
    written.tensors[f"blocks.0.{key}"] = torch.ones(2)
    written.save(place.with_suffix(".safetensors"))
    with pytest.raises(ModelError, match=rf"{key} is of {what}.* weights, which are not served: use a bf16"):
        check_files(find_model(str(folder)))


def test_two_files_that_claim_one_tensor_are_refused(folder: Path, place: Path, state: State) -> None:
    names = sorted(state)
    written = LAYOUTS["bf16"](state)
    for part, kept in (("a", names), ("b", names[:1])):
        Written({name: written.tensors[name] for name in kept}, {}).save(place.with_name(f"{part}.safetensors"))
    weight_map = {name: f"{part}.safetensors" for part, name in (*(("a", n) for n in names[1:]), ("b", names[0]))}
    index = place.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": weight_map}))
    try:
        with pytest.raises(ModelError, match=rf"{names[0]} is in .*a\.safetensors and in .*b\.safetensors: two files"):
            check_files(find_model(str(folder)))
    finally:
        for part in "ab":
            place.with_name(f"{part}.safetensors").unlink()


def test_the_original_layout_may_be_in_8_bits(tmp_path: Path, state: State) -> None:
    network = WanTransformer3DModel(**SHAPE)
    network.load_state_dict(state)
    write_transformer(tmp_path, network, "t2v")
    original = {original_transformer_name(name): value for name, value in state.items()}
    written = LAYOUTS["scaled_fp8"](original)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    written.save(path)
    with open_weights([path], transformer_name) as tensors:
        found = {tensor.name: tensor.read() for tensor in tensors}
    assert found.keys() == state.keys()
    for name, value in written.expected.items():
        assert torch.equal(found[transformer_name(name)], value), name


@pytest.mark.parametrize("quantize", ["none", "fp8"])
@pytest.mark.parametrize(("how", "value"), [("zero", "0"), ("negative", "-0.25"), ("infinite", "inf"), ("NaN", "nan")])
def test_a_scale_that_no_quantisation_writes_is_refused(
    folder: Path, place: Path, state: State, how: str, value: str, quantize: str
) -> None:
    written = LAYOUTS["scaled_fp8"](state)
    change(written, how)
    written.save(place.with_suffix(".safetensors"))
    with pytest.raises(ModelError, match=rf"blocks\.1\.attn1\.to_q\.scale_weight holds {value}, scales are numbers ab"):
        loaded(folder, quantize)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q8_0"])
def test_a_patch_embedding_in_blocks_gets_the_shape_of_its_field(tmp_path: Path, kind: str) -> None:
    """Its outputs begin within blocks: 64 values each, of blocks of 32 or 256."""
    number, random = gguf.GGMLQuantizationType[kind], np.random.default_rng(0)
    stored = blocks(random.standard_normal((32, 256)).astype(np.float32), number, random)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_array("comfy.gguf.orig_shape.patch_embedding.weight", [128, 16, 1, 2, 2])
    writer.add_tensor("patch_embedding.weight", stored, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = np.asarray(gguf.quants.dequantize(stored, number), np.float32).reshape(128, 16, 1, 2, 2)
    with open_weights([path]) as tensors:
        (tensor,) = tensors
        assert tensor.shape == (128, 16, 1, 2, 2)
        assert torch.equal(tensor.read(), torch.from_numpy(expected))
