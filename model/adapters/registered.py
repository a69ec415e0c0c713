"""Registered adapters: what requests may have applied to their own tokens, and the one form in which they are stored.

A file of any trainer is parsed once, when it is registered, and stored as a safetensors file of low-rank changes:
``SIDE/TARGET/a`` [r, in], ``SIDE/TARGET/b`` [out, r] and ``SIDE/TARGET/scale`` [], float32. SIDE says for which noise
expert a change is: ``any``, ``high`` or ``low``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from zoetrope.model.adapters.patches import LowRank, Patch
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.adapted import FANS
from zoetrope.model.network.protocol import Network
from zoetrope.model.request.loras import MAX_RANK

SIDES = ("any", "high", "low")
LINEARS = frozenset(name for names in FANS.values() for name in names)
BLOCK = re.compile(r"((?:vace_)?blocks\.\d+)\.(.+)\.weight")
FORM = {"format": "zoetrope.adapter.1"}  # one entry: safetensors writes several in any order
NAMED = 3  # targets in a message


@dataclass(frozen=True)
class HostAdapter:
    """An adapter in the host's memory.

    Attributes:
        patches: by side and then by target.
    """

    digest: str
    patches: dict[str, dict[str, LowRank]]

    @property
    def rank(self) -> int:
        """The columns of a slot that it takes: the largest rank of its changes."""
        return max(patch.rank for side in self.patches.values() for patch in side.values())

    @property
    def nbytes(self) -> int:
        return sum(p.a.nbytes + p.b.nbytes for side in self.patches.values() for p in side.values())

    def of(self, side: str) -> dict[str, LowRank]:
        """Return the changes to the network of a side by target: those of the side, over those of any."""
        return {**self.patches.get("any", {}), **self.patches.get(side, {})}


def prepared(adapter: HostAdapter, dtype: torch.dtype, *, pin: bool = False) -> HostAdapter:
    """Return an adapter as slots take it: in their dtype, scales in ``b``; ``pin``: in memory that a GPU copies from
    without waiting."""

    def ready(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(dtype)
        return tensor.pin_memory() if pin else tensor

    patches = {
        side: {name: LowRank(name, ready(p.a), ready(p.scale * p.b.float())) for name, p in of_side.items()}
        for side, of_side in adapter.patches.items()
    }
    return HostAdapter(adapter.digest, patches)


def check_registrable(patches: Sequence[tuple[str, Patch]], networks: dict[str, Network], file: str) -> int:
    """Check that changes can be applied to single requests of a model.

    Args:
        patches: each with its side. networks: of the model by side: one as ``any``, or ``high`` and ``low``; they may
            be on the meta device. file: as messages name it.

    Returns:
        The largest rank.

    Raises:
        ModelError: names the target at fault, its value and the limit.
    """
    if not patches:
        raise ModelError(f"{file}: changes nothing")
    seen: set[tuple[str, str]] = set()
    rank = 0
    for side, patch in patches:
        target = patch.target
        if "any" in networks and side != "any":
            raise ModelError(f"{file}: {target} is for the {side}-noise expert, but the model has no two noise experts")
        for name, network in networks.items():
            if side not in ("any", name):
                continue
            if (name, target) in seen:
                raise ModelError(f"{file}: {target} is changed twice")
            seen.add((name, target))
            _check_target(patch, network, file)
        assert isinstance(patch, LowRank)
        for part, tensor in (("a", patch.a), ("b", patch.b), ("b with its scale", patch.scale * patch.b.float())):
            if not bool(tensor.isfinite().all()):
                raise ModelError(f"{file}: {part} of {target} holds NaN or infinity")
        rank = max(rank, patch.rank)
    if not 1 <= rank <= MAX_RANK:
        raise ModelError(f"{file}: its rank is {rank}, an adapter for requests has at most {MAX_RANK}")
    return rank


def _check_target(patch: Patch, network: Network, file: str) -> None:
    target = patch.target
    if not isinstance(patch, LowRank):
        form = type(patch).__name__.lower()
        raise ModelError(
            f"{file}: {target} is a {form} change; requests take low-rank ones only: fuse the file when the model is "
            "loaded (--lora)"
        )
    found = BLOCK.fullmatch(target)
    if found is None or found[2] not in LINEARS:
        raise ModelError(
            f"{file}: changes {target}; requests take changes of a block's attention and feed-forward matrices only: "
            "fuse the file when the model is loaded (--lora)"
        )
    weight = network.state_dict().get(target)
    if weight is None:
        moe = network.config.moe
        if moe is not None and found[2].startswith("ffn.") and int(found[1].rpartition(".")[2]) in moe.layers:
            raise ModelError(
                f"{file}: changes {target}, but that layer has experts, which cannot be changed for single requests: "
                "fuse the file when the model is loaded (--lora)"
            )
        raise ModelError(f"{file}: changes {target}, which the model does not have")
    shape = (patch.b.shape[0], patch.a.shape[1])
    if patch.a.ndim != 2 or patch.b.ndim != 2 or patch.b.shape[1] != patch.rank or shape != tuple(weight.shape):
        raise ModelError(
            f"{file}: {target} is {tuple(weight.shape)} in the model, its change is {tuple(patch.b.shape)} x "
            f"{tuple(patch.a.shape)}"
        )


def write_registered(path: Path, patches: Iterable[tuple[str, Patch]]) -> None:
    """Write checked changes in the stored form. The same changes give the same bytes."""
    tensors: dict[str, torch.Tensor] = {}
    for side, patch in patches:
        assert isinstance(patch, LowRank)
        tensors[f"{side}/{patch.target}/a"] = patch.a.contiguous()
        tensors[f"{side}/{patch.target}/b"] = patch.b.contiguous()
        tensors[f"{side}/{patch.target}/scale"] = torch.tensor(float(patch.scale))
    safetensors.torch.save_file(dict(sorted(tensors.items())), path, FORM)


def read_registered(data: bytes, digest: str) -> HostAdapter:
    """Read the stored form; ``digest``: of the data, which the caller has checked.

    Raises:
        ModelError: it is none.
    """
    patches: dict[str, dict[str, LowRank]] = {}
    try:
        tensors = safetensors.torch.load(data)
        for name, a in tensors.items():
            if name.endswith("/a"):
                side, target, _ = name.split("/")
                scale = float(tensors[f"{side}/{target}/scale"])
                patches.setdefault(side, {})[target] = LowRank(target, a, tensors[f"{side}/{target}/b"], scale)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"a stored adapter cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not patches or set(patches) - set(SIDES):
        raise ModelError("a stored adapter cannot be read: it holds no changes")
    return HostAdapter(digest, patches)
