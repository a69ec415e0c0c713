"""A checkpoint without weights is a whole network all the same, the same one for any number of ranks."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from tests.fixtures.small_presets import small_preset
from zoetrope.benchmarks.random_checkpoint import write_random_checkpoint
from zoetrope.model.catalog.checkpoint_layout import RANDOM_NAME, RandomWeights
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_denoiser, load_transformer
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.checkpoints.upcycle import upcycle
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import MoEConfig
from zoetrope.model.families.family import Preset
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.precision import EXPERT_STACKS, FLOAT32_MODULES
from zoetrope.model.request.tasks import ModelCard

CPU = torch.device("cpu")
STD = 0.03


def preset() -> Preset:
    small = small_preset(PRESETS["wan2.7-27b"])
    assert small.config.moe is not None and small.config.moe.num_experts == 4
    return small


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    root = tmp_path_factory.mktemp("random") / "wan2.7-27b"
    write_random_checkpoint(preset(), root, seed=5, std=STD)
    card = find_model(str(root))
    check_files(card)
    return card


def test_two_ranks_hold_the_network_of_one(card: ModelCard) -> None:
    alone = load_transformer(card, CPU).state_dict()
    ranks = [load_transformer(card, CPU, rank=rank, ranks=2).state_dict() for rank in range(2)]
    stacks = [name for name in alone if EXPERT_STACKS.search(name)]
    assert len(stacks) == 3, "one layer with w1, w2 and b1"
    for name, whole in alone.items():
        if name in stacks:
            assert [len(rank[name]) for rank in ranks] == [2, 2]
            assert torch.equal(torch.cat([rank[name] for rank in ranks]), whole), name
        else:
            assert torch.equal(ranks[0][name], whole) and torch.equal(ranks[1][name], whole), name


def test_matrices_are_normal_and_vectors_as_training_starts_them(card: ModelCard) -> None:
    state = load_transformer(card, CPU).state_dict()
    for name, tensor in state.items():
        if tensor.ndim >= 2:
            assert 0.8 * STD < float(tensor.std()) < 1.2 * STD, name
            assert abs(float(tensor.mean())) < 0.2 * STD, name
        else:
            unit = "norm" in name and name.endswith("weight")
            assert bool((tensor == float(unit)).all()), name
    w1 = state["blocks.1.ffn.w1"]
    assert not torch.equal(w1[0], w1[1]), "experts differ"
    first, second = state["blocks.0.attn1.to_q.weight"], state["blocks.1.attn1.to_q.weight"]
    assert not torch.equal(first, second), "layers differ"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_files_keep_in_float32_stays_so(card: ModelCard, dtype: torch.dtype) -> None:
    exact, state = load_transformer(card, CPU).state_dict(), load_transformer(card, CPU, dtype=dtype).state_dict()
    for name, tensor in state.items():
        kept = any(part in FLOAT32_MODULES for part in name.split("."))
        assert tensor.dtype == (torch.float32 if kept else dtype), name
        assert torch.equal(tensor, exact[name].to(tensor.dtype)), name
    assert state["blocks.1.ffn.gate.weight"].dtype == torch.float32


def test_the_seed_alone_decides(card: ModelCard) -> None:
    config = preset().config
    torch.manual_seed(1)
    same = random_network(config, CPU, torch.float32, RandomWeights(seed=5, std=STD)).state_dict()
    other = random_network(config, CPU, torch.float32, RandomWeights(seed=6, std=STD)).state_dict()
    loaded = load_transformer(card, CPU).state_dict()
    assert same.keys() == loaded.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, same[name]), name
        assert tensor.ndim < 2 or not torch.equal(tensor, other[name]), name


def test_a_pair_of_noise_experts_is_two_networks(tmp_path: Path) -> None:
    write_random_checkpoint(small_preset(PRESETS["wan2.2-t2v-a14b"]), tmp_path / "pair")
    denoiser = load_denoiser(find_model(str(tmp_path / "pair")), CPU)
    assert denoiser.low_noise is not None
    high, low = (n.state_dict()["proj_out.weight"] for n in (denoiser.transformer, denoiser.low_noise))
    assert not torch.equal(high, low)


@torch.inference_mode()
def test_a_forward_is_finite(card: ModelCard) -> None:
    network = load_transformer(card, CPU)
    shape = (48, 2, 4, 6)
    text = torch.zeros(8, network.config.text_dim)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    batch = network.pack([blank_conditions(network.config, shape, text).sequence(latents, 500.0, text)])
    out = network(batch)
    assert bool(out.isfinite().all()) and float(out.std()) > 0


def test_it_is_told_by_name_and_in_the_log(card: ModelCard, caplog: pytest.LogCaptureFixture) -> None:
    assert card.name == "wan2.7-27b-random-weights"
    with caplog.at_level(logging.WARNING, "zoetrope.model"):
        load_transformer(card, CPU)
    assert [r.getMessage() for r in caplog.records] == [
        "wan2.7-27b-random-weights: transformer has random weights, its clips will be noise"
    ]


def test_progress_reaches_the_end(card: ModelCard) -> None:
    seen: list[tuple[int, int]] = []
    load_transformer(card, CPU, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must be a JSON object"),
        ('{"seed": 0}', "std: must be set"),
        ('{"seed": "x", "std": 0.02}', "seed: must be an integer, is 'x'"),
        ('{"seed": -1, "std": 0.02}', "seed: must be at least 0, is -1"),
        ('{"seed": 0, "std": 0}', "std: must be above 0, is 0.0"),
        ('{"seed": 0, "std": Infinity}', "std: must be a finite number, is inf"),
        ('{"seed": 0, "std": 0.02, "mean": 1}', "mean: is not a known field"),
    ],
)
def test_a_damaged_marker_is_refused(tmp_path: Path, text: str, said: str) -> None:
    root = tmp_path / "wan2.7-27b"
    write_random_checkpoint(preset(), root)
    marker = root / "transformer" / RANDOM_NAME
    marker.write_text(text)
    with pytest.raises(ModelError) as refused:
        find_model(str(root))
    assert str(refused.value).startswith(f"{marker}: ") and said in str(refused.value)


def test_a_marker_beside_weights_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "wan2.7-27b"
    write_random_checkpoint(preset(), root)
    (root / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"random_weights\.json: lies beside weights"):
        find_model(str(root))


def test_ranks_that_do_not_divide_the_experts_are_refused(card: ModelCard) -> None:
    with pytest.raises(ModelError, match="4 experts cannot be split evenly over 3 ranks"):
        load_transformer(card, CPU, ranks=3)


def test_random_weights_are_not_upcycled(tmp_path: Path) -> None:
    root = tmp_path / "wan2.2-ti2v-5b"
    write_random_checkpoint(small_preset(PRESETS["wan2.2-ti2v-5b"]), root)
    with pytest.raises(ModelError, match="random weights are not upcycled"):
        upcycle(root, tmp_path / "out", "wan2.7-27b")


def test_the_marker_is_all_there_is_of_the_weights(card: ModelCard) -> None:
    folder = Path(card.directory) / "transformer"
    assert {path.name for path in folder.iterdir()} == {"config.json", RANDOM_NAME}
    assert json.loads((folder / RANDOM_NAME).read_text()) == {"seed": 5, "std": STD}
    moe = json.loads((folder / "config.json").read_text())["moe"]
    assert MoEConfig.model_validate(moe) == preset().config.moe
