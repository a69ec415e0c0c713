"""What the ranks of a test do: each function runs in all processes of a gang. Everything random follows from seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tests.cluster.parallel.gangs import EXCHANGE
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.parallel.runner import run_gang
from zoetrope.cluster.planning.overlap import WHOLE, Chunking
from zoetrope.model.catalog.model_card import scheduler_config
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.denoising.conditions import Conditions, Source
from zoetrope.model.denoising.denoise import Denoiser, NotFinite, Segment
from zoetrope.model.denoising.forward import ForwardRun, Runner, run_alone
from zoetrope.model.denoising.guidance import Mode
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.tasks import ModelCard

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Wish:
    """A segment to make; what of it a checkpoint has no use for is left out.

    Attributes:
        size: latent frames, rows and columns of tokens. words: of the positive and the negative text.
        ahead: steps that it has taken before the others join it.
    """

    name: str
    size: tuple[int, int, int]
    words: tuple[int, int] = (4, 3)
    steps: int = 4
    guidance: float = 2.0
    mode: Mode = "cfg"
    known: int = 0
    ending: bool = False
    sources: tuple[tuple[int, int, int], ...] = ()
    lead: int = 0
    ahead: int = 0
    step_mask: str = ""
    guidance_end: float = 1.0
    nan: bool = False


@dataclass(frozen=True)
class Result:
    """Of all forwards the velocities, the tokens of each step, and the latents at the end."""

    velocities: list[torch.Tensor]
    tokens: list[int]
    latents: list[torch.Tensor]


def denoise(card: ModelCard, wishes: list[Wish], steps: int, groups: int = 0, chunking: Chunking = WHOLE) -> Result:
    """Steps with all segments. ``groups``: of CFG parallel in the gang; 0: in this process alone."""
    mesh = Mesh.build(CPU, groups, EXCHANGE) if groups else Mesh()
    made: list[torch.Tensor] = []
    runner: Runner = partial(run_gang, mesh, chunking=chunking) if groups else run_alone

    def record(network: Network, sequences: list[Sequence]) -> ForwardRun:
        run = runner(network, sequences)
        made.extend(run.velocities)
        return run

    denoiser = load(card, mesh, record)
    return Result(made, *take_steps(denoiser, card, wishes, steps))


def take_steps(
    denoiser: Denoiser, card: ModelCard, wishes: list[Wish], steps: int
) -> tuple[list[int], list[torch.Tensor]]:
    """The tokens of each step with all segments, and their latents after the last."""
    segments = [start(denoiser, card, wish) for wish in wishes]
    for wish, segment in zip(wishes, segments, strict=True):
        for _ in range(wish.ahead):
            denoiser.step([segment])
    tokens = [denoiser.step([s for s in segments if not s.sampler.done]) for _ in range(steps)]
    return tokens, [segment.latents for segment in segments]


def poisoned(card: ModelCard, wishes: list[Wish], groups: int) -> tuple[tuple[str, ...], list[int], list[torch.Tensor]]:
    """The segments that a step names as not finite, the steps that each has taken, and their latents."""
    mesh = Mesh.build(CPU, groups, EXCHANGE)
    denoiser = load(card, mesh, partial(run_gang, mesh))
    segments = [start(denoiser, card, wish) for wish in wishes]
    named: tuple[str, ...] = ()
    try:
        denoiser.step(segments)
    except NotFinite as error:
        named = error.segments
    return named, [s.sampler.step for s in segments], [s.latents for s in segments]


def refused(card: ModelCard, wishes: list[Wish], broken: str, groups: int) -> tuple[str, Result]:
    """What a step says to a segment of a text that is too narrow; then the others go on without it."""
    mesh = Mesh.build(CPU, groups, EXCHANGE)
    denoiser = load(card, mesh, partial(run_gang, mesh))
    segments = [start(denoiser, card, wish) for wish in wishes]
    for segment in segments:
        if segment.spec.id == broken:
            segment.conditions = Conditions(torch.zeros(2, 7), torch.zeros(2, 7))
    said = ""
    try:
        denoiser.step(segments)
    except ValueError as error:
        said = str(error)
    good = [segment for segment in segments if segment.spec.id != broken]
    return said, Result([], [denoiser.step(good)], [segment.latents for segment in good])


def uneven(config: TransformerConfig, groups: int) -> str:
    """What a gang says that does not divide a network."""
    torch.manual_seed(0)
    try:
        run_gang(Mesh.build(CPU, groups, EXCHANGE), WanTransformer(config), [])
    except ValueError as error:
        return str(error)
    return ""


def load(card: ModelCard, mesh: Mesh, runner: Runner, device: torch.device = CPU) -> Denoiser:
    """In float32."""

    def part(component: str) -> Network:
        return load_transformer(card, device, component, dtype=torch.float32, rank=mesh.place, ranks=mesh.ranks)

    low = part("transformer_2") if card.boundary is not None else None
    return Denoiser(part("transformer"), scheduler_config(card), low, card.boundary, runner)


def start(denoiser: Denoiser, card: ModelCard, wish: Wish) -> Segment:
    config = denoiser.transformer.config
    seed = sum(wish.name.encode())
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    c, (_, ph, pw) = card.latent_channels, config.patch_size
    t, h, w = wish.size[0], ph * wish.size[1], pw * wish.size[2]
    positive, negative = (random(words, config.text_dim) for words in wish.words)
    mode: Mode = "cfg"
    given: dict[str, Any] = {}
    if config.vace_layers:
        hints = random(config.vace_in_channels, wish.lead + t, h, w)
        given = {"hints": hints, "hint_scales": (1.0, 0.5), "lead": wish.lead}
    elif config.image_dim is not None:
        words = config.pos_embed_seq_len or 2 + wish.words[0]
        channels = random(config.in_channels - config.out_channels, t, h, w)
        given = {"channels": channels, "image": random(words, config.image_dim)}
    else:
        mode = wish.mode
        given["sources"] = tuple(
            Source(random(c, frames, ph * rows, pw * columns), 1 + i, video=i == 0)
            for i, (frames, rows, columns) in enumerate(wish.sources)
        )
        given |= {"known": random(c, t, h, w), "known_frames": torch.arange(t) < wish.known} if wish.known else {}
        given |= {"ending": random(c, 1, h, w)} if wish.ending else {}
    if wish.nan:
        positive[0, 0] = torch.nan
    saved = {"step_mask": wish.step_mask, "guidance_end": wish.guidance_end}
    spec = SegmentSpec(wish.name, (c, t, h, w), wish.steps, wish.guidance, seed, **saved)  # type: ignore[arg-type]
    return denoiser.start(spec, Conditions(positive, negative, guidance=mode, **given))
