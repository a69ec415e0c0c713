"""Where CUDA graphs are trusted: where a committed run showed the same bits as eager steps, and up to how many tokens
they were faster.

Only ``python -m zoetrope.benchmarks.gpu_day merge`` writes ``data/graphs.json``, from a run of
``python -m zoetrope.benchmarks.forward_graphs`` on a GPU. Like a kernel's proof (`kernels.select.proofs`) one names the
device, the versions and the fingerprint of all the code that a step runs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from zoetrope.kernels.select.fingerprint import ROOT, digest
from zoetrope.kernels.select.proofs import triton_version
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.request.quantize import Quantize

PROOFS = Path(__file__).parent / "data" / "graphs.json"
WORTH = 1.02  # times as fast as an eager step: less is not worth a graph's memory
CODE = ("kernels/gpu", "kernels/ops", "kernels/reference", "kernels/select", "kernels/types", "model/network")


@dataclass(frozen=True)
class GraphTiming:
    """Steps of one size.

    Attributes:
        tokens: of a step. eager, graph: seconds of a step, medians.
        error: the largest relative difference of a replayed step from an eager one, of several inputs; 0: the same
            bits.
    """

    tokens: int
    eager: float
    graph: float
    error: float

    @property
    def ratio(self) -> float:
        """Return how many times as fast the graph is."""
        return self.eager / self.graph


@dataclass(frozen=True)
class GraphProof:
    """Evidence for one shape of network on one GPU.

    Attributes:
        network: its shape (`network_shape`). device: the GPU's name. torch, triton: versions.
        fingerprint: of the code (`step_code`). date: ISO 8601, UTC. timings: by tokens.
    """

    network: str
    device: str
    torch: str
    triton: str
    fingerprint: str
    date: str
    timings: tuple[GraphTiming, ...]

    @property
    def key(self) -> tuple[str, str]:
        """The key by which a later run replaces this proof."""
        return self.network, self.device

    @property
    def right(self) -> bool:
        """Whether every replayed step gave the same bits as an eager one."""
        return bool(self.timings) and all(timing.error == 0 for timing in self.timings)

    @property
    def tokens(self) -> int:
        """Return the most tokens of a step up to which graphs were faster at every measured size; 0 if at none."""
        found = 0
        for timing in sorted(self.timings, key=lambda timing: timing.tokens):
            if not timing.ratio >= WORTH:
                break
            found = timing.tokens
        return found


@dataclass(frozen=True)
class GraphStanding:
    """The most tokens of a step that is worth capturing here, or 0 and why."""

    tokens: int
    why: str = ""


def network_shape(config: TransformerConfig, quantize: Quantize = "none") -> str:
    """Return what the launches of a layer depend on, such as ``d3072-h128-f14336-e80x1792``, without the number of
    layers, which are alike."""
    moe = config.moe
    parts = [f"d{config.dim}", f"h{config.attention_head_dim}", f"f{config.ffn_dim}"]
    parts += [] if moe is None else [f"e{moe.num_experts}x{moe.expert_dim}"]
    parts += ["image"] if config.image_dim else []
    parts += ["vace"] if config.vace_layers else []
    parts += [] if quantize == "none" else [quantize]
    return "-".join(parts)


@lru_cache
def step_code(root: Path = ROOT) -> str:
    """Return the fingerprint of all that a step runs. ``root``: the folder that holds `kernels` and `model`."""
    files = [path for folder in CODE for path in (root / folder).glob("*.py")]
    return digest([*files, root / "model" / "denoising" / "graphs.py"], root)


def standing(config: TransformerConfig, quantize: Quantize, device: str, path: Path = PROOFS) -> GraphStanding:
    """Look for the proof that steps of a network may be captured on a GPU of this name."""
    wanted = network_shape(config, quantize), device
    found = next((proof for proof in load(path) if proof.key == wanted), None)
    if found is None or not found.right:
        return GraphStanding(0, f"not proved for {wanted[0]} on {device}")
    versions = (("torch", found.torch, torch.__version__), ("Triton", found.triton, triton_version() or "none"))
    for name, then, here in versions:
        if _minor(then) != _minor(here):
            return GraphStanding(0, f"proved with {name} {then}, this is {here}")
    try:
        current = step_code()
    except (OSError, SyntaxError):
        return GraphStanding(0, "the sources are not installed, so nothing can be compared with the proof")
    if found.fingerprint != current:
        return GraphStanding(0, f"the code has changed since the proof of {found.date}")
    return GraphStanding(found.tokens, "" if found.tokens else "not faster than eager steps at any size")


def load(path: Path = PROOFS) -> list[GraphProof]:
    """Read all proofs in a file, whether or not they still hold; none if there is no file."""
    return [proof_of(entry) for entry in json.loads(path.read_text())] if path.is_file() else []


def proof_of(entry: dict[str, Any]) -> GraphProof:
    """Return a proof as it was stored."""
    return GraphProof(**{**entry, "timings": tuple(GraphTiming(**row) for row in entry["timings"])})


def record(entries: Iterable[GraphProof], path: Path = PROOFS) -> list[GraphProof]:
    """Merge into the file; a proof that is not right removes an older one of its key. Returns all in the file then.

    Raises:
        ValueError: an entry's figures are no times.
    """
    merged = {proof.key: proof for proof in load(path)}
    for entry in entries:
        for timing in entry.timings:
            if not all(math.isfinite(seconds) and seconds > 0 for seconds in (timing.eager, timing.graph)):
                raise ValueError(f"{entry.network}: {timing} has seconds that are not above 0")
        merged.pop(entry.key, None)
        if entry.right:
            merged[entry.key] = entry
    stored = [merged[key] for key in sorted(merged)]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps([asdict(proof) for proof in stored], indent=1) + "\n")
    scratch.replace(path)
    return stored


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
