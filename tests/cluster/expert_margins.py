"""How clear the choices of experts are in a run of a token-routed model.

Where two experts score alike to rounding, either may be taken: the other one as soon as the batch has other segments in
it or its tokens are on more ranks. Such a run is off by about 1e-4, not by rounding alone, and nothing went wrong.
Which seeds are so changes with the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from zoetrope.kernels import router_logits
from zoetrope.model.media.inputs import Inputs
from zoetrope.model.network.experts import MoEFeedForward
from zoetrope.model.network.protocol import module_of
from zoetrope.model.pipeline import NOTHING, LocalPipeline
from zoetrope.model.request.specs import VideoSpec


@dataclass(frozen=True)
class Run:
    """What one process makes of a job. ``lead``: the least by which an expert that was taken scored above one that was
    not."""

    spec: VideoSpec
    latents: torch.Tensor
    lead: float


def clearest_runs(local: LocalPipeline, specs: Iterable[VideoSpec], count: int, inputs: Inputs = NOTHING) -> list[Run]:
    """The runs with the greatest leads, in order of the jobs, all made from the same inputs."""
    runs = []
    for spec in specs:
        with _leads(local) as leads:
            latents = local.run(spec, inputs)[0]
        runs.append(Run(spec, latents, min(leads)))
    least = sorted((run.lead for run in runs), reverse=True)[count - 1]
    return [run for run in runs if run.lead >= least][:count]


@contextmanager
def _leads(local: LocalPipeline) -> Iterator[list[float]]:
    """The list gets one number for each layer of experts that runs meanwhile."""
    leads: list[float] = []

    def look(layer: MoEFeedForward, args: tuple[Any, ...]) -> None:
        scores = router_logits(args[0], layer.gate.weight).sigmoid() + layer.correction
        best = scores.topk(layer.top_k + 1, dim=-1).values
        leads.append(float((best[:, -2] - best[:, -1]).min()))

    layers = [layer for layer in module_of(local.denoiser.transformer).modules() if isinstance(layer, MoEFeedForward)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield leads
    finally:
        for hook in hooks:
            hook.remove()
