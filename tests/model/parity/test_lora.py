"""A network with fused adapters gives what diffusers' does with the same file, loaded by PEFT; where diffusers drops a
part of a file or refuses it, `tests/model/adapters` compares with the formulas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.fixtures.adapter_styles import (
    CONFIG,
    RANK,
    ROOT_LINEARS,
    STYLES,
    TARGETS,
    Pairs,
    block_modules,
    random_pairs,
    styled,
    write,
)
from tests.fixtures.random_checkpoints import write_a14b, write_i2v, write_t2v
from tests.model.parity.harness import error
from zoetrope.model.catalog.presets import open_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.network.protocol import module_of
from zoetrope.model.request.load_options import LoadOptions

CPU = torch.device("cpu")
LIMIT = 7e-7
Tensors = dict[str, torch.Tensor]


def pairs(*modules: str) -> Pairs:
    return random_pairs(modules or block_modules(), size=0.2)


def with_metadata(alpha: float) -> dict[str, str]:
    plain = {"r": RANK, "lora_alpha": alpha, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2"]}
    patterns: dict[str, Any] = {"rank_pattern": {}, "alpha_pattern": {"blocks.0.attn1.to_q": 3 * alpha}}
    return {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in (plain | patterns).items()})}


def biases() -> Tensors:
    generator = torch.Generator().manual_seed(5)
    names = {STYLES["lightx2v"].stem(name): f"{name}.bias" for name in block_modules()}
    return {f"{stem}.diff_b": torch.randn(TARGETS.shapes[bias], generator=generator) for stem, bias in names.items()}


def ranks() -> Pairs:
    names = block_modules()
    return {name: random_pairs([name], rank=1 + n % 5, seed=n, size=0.2)[name] for n, name in enumerate(names)}


FILES: dict[str, tuple[Callable[[], Tensors], dict[str, str] | None]] = {
    "diffusers": (lambda: styled(STYLES["diffusers"], pairs()), None),
    "diffusers, alpha in its metadata": (lambda: styled(STYLES["diffusers"], pairs()), with_metadata(6.0)),
    "diffusion-pipe": (lambda: styled(STYLES["diffusion-pipe"], pairs()), None),
    "lightx2v": (lambda: styled(STYLES["lightx2v"], pairs()), None),
    "Wan2.2-Lightning": (lambda: styled(STYLES["Wan2.2-Lightning"], pairs(), alpha=0.5), None),
    "with biases": (lambda: styled(STYLES["lightx2v"], pairs()) | biases(), None),
    "beyond the blocks": (lambda: styled(STYLES["diffusion-pipe"], pairs(*block_modules(), *ROOT_LINEARS)), None),
    "musubi-tuner": (lambda: styled(STYLES["musubi-tuner"], pairs(), alpha=0.5), None),
    "ranks of their own": (lambda: styled(STYLES["diffusers"], ranks()), None),
}

# The others are tried by `make soak`.
OFTEN = ("diffusers, alpha in its metadata", "with biases", "musubi-tuner")


@torch.inference_mode()
def output(network: Any) -> torch.Tensor:
    torch.manual_seed(3)
    channels = network.config.in_channels
    image = getattr(network.config, "image_dim", None)
    result: torch.Tensor = network(
        hidden_states=torch.randn(1, channels, 3, 8, 6),
        timestep=torch.tensor([600.0]),
        encoder_hidden_states=torch.randn(1, 7, CONFIG.text_dim),
        encoder_hidden_states_image=None if image is None else torch.randn(1, 5, image),
        return_dict=False,
    )[0]
    return result


def ours(folder: Path, like: Any, *lora: str, component: str = "transformer") -> torch.Tensor:
    """What diffusers' network computes with our fused weights."""
    network = WanTransformer3DModel(**{k: v for k, v in like.config.items() if not k.startswith("_")}).eval()
    card = open_model(str(folder), LoadOptions(lora=lora))
    network.load_state_dict(module_of(load_transformer(card, CPU, component)).state_dict())
    return output(network)


def loaded(pipeline: Any, file: Path, strength: float, **more: Any) -> None:
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="a", **more)
    network = pipeline.transformer_2 if more else pipeline.transformer
    network.set_adapters(["a"], [strength])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("written") / "t2v"
    return folder, write_t2v(folder)


@pytest.fixture
def t2v(written: tuple[Path, Any]) -> Iterator[tuple[Path, Any]]:
    """A folder and diffusers' pipeline over it, without an adapter."""
    yield written
    written[1].unload_lora_weights()


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.long) for name in FILES]
)
def test_a_file_changes_what_it_changes_in_diffusers(name: str, t2v: tuple[Path, Any], tmp_path: Path) -> None:
    (tensors, metadata), (folder, pipeline) = FILES[name], t2v
    plain = output(pipeline.transformer)
    file = write(tmp_path / "a.safetensors", tensors(), metadata)
    loaded(pipeline, file, 0.8)
    expected = output(pipeline.transformer)
    assert error(plain, expected) > 1e-2
    assert error(ours(folder, pipeline.transformer, f"{file}:0.8"), expected) <= LIMIT


@pytest.mark.long
def test_two_files_at_once(t2v: tuple[Path, Any], tmp_path: Path) -> None:
    folder, pipeline = t2v
    made = [styled(STYLES["diffusers"], random_pairs(block_modules(), seed=seed, size=0.2)) for seed in (1, 2)]
    files = [write(tmp_path / f"{n}.safetensors", tensors) for n, tensors in enumerate(made)]
    for n, file in enumerate(files):
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=f"a{n}")
    pipeline.set_adapters(["a0", "a1"], [0.5, -0.7])
    result = ours(folder, pipeline.transformer, f"{files[0]}:0.5", f"{files[1]}:-0.7")
    assert error(result, output(pipeline.transformer)) <= LIMIT


@pytest.mark.long
def test_a_text_to_video_file_on_a_network_with_an_image_branch(tmp_path: Path) -> None:
    pipeline = write_i2v(tmp_path / "i2v", clip=True)
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusion-pipe"], pairs()))
    loaded(pipeline, file, 1.0)
    assert error(ours(tmp_path / "i2v", pipeline.transformer, str(file)), output(pipeline.transformer)) <= LIMIT


@pytest.mark.long
def test_the_second_network_of_a_pair(tmp_path: Path) -> None:
    pipeline = write_a14b(tmp_path / "a14b")
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], pairs()))
    loaded(pipeline, file, 1.0, load_into_transformer_2=True)
    for component in ("transformer", "transformer_2"):
        network = getattr(pipeline, component)
        result = ours(tmp_path / "a14b", network, f"{file}@low", component=component)
        assert error(result, output(network)) <= LIMIT
