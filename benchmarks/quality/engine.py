"""Make the same cases exactly and in other ways, batch by batch, and compare each clip with its exact one.

The one engine of all benchmarks of quality: a `Way` says how clips are made, `fill` makes what is missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from zoetrope.benchmarks.quality.pairs import Clip, compare, latents_apart
from zoetrope.model.nano.cases import NO_OPTIONS, Frames, NanoCase, held_out
from zoetrope.model.nano.measures import examine
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.pipeline import LocalPipeline, quiet
from zoetrope.model.request.tasks import ModelCard

Clips = dict[str, dict[TaskKind, list[Clip]]]  # by the name of the way


@dataclass(frozen=True, eq=False)
class Made:
    """The clips of a batch.

    Attributes:
        latents: ``[C, T, H, W]`` of each. frames: ``[F, H, W, 3]`` uint8 of each, all that the autoencoder gave back.
        denoising, decoding: seconds of the processor for a clip, means of the batch.
    """

    latents: list[torch.Tensor]
    frames: list[Frames]
    denoising: float
    decoding: float

    @property
    def seconds(self) -> float:
        """Of the processor, for a clip."""
        return self.denoising + self.decoding


@dataclass(frozen=True, eq=False)
class Way:
    """A way of making clips.

    Attributes:
        card: of the model whose requests the cases are; options: further fields of these.
        latents: makes the cases' latents; None: they are those of the exact clips. decode: turns one clip's into
            frames.
        most: cases of a task to make at most; None: as many as of the others.
        same_batch: the exact clips that it is compared with are of a batch of the same cases, and not of a larger one.
    """

    name: str
    card: ModelCard
    latents: Callable[[list[NanoCase]], list[torch.Tensor]] | None
    decode: Callable[[torch.Tensor], Frames]
    options: Mapping[str, Any] = field(default_factory=dict)
    most: int | None = None
    same_batch: bool = False

    def cases(self, kind: TaskKind, count: int, seed: int, steps: int | None) -> list[NanoCase]:
        """Return the first held-out cases of a task; those of another way are the same but for its options.

        Raises:
            InvalidRequest: the model cannot do that.
        """
        return held_out(kind, self.card, count, seed, steps, options=self.options)

    def make(self, cases: list[NanoCase], exact: Made | None = None) -> Made:
        """Make the cases in one batch of mixed sizes. ``exact``: the same ones, made exactly; None for exact ones.

        Raises:
            ValueError: the way takes the exact clips' latents, and there are none.
        """
        began = time.process_time()
        if self.latents is not None:
            latents = self.latents(cases)
            denoising = (time.process_time() - began) / len(cases)
        elif exact is not None:
            latents, denoising = exact.latents, exact.denoising
        else:
            raise ValueError(f"{self.name} only decodes: there must be exact clips")
        began = time.process_time()
        frames = [self.decode(clip) for clip in latents]
        return Made(latents, frames, denoising, (time.process_time() - began) / len(cases))


@dataclass(frozen=True, eq=False)
class ClipPair:
    """A case made exactly and in another way; frames as in `Made`. ``equal``: every bit of the latents is.
    Seconds are the mean of the batch, for a clip."""

    exact_case: NanoCase
    other_case: NanoCase
    exact_frames: Frames
    other_frames: Frames
    equal: bool
    seconds: tuple[float, float]


# Returns further figures of a pair, to be kept with its clip.
Figures = Callable[[str, ClipPair], dict[str, Any]]


def no_figures(_way: str, _pair: ClipPair) -> dict[str, Any]:
    """Return nothing beyond what `compare` says."""
    return {}


def plain(name: str, pipeline: LocalPipeline, card: ModelCard, options: Mapping[str, Any] = NO_OPTIONS) -> Way:
    """Return the way of a pipeline: all cases in one batch."""

    def latents(cases: list[NanoCase]) -> list[torch.Tensor]:
        return pipeline.run_batch([case.spec for case in cases], quiet, [case.inputs for case in cases])

    return Way(name, card, latents, decoder(pipeline), options)


def decoder(pipeline: LocalPipeline) -> Callable[[torch.Tensor], Frames]:
    """Return what decodes latents ``[C, T, H, W]`` to frames ``[F, H, W, 3]`` uint8."""
    return lambda clip: np.concatenate(list(pipeline.decode(clip)))


def fill(
    exact: Way,
    ways: Sequence[Way],
    clips: Clips,
    kinds: Sequence[TaskKind],
    *,
    count: int,
    batch: int,
    seed: int,
    steps: int | None,
    save: Callable[[], None],
    figures: Figures = no_figures,
) -> bool:
    """Make the cases of every task that are not among ``clips``, and add them there; False if none was missing.

    The tasks take turns, a batch each; ``save()`` is called after every batch.

    Args:
        count: cases of each task. seed: of the cases. steps: None for the model's default.
    """
    some = False
    for start in range(0, count, batch):
        for kind in kinds:
            began, wanted = time.monotonic(), min(count, start + batch)
            if add_batch(exact, ways, clips, kind, wanted, seed, steps, figures):
                some = True
                save()
                print(f"{kind}: {wanted} cases, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return some


def add_batch(
    exact: Way,
    ways: Sequence[Way],
    clips: Clips,
    kind: TaskKind,
    wanted: int,
    seed: int,
    steps: int | None,
    figures: Figures = no_figures,
) -> bool:
    """Make the cases that ways lack up to the ``wanted``-th, and compare them; False if none does."""
    lacking = []
    for way in ways:
        done = clips.setdefault(way.name, {}).setdefault(kind, [])
        goal = wanted if way.most is None else min(wanted, way.most)
        if len(done) < goal:
            lacking.append((way, done, goal))
    if not lacking:
        return False
    first = min(len(done) for _, done, _ in lacking)
    cases = exact.cases(kind, max(goal for _, _, goal in lacking), seed, steps)[first:]
    made = exact.make(cases)
    for way, done, goal in lacking:
        part = slice(len(done) - first, goal - first)
        others = way.cases(kind, goal, seed, steps)[len(done) :]
        ours = replace(made, latents=made.latents[part], frames=made.frames[part])
        if way.same_batch and len(others) < len(cases):
            ours = exact.make(cases[part])
        found = way.make(others, ours)
        seconds = (ours.seconds, found.seconds)
        equal = [torch.equal(*both) for both in zip(ours.latents, found.latents, strict=True)]
        rows = zip(cases[part], others, ours.frames, found.frames, equal, strict=True)
        pairs = [ClipPair(*row, seconds) for row in rows]
        for pair, before, after in zip(pairs, ours.latents, found.latents, strict=True):
            apart = latents_apart(before, after)
            clip = compare(
                examine(pair.exact_case, pair.exact_frames), examine(pair.other_case, pair.other_frames), apart
            )
            done.append({**clip, **figures(way.name, pair)})
    return True
