"""Add adapters' changes to a checkpoint's tensors while they are read: in float32, rounded or quantised once.

A network with experts that are slices of a dense layer (`model.checkpoints.upcycle`) gets that layer's changes, cut in
the same way: ``w1[e]`` of an expert of group g gets ``delta[span_g].T``, and so on. The change is made whole and then
cut, so that fusing before the cut or after it gives the same bits, and so does any split of the experts over ranks.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from zoetrope.model.adapters.files.card import acts_on
from zoetrope.model.adapters.files.contents import check_contents
from zoetrope.model.adapters.files.grammar import Side
from zoetrope.model.adapters.files.plan import AdapterPlan, PlannedPatch, plan_adapter
from zoetrope.model.adapters.files.targets import Targets, sliced
from zoetrope.model.adapters.parse import read_patch
from zoetrope.model.checkpoints.spans import Rows
from zoetrope.model.checkpoints.weights import StoredTensor
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.fused_adapter import FusedAdapter

MAX_GROWTH = 4.0  # of a change against its weight, by their Frobenius norms; above it a scale is probably wrong
STACK = re.compile(r"^(blocks\.\d+\.ffn\.)(w1|b1|w2|b2)$")
# What a stack of experts was cut from, the axis of the hidden units there, and whether experts store it turned.
_ORIGINS = {"w1": ("net.0.proj.weight", 0, True), "b1": ("net.0.proj.bias", 0, False), "w2": ("net.2.weight", 1, True)}
_ORIGIN_B2 = "net.2.bias"  # which is not cut
log = logging.getLogger("zoetrope.model")


@dataclass(frozen=True)
class Change:
    """A change of one tensor by an adapter."""

    adapter: FusedAdapter
    plan: AdapterPlan
    patch: PlannedPatch

    def delta(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Return the change times the adapter's strength, float32, in the tensor's shape."""
        delta = read_patch(self.plan.header, self.patch, device).delta()
        return self.adapter.strength * delta.reshape(shape)


@dataclass
class _Warned:
    """The adapters that were warned of."""

    names: set[str] = field(default_factory=set)


def changes_of(adapters: Sequence[FusedAdapter], config: TransformerConfig, network: Side) -> dict[str, list[Change]]:
    """List the changes of a network's tensors, by their names in it, in the order of the adapters.

    Args:
        network: high or low of a pair, any if it is the only one.

    Raises:
        ModelError: a file has changed since the model's card was read, or is not what it must be.
    """
    targets = Targets(config)
    found: dict[str, list[Change]] = {}
    for adapter in adapters:
        plan = plan_adapter(Path(adapter.path), targets)
        if check_contents(plan.header) != adapter.sha256:
            raise ModelError(f"{adapter.path}: has changed since the service was started")
        for patch in plan.patches:
            if acts_on(adapter, patch.side, network):
                found.setdefault(patch.target, []).append(Change(adapter, plan, patch))
    return found


def fused(
    tensors: Sequence[StoredTensor],
    changes: dict[str, list[Change]],
    config: TransformerConfig,
    where: Path,
    device: torch.device,
) -> list[StoredTensor]:
    """Return a network's tensors with changes added when they are read: those in float32, the others as they were.

    Args:
        where: the file or folder to name in errors. device: where changes are computed and added.

    Raises:
        ModelError: a tensor that is to be changed is not there.
    """
    warned = _Warned()
    left, made = set(changes), []
    for tensor in tensors:
        origin, cut = _origin(tensor.name, config)
        own = changes.get(origin)
        if own:
            left.discard(origin)
            fetch = partial(_fetch, tensor, own, cut, device, warned)
            dtype = None if tensor.dtype is None else torch.float32
            tensor = StoredTensor(tensor.path, tensor.name, tensor.shape, dtype, fetch)
        made.append(tensor)
    if left:
        raise ModelError(f"{where}: the weights lack {min(left)}, which {changes[min(left)][0].adapter.path} changes")
    return made


@dataclass(frozen=True)
class _Cut:
    """How a stack of experts is cut from a dense tensor."""

    moe: MoEConfig
    axis: int
    turned: bool
    shape: tuple[int, ...]  # of the dense tensor

    def add(self, stack: torch.Tensor, delta: torch.Tensor, first: int) -> None:
        """Add each expert's slice to a stack of experts from number ``first`` on."""
        for number in range(len(stack)):
            group = (first + number) // (self.moe.num_experts // self.moe.groups)
            piece = delta.narrow(self.axis, group * self.moe.expert_dim, self.moe.expert_dim)
            stack[number] += piece.T if self.turned else piece


def _origin(name: str, config: TransformerConfig) -> tuple[str, _Cut | None]:
    """Return the dense tensor that a tensor was cut from, and how; of most it is the tensor itself."""
    match, moe = STACK.match(name), config.moe
    if match is None or moe is None or not sliced(config):
        return name, None
    if match[2] == "b2":
        return match[1] + _ORIGIN_B2, None
    leaf, axis, turned = _ORIGINS[match[2]]
    shapes = {"w1": (config.ffn_dim, config.dim), "b1": (config.ffn_dim,), "w2": (config.dim, config.ffn_dim)}
    return match[1] + leaf, _Cut(moe, axis, turned, shapes[match[2]])


def _fetch(
    tensor: StoredTensor, changes: list[Change], cut: _Cut | None, device: torch.device, warned: _Warned, rows: Rows
) -> torch.Tensor:
    value = tensor.read(rows).to(device, torch.float32, copy=True)
    for change in changes:
        if cut is not None:
            delta = change.delta(cut.shape, device)
            first = rows.start if isinstance(rows, slice) else 0
            cut.add(value, delta, first or 0)
            continue
        delta = change.delta(tensor.shape, device)
        if rows is None:
            _guard_growth(change, delta, value, warned)
        value += delta if rows is None else delta[rows]
    return value


def _guard_growth(change: Change, delta: torch.Tensor, value: torch.Tensor, warned: _Warned) -> None:
    """Warn once of each adapter that changes a weight several times over."""
    name = change.adapter.name
    if change.patch.kind == "difference" or name in warned.names:
        return
    growth, size = float(delta.norm()), float(value.norm())
    if growth > MAX_GROWTH * size > 0:
        warned.names.add(name)
        log.warning(
            "%s: its change of %s is %.1f times the weight itself: is its alpha, or the strength %g, too large?",
            change.adapter.path,
            change.patch.target,
            growth / size,
            change.adapter.strength,
        )
