"""A network with experts made from a dense one computes what that one computes, and is made in little memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from tests.fixtures.dense_networks import dense_network, write_dense_ti2v
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.checkpoints.shards import PlannedTensor, write_shards
from zoetrope.model.checkpoints.upcycle import MANIFEST, plan_experts, upcycle
from zoetrope.model.checkpoints.weights import open_weights
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.family import Upcycling
from zoetrope.model.families.wan import upcycled
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.experts import MoEFeedForward
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.sequences import Sequence, Stream, unpack_targets
from zoetrope.model.network.transformer import WanTransformer

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]
PAIRS = {  # of reference presets, and one with whole feed-forward layers as experts
    "C": PRESETS["wan2.7-27b"].upcycling,
    "B": PRESETS["wan2.7-27b-wide"].upcycling,
    "A": Upcycling("wan2.1-t2v-14b", slices=1, replicas=4, dense_ends=1),
}


def outputs(network: Network, channels: int) -> torch.Tensor:
    torch.manual_seed(5)
    clip = torch.randn(channels, 2, 8, 6)
    batch = network.pack([Sequence((Stream(clip, torch.full((2,), 600.0)),), torch.randn(7, 32))])
    with torch.no_grad():
        return unpack_targets(network(batch), batch, network.config.patch_size)[0]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("pair", PAIRS)
def test_every_pair_computes_what_the_dense_network_computes(pair: str, tmp_path: Path) -> None:
    how = PAIRS[pair]
    assert how is not None
    layers = 2 * how.dense_ends + 2
    theirs = dense_network(layers)
    theirs.save_pretrained(tmp_path)
    config = TransformerConfig.model_validate(dict(theirs.config))
    reference = WanTransformer(config)
    reference.load_state_dict(theirs.state_dict())
    expected = outputs(reference, 16)
    experts = upcycled(config, how)
    assert experts.moe is not None and experts.moe.layers == (how.dense_ends, how.dense_ends + 1)
    with open_weights([tmp_path / "diffusion_pytorch_model.safetensors"]) as tensors:
        out = tmp_path / "out"
        out.mkdir()
        (path,) = write_shards(out, plan_experts(tensors, experts, seed=0))
    state = load_file(path)
    for seed in range(4):
        torch.manual_seed(seed)
        for name in state:  # any router, also a lopsided one
            if name.endswith(("gate.weight", "correction")):
                state[name] = torch.randn(state[name].shape) * 10**seed / 10
        network = WanTransformer(experts)
        network.load_state_dict(state)
        assert relative(outputs(network, 16), expected) <= 1e-6
        layer = next(block.ffn for block in network.layers() if isinstance(block.ffn, MoEFeedForward))
        assert layer.last_counts is not None
        used = int((layer.last_counts > 0).sum())
        assert used > how.slices or how.replicas == 1  # replicas do share the tokens
    state[f"blocks.{how.dense_ends}.ffn.b2"] += 1.0
    network.load_state_dict(state)
    assert relative(outputs(network, 16), expected) > 1e-3


def test_a_directory_becomes_one_that_is_served(tmp_path: Path) -> None:
    source, destination = write_dense_ti2v(tmp_path / "ti2v"), tmp_path / "moe"
    seen: dict[str, list[tuple[int, int]]] = {"reading": [], "writing": []}
    manifest = upcycle(
        source,
        destination,
        "wan2.7-27b",
        seed=7,
        max_shard_bytes=200_000,
        on_progress=lambda stage, done, total: seen[stage].append((done, total)),
    )
    card = find_model(str(destination))
    check_files(card)
    assert card.conditioner == "first_latent"
    network = load_transformer(card, CPU)
    expected = outputs(load_transformer(find_model(str(source)), CPU), 48)
    assert relative(outputs(network, 48), expected) <= 1e-6
    moe = network.config.moe
    assert moe is not None
    assert (moe.layers, moe.num_experts, moe.top_k, moe.expert_dim) == ((1, 2), 80, 8, 12)
    assert (moe.router, moe.groups, moe.expert_bias) == ("grouped_top1", 8, True)

    assert json.loads((destination / MANIFEST).read_text()) == manifest
    assert (manifest["slices"], manifest["replicas"], manifest["layers"]) == (8, 10, [1, 2])
    assert manifest["router"] == {"kind": "grouped_top1", "seed": 7, "std": 0.02}
    assert manifest["parameters"]["total"] == sum(p.numel() for p in module_of(network).parameters())
    weights = source / "transformer" / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest["source"]["transformer_sha256"] == {weights.name: digest}
    assert len(manifest["files"]) > 2
    for stage in ("reading", "writing"):
        assert seen[stage][-1][0] == seen[stage][-1][1]
    assert (destination / "vae" / "config.json").read_text() == (source / "vae" / "config.json").read_text()


def test_the_seed_makes_the_routers(tmp_path: Path) -> None:
    source = write_dense_ti2v(tmp_path / "ti2v")
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        upcycle(source, tmp_path / name, "wan2.7-27b", seed=seed)
        states.append(load_file(tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors"))
    gate = "blocks.1.ffn.gate.weight"
    assert torch.equal(states[0][gate], states[1][gate])
    assert not torch.equal(states[0][gate], states[2][gate])
    assert not torch.equal(states[0][gate], states[0]["blocks.2.ffn.gate.weight"])


def change_config(root: Path, **fields: Any) -> None:
    path = root / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def spoil(root: Path) -> None:
    path = root / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["blocks.2.ffn.net.2.weight"][3, 90] = float("nan")
    path.unlink()
    save_file(state, path)


@pytest.mark.parametrize(
    ("preset", "damage", "message"),
    [
        ("wan2.2-ti2v-5b", lambda root: None, "not one that is derived (wan2.7-27b, wan2.7-27b-wide)"),
        ("nothing", lambda root: None, "preset 'nothing' is not one that is derived"),
        ("wan2.7-27b-wide", lambda root: None, "in_channels is 48, wan2.7-27b-wide is derived from wan2.1-t2v-14b"),
        ("wan2.7-27b", lambda root: write_dense_ti2v(root, layers=2), "num_layers is 2, more than 2 are needed"),
        ("wan2.7-27b", lambda root: change_config(root, num_layers=5), "says 5 blocks and the weights hold 4"),
        ("wan2.7-27b", lambda root: write_dense_ti2v(root, ffn_dim=90), "ffn_dim is 90, which 8 slices do not divide"),
        ("wan2.7-27b", lambda root: change_config(root, ffn_dim=88), "net.0.proj.weight has shape (96, 48)"),
        (
            "wan2.7-27b",
            lambda root: change_config(root, _class_name="ZoetropeTransformer3DModel"),
            "transformer is a WanTransformer3DModel, its own configuration says ZoetropeTransformer3DModel",
        ),
        ("wan2.7-27b", spoil, "blocks.2.ffn.net.2.weight holds NaN"),
        ("wan2.7-27b", lambda root: (root / "model_index.json").unlink(), "model_index.json: the file is missing"),
        (
            "wan2.7-27b",
            lambda root: (root / "transformer" / "diffusion_pytorch_model.safetensors").unlink(),
            "diffusion_pytorch_model.safetensors: the file is missing",
        ),
    ],
)
def test_bad_sources_leave_nothing_behind(tmp_path: Path, preset: str, damage: Any, message: str) -> None:
    source = write_dense_ti2v(tmp_path / "ti2v")
    damage(source)
    with pytest.raises(ModelError) as error:
        upcycle(source, tmp_path / "moe", preset)
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ti2v"]


def test_a_destination_is_never_written_over(tmp_path: Path) -> None:
    source = write_dense_ti2v(tmp_path / "ti2v")
    (tmp_path / "moe").mkdir()
    with pytest.raises(ModelError, match="moe: already exists"):
        upcycle(source, tmp_path / "moe", "wan2.7-27b")
    assert list((tmp_path / "moe").iterdir()) == []
    with pytest.raises(ModelError, match="nowhere: is not a directory"):
        upcycle(source, tmp_path / "nowhere" / "moe", "wan2.7-27b")
    with pytest.raises(ModelError, match="absent: is not a directory"):
        upcycle(tmp_path / "absent", tmp_path / "other", "wan2.7-27b")


def test_pieces_must_add_up(tmp_path: Path) -> None:
    planned = PlannedTensor("x", (3,), torch.float32, lambda: iter([torch.zeros(2)]))
    with pytest.raises(ValueError, match="x: 8 bytes for shape"):
        write_shards(tmp_path, [planned])


MEASURE = """
import sys
from pathlib import Path
import torch
from zoetrope.model.checkpoints.upcycle import upcycle

torch.set_num_threads(1)
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
upcycle(Path(sys.argv[1]), Path(sys.argv[3]), "wan2.7-27b")  # once, so that all modules and pools are there
start, peak = anonymous(), 0
def show(stage, done, total):
    global peak
    peak = max(peak, anonymous() - start)
upcycle(Path(sys.argv[2]), Path(sys.argv[4]), "wan2.7-27b", on_progress=show)
print(peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.integration
def test_an_eighth_of_the_width_in_little_memory_and_time(tmp_path: Path) -> None:
    """TI2V-5B at dim 384 with all its 30 layers. What counts is memory of the process's own, not the mapped file."""
    small = write_dense_ti2v(tmp_path / "small")
    large = write_dense_ti2v(tmp_path / "large")
    with torch.device("meta"):
        shape = WanTransformer3DModel(
            num_attention_heads=3,
            attention_head_dim=128,
            in_channels=48,
            out_channels=48,
            text_dim=32,
            ffn_dim=1792,
            num_layers=30,
        )
    path = large / "transformer" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    state = {name: torch.zeros(t.shape, dtype=torch.bfloat16) for name, t in shape.state_dict().items()}
    save_file(state, path)
    config = {key: value for key, value in shape.config.items() if not key.startswith("_")}
    change_config(large, **config)
    biggest = max(tensor.numel() for tensor in state.values()) * 2
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, small, large, tmp_path / "a", tmp_path / "b"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 3 * biggest
    assert time.monotonic() - began < 120
    size = sum(p.stat().st_size for p in (tmp_path / "b" / "transformer").iterdir())
    assert size > 5 * path.stat().st_size
