"""The interface of a network, for everything that uses one: loaders, the denoising step, gangs, planners, training."""

from __future__ import annotations

import re
from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import nn

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.arrivals import Arrivals
from zoetrope.model.network.remembered import KeysValues
from zoetrope.model.network.sequences import PackedBatch, Sequence
from zoetrope.model.runtime.lazy import import_named


class Network(Protocol):
    """A diffusion transformer over packed sequences: a torch module made from a configuration.

    It predicts the flow velocity (noise - clean latents). Its configuration gives its costs
    (`TransformerConfig.forward_cost`). Attention and experts must go through the batch's
    `model.network.exchange.Exchange`, so that a gang can give each rank a slice of the rows and some of the experts.
    Weights of `layers` may be read only within `arrivals`, because blocks can be streamed to the device.
    """

    arrivals: Arrivals

    @property
    def float32_modules(self) -> tuple[str, ...]:
        """Name parts of tensors that stay in float32."""

    @property
    def expert_stacks(self) -> re.Pattern[str]:
        """Matches the names of tensors whose first axis is the experts of a layer."""

    @property
    def config(self) -> TransformerConfig:
        """The configuration from which it was made."""

    @property
    def device(self) -> torch.device:
        """The device of its weights."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its output and of most of its weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return its tensors by name, as torch modules do."""

    def check(self, sequences: list[Sequence]) -> None:
        """Check that the network can take these sequences, without packing them. Raises ValueError if not."""

    def pack(self, sequences: list[Sequence]) -> PackedBatch:
        """Pack sequences end to end, with this network's positions.

        The batch may be of a subclass with more rows than ``tokens``, which then overrides `PackedBatch.part`.
        Raises ValueError as `check`.
        """

    def contexts(self, batch: PackedBatch) -> tuple[KeysValues, ...] | None:
        """Return what its layers read that depends on the prompts alone, to be computed once for many steps, in the
        form that `PackedBatch.contexts` takes; None if there is no such thing."""

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Predict the velocity ``[N, patch volume * out_channels]``: a row for each that ``batch.cu_tokens`` counts,
        with features in the order (patch, channel). Only the rows that ``batch.targets`` names are used."""

    def layers(self) -> Items[nn.Module]:
        """List the blocks in the order in which a forward pass needs them: the units that are compiled, and that can be
        streamed to the device one by one."""


def build_network(config: TransformerConfig) -> Network:
    """Make the network that a configuration shapes, on the current default device."""
    network: Network = import_named(config.network)(config)
    return network


def meta_network(config: TransformerConfig) -> Network:
    """Make a network on the meta device, to read names and shapes."""
    with torch.device("meta"):
        return build_network(config)


def module_of(network: Network) -> nn.Module:
    """Return the network as the torch module that it is."""
    assert isinstance(network, nn.Module)
    return network
