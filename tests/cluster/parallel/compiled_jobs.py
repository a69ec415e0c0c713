"""What the ranks of a test of compiled steps do, with a compiler that only counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tests.cluster.parallel.gangs import EXCHANGE
from tests.cluster.parallel.jobs import CPU, Wish, load, take_steps
from zoetrope.cluster.parallel import compiled
from zoetrope.cluster.parallel.compiled import Chooser, Gains, Rung, measure
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.parallel.runner import run_gang
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.denoising.forward import Runner, run_alone
from zoetrope.model.request.tasks import ModelCard

STEPS = 2
LADDER = (64, 256)
ALWAYS, NEVER = Gains((Rung(1, 2.0, 1.0),)), Gains((Rung(1, 1.0, 2.0),))


@dataclass
class Counter:
    """A compiler that runs graphs as they are."""

    graphs: int = 0
    calls: int = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*values: Any) -> Any:
            self.calls += 1
            return graph(*values)

        return run


@dataclass(frozen=True)
class Way:
    """The graphs that steps compiled, how often they called one, and their latents."""

    graphs: int
    calls: int
    latents: list[torch.Tensor]


def denoise_both_ways(card: ModelCard, mixes: list[list[Wish]], groups: int = 0) -> tuple[Gains, list[tuple[Way, Way]]]:
    """What was measured, and of each mix some steps, eager and compiled. ``groups``: as in `denoise`.

    A compiled step fails where it meets anything that no compiled code fits.
    """
    torch._dynamo.reset()
    counter = Counter()
    mesh = Mesh.build(CPU, groups, EXCHANGE) if groups else Mesh()
    runner: Runner = partial(run_gang, mesh) if groups else run_alone
    chooser = Chooser(runner)
    denoiser = load(card, mesh, chooser)
    networks = [n for n in (denoiser.transformer, denoiser.low_noise) if n is not None]
    agree = partial(mesh.largest, device=CPU)
    gains = measure(networks, runner, 64, 6, agree=agree, backend=counter, ladder=LADDER)
    usual, compiled.COMPILED = compiled.COMPILED, "fail_on_recompile"
    try:
        return gains, [
            (_way(chooser, denoiser, card, mix, counter, NEVER), _way(chooser, denoiser, card, mix, counter, ALWAYS))
            for mix in mixes
        ]
    finally:
        compiled.COMPILED = usual


def _way(
    chooser: Chooser, denoiser: Denoiser, card: ModelCard, wishes: list[Wish], counter: Counter, gains: Gains
) -> Way:
    chooser.gains = gains
    graphs, calls = counter.graphs, counter.calls
    _, latents = take_steps(denoiser, card, wishes, STEPS)
    return Way(counter.graphs - graphs, counter.calls - calls, latents)
