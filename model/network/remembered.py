"""Keys and values of text and image tokens: the same at every step of a clip, so computed once for a batch.

They depend on the prompt and the sequence's adapters alone, not on the noise level. A network keeps those of its latest
batch, and uses them while the same sequences are in it: in all steps between which no segment joins or leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from zoetrope.model.network.adapted import SlotUse


class KeysValues(NamedTuple):
    """What one attention reads: ``[M, heads, head_dim]`` of the text, ``[K, heads, head_dim]`` of the image tokens."""

    k: torch.Tensor
    v: torch.Tensor
    image_k: torch.Tensor | None = None
    image_v: torch.Tensor | None = None


@dataclass
class Remembered:
    """What the layers of a network have computed from one batch's text and image tokens.

    Attributes:
        given: the tokens, by identity: held, so that no other tensor can be taken for one of them. adapters: of each
            sequence, by equality.
        weights: a weight whose later change makes the contents worthless, and its version when they were made.
        layers: by layer, in the order of a forward pass.
    """

    given: tuple[torch.Tensor, ...] = ()
    adapters: tuple[SlotUse | None, ...] = ()
    weights: tuple[torch.Tensor, int] | None = None
    layers: list[KeysValues] = field(default_factory=list)

    def fill(
        self,
        given: tuple[torch.Tensor, ...],
        weight: torch.Tensor,
        compute: Callable[[int], Iterator[KeysValues]],
        adapters: tuple[SlotUse | None, ...] = (),
    ) -> Iterator[KeysValues]:
        """Yield the layers' keys and values of ``given``, in order; a layer's are computed when they are asked for,
        unless the last call had the same tensors. A pass that ends early leaves the rest to the next.

        Args:
            weight: one of the weights that enter them; the network is loaded, trained and moved as a whole.
            compute: yields those of the layers from a number on.
            adapters: of the sequences, if any has one.
        """
        version = 0 if weight.is_inference() else weight._version
        same = (
            adapters == self.adapters
            and len(given) == len(self.given)
            and all(a is b for a, b in zip(given, self.given, strict=True))
        )
        if not same or self.weights is None or self.weights[0] is not weight or self.weights[1] != version:
            self.given, self.adapters, self.weights, self.layers = given, adapters, (weight, version), []
        return self._each(self.layers, compute)

    @staticmethod
    def _each(layers: list[KeysValues], compute: Callable[[int], Iterator[KeysValues]]) -> Iterator[KeysValues]:
        yield from layers
        for made in compute(len(layers)):
            layers.append(made)
            yield made
