"""Derive a checkpoint with token-routed experts from a dense one, computing exactly the same function.

FFN(x) = W2 gelu(W1 x + b1) + b2 is a sum over slices of the hidden units, because GELU is elementwise. Every
slice becomes ``replicas`` equal experts, of which a router picks one with weight 1; b2 is added once. So the result is
the same for any router (sparse upcycling, 2212.05055, with slices as in 2410.07524); training then makes the replicas
differ. Weights are copied slice by slice: at most one tensor is in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoetrope.model.catalog.checkpoint_layout import RANDOM_NAME, Component, read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.original_layout import is_original
from zoetrope.model.catalog.presets import open_model
from zoetrope.model.checkpoints.shards import DTYPE_NAMES, MAX_SHARD_BYTES, PlannedTensor, write_shards
from zoetrope.model.checkpoints.weights import StoredTensor, check_finite, open_weights
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.families.family import Preset, Upcycling
from zoetrope.model.families.wan import upcycled
from zoetrope.model.inspection.files import ModelError, read_json
from zoetrope.model.inspection.keys import check_tensors
from zoetrope.model.network.costs import count_parameters, network_shapes

MANIFEST = "upcycling.json"
ROUTER_STD = 0.02
FEED_FORWARD = re.compile(r"^blocks\.(\d+)\.ffn\.net\.(0\.proj|2)\.(weight|bias)$")
COPIED = ("vae", "text_encoder", "tokenizer", "scheduler")

OnProgress = Callable[[str, int, int], None]


def upcycle(
    source: Path,
    destination: Path,
    preset_name: str,
    *,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Derive a checkpoint of ``preset_name`` from a directory of its base in diffusers' layout.

    Shapes follow the source, so a narrow model of the same family becomes a narrow one with experts. Everything is
    written beside ``destination`` and moved there when complete. The other components are hard links where the file
    system allows it, else copies.

    Args:
        seed: of the routers' random weights.
        on_progress: called with a stage ("reading", "writing"), bytes done and bytes in total.

    Returns:
        The manifest, which is also written as ``upcycling.json``.

    Raises:
        ModelError: the preset is unknown, the source incomplete or of another family, or the destination exists.
    """
    how = _recipe(preset_name)
    if os.path.lexists(destination):
        raise ModelError(f"{destination}: already exists")
    if not destination.parent.is_dir():
        raise ModelError(f"{destination.parent}: is not a directory")
    part = _source_transformer(source, PRESETS[preset_name], how)
    try:
        config = upcycled(transformer_config(part), how)
    except ValueError as error:
        raise ModelError(f"{part.directory / 'config.json'}: {error}") from None
    work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        manifest = _write(source, part, config, work, preset_name, how, seed, max_shard_bytes, on_progress)
        work.chmod(0o755)
        os.rename(work, destination)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def plan_experts(tensors: Sequence[StoredTensor], config: TransformerConfig, seed: int) -> list[PlannedTensor]:
    """Return the tensors of the network with experts, in the order of the source, made from it on demand.

    Args:
        tensors: of the dense network. config: with experts, from `model.families.wan.upcycled`.
        seed: of the routers.

    Raises:
        ModelError: a tensor is not floating point.
    """
    moe = config.moe
    assert moe is not None
    planned: list[PlannedTensor] = []
    for tensor in tensors:
        match = FEED_FORWARD.match(tensor.name)
        dtype = tensor.dtype
        if dtype not in DTYPE_NAMES:
            raise ModelError(f"{tensor.path}: {tensor.name} is not in one of {', '.join(DTYPE_NAMES.values())}")
        if match is None or int(match[1]) not in moe.layers:
            planned.append(PlannedTensor(tensor.name, tensor.shape, dtype, partial(_whole, tensor)))
            continue
        prefix = f"blocks.{match[1]}.ffn."
        name, shape, pieces = _expert_tensor(match[2], match[3], tensor, config.dim, moe)
        planned.append(PlannedTensor(prefix + name, shape, dtype, pieces))
    for layer in moe.layers:
        prefix = f"blocks.{layer}.ffn."
        gate = partial(_router, moe.num_experts, config.dim, seed, layer)
        planned.append(PlannedTensor(prefix + "gate.weight", (moe.num_experts, config.dim), torch.float32, gate))
        planned.append(
            PlannedTensor(prefix + "correction", (moe.num_experts,), torch.float32, partial(_zeros, moe.num_experts))
        )
    return planned


def _expert_tensor(
    place: str, kind: str, tensor: StoredTensor, dim: int, moe: MoEConfig
) -> tuple[str, tuple[int, ...], Callable[[], Iterator[torch.Tensor]]]:
    experts, hidden = moe.num_experts, moe.expert_dim
    if place == "2" and kind == "bias":
        return "b2", (dim,), partial(_whole, tensor)
    if kind == "bias":
        return "b1", (experts, hidden), partial(_slices, tensor, moe, 0, False)
    if place == "2":
        return "w2", (experts, hidden, dim), partial(_slices, tensor, moe, 1, True)
    return "w1", (experts, dim, hidden), partial(_slices, tensor, moe, 0, True)


def _slices(tensor: StoredTensor, moe: MoEConfig, axis: int, turned: bool) -> Iterator[torch.Tensor]:
    """Yield every slice of the hidden units along ``axis``, once per replica; experts are stored input first."""
    for group in range(moe.groups):
        span = slice(group * moe.expert_dim, (group + 1) * moe.expert_dim)
        piece = tensor.read((slice(None), span) if axis else span)
        check_finite(piece, tensor)
        piece = piece.T.contiguous() if turned else piece
        for _ in range(moe.num_experts // moe.groups):
            yield piece


def _whole(tensor: StoredTensor) -> Iterator[torch.Tensor]:
    value = tensor.read()
    check_finite(value, tensor)
    yield value


def _router(experts: int, dim: int, seed: int, layer: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
    yield torch.randn(experts, dim, generator=generator) * ROUTER_STD


def _zeros(count: int) -> Iterator[torch.Tensor]:
    yield torch.zeros(count)


def _recipe(preset_name: str) -> Upcycling:
    preset = PRESETS.get(preset_name)
    if preset is None or preset.upcycling is None:
        possible = ", ".join(name for name, p in PRESETS.items() if p.upcycling is not None)
        raise ModelError(f"preset {preset_name!r} is not one that is derived ({possible})")
    return preset.upcycling


def _source_transformer(source: Path, preset: Preset, how: Upcycling) -> Component:
    """Read the transformer of a complete directory of the right family."""
    if not source.is_dir():
        raise ModelError(f"{source}: is not a directory")
    if is_original(source):
        raise ModelError(f"{source}: is in the layout of Wan's own releases, diffusers' is needed")
    open_model(str(source.absolute()))
    parts = read_transformers(source)
    path = parts[0].directory / "config.json"
    if len(parts) > 1:
        raise ModelError(f"{parts[1].directory}: two noise experts cannot become one model, {how.base} is needed")
    if parts[0].random is not None:
        raise ModelError(f"{parts[0].directory / RANDOM_NAME}: random weights are not upcycled, nothing would be kept")
    if parts[0].class_name != "WanTransformer3DModel":
        raise ModelError(f"{path}: _class_name is {parts[0].class_name!r}, expected WanTransformer3DModel")
    config, expected = transformer_config(parts[0]), PRESETS[how.base].config
    for field in ("in_channels", "out_channels", "image_dim", "patch_size"):
        value, wanted = getattr(config, field), getattr(expected, field)
        if value != wanted:
            raise ModelError(
                f"{path}: {field} is {value}, {preset.name} is derived from {how.base}, which has {wanted}"
            )
    return parts[0]


def _write(
    source: Path,
    part: Component,
    config: TransformerConfig,
    work: Path,
    preset_name: str,
    how: Upcycling,
    seed: int,
    max_shard_bytes: int,
    on_progress: OnProgress,
) -> dict[str, Any]:
    for component in COPIED:
        _copy_tree(source / component, work / component)
    files = part.files
    hashes = _hashes(files, lambda done, total: on_progress("reading", done, total))
    folder = work / "transformer"
    folder.mkdir()
    with open_weights(files) as tensors:
        wanted = network_shapes(config.model_copy(update={"moe": None}))
        check_tensors(wanted, {tensor.name: tensor for tensor in tensors}, part.directory)
        planned = plan_experts([tensor for tensor in tensors if tensor.name in wanted], config, seed)
        written = write_shards(
            folder,
            planned,
            max_bytes=max_shard_bytes,
            on_progress=lambda done, total: on_progress("writing", done, total),
        )
    raw = {key: value for key, value in part.config.items() if key != "_diffusers_version"}
    raw |= {"_class_name": "ZoetropeTransformer3DModel"}
    assert config.moe is not None
    _write_json(folder / "config.json", {**raw, "moe": config.moe.model_dump(mode="json")})
    index = read_json(source / "model_index.json")
    _write_json(work / "model_index.json", {**index, "transformer": ["zoetrope", "ZoetropeTransformer3DModel"]})
    count = count_parameters(config)
    manifest = {
        "preset": preset_name,
        "source": {"name": source.resolve().name, "transformer_sha256": hashes},
        "slices": how.slices,
        "replicas": how.replicas,
        "layers": list(config.moe.layers),
        "router": {"kind": config.moe.router, "seed": seed, "std": ROUTER_STD},
        "parameters": {"total": count.total, "active": count.active},
        "files": [path.name for path in written],
        "note": "Computes what its source computes until it is trained.",
    }
    _write_json(work / MANIFEST, manifest)
    return manifest


def _hashes(files: Sequence[Path], on_progress: Callable[[int, int], None]) -> dict[str, str]:
    total, done = sum(path.stat().st_size for path in files), 0
    result = {}
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                done += len(block)
                on_progress(done, total)
        result[path.name] = digest.hexdigest()
    return result


def _copy_tree(source: Path, destination: Path) -> None:
    """Copy with hard links where possible; symbolic links in the source are followed, so that the copy is complete."""
    for path in sorted(source.rglob("*")):
        target = destination / path.relative_to(source)
        if path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copy2(path, target)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
