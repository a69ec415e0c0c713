"""What a whole job costs on a planned engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zoetrope.cluster.planning.calibration import rates_of
from zoetrope.cluster.planning.gang_plan import GangPlan, preset_of
from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.planning.step_costs import StepCosts
from zoetrope.model.families.config import TEXT_TOKENS
from zoetrope.model.families.family import Preset
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.steps import computed_steps
from zoetrope.model.request.tasks import InvalidRequest, ModelCard, parse_request
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.router.pricing import EngineCosts, Price, StageCosts, price_of


@dataclass(frozen=True)
class PlannedJob:
    """A job from text, as planned; times are of its own, with nothing beside it.

    Attributes:
        gpu_seconds: in all, and by stage. per_video_second: of a second of the clip.
        segments: denoising runs of ``steps`` steps, of which ``computed_steps`` are computed.
    """

    segments: int
    steps: int
    computed_steps: int
    gpu_seconds: float
    conditioning: float
    denoising: float
    decoding: float
    per_video_second: float


def planned_job(
    wanted: Preset | ModelCard, plan: GangPlan, duration: float, steps: int | None, quality: str
) -> PlannedJob:
    """Price a job of the plan's size on the engine that it plans.

    Raises:
        CliError: the model cannot make it so.
    """
    preset = preset_of(wanted) if isinstance(wanted, ModelCard) else wanted
    card = wanted if isinstance(wanted, ModelCard) else _card(wanted)
    fields = {"size": f"{plan.width}x{plan.height}", "duration_seconds": duration, "steps": steps, "quality": quality}
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        task = {"kind": "text_to_video", "prompt": "any"}
        kinds = card if "text_to_video" in card.tasks else _with_text(card)
        spec = resolve(parse_request({"task": task, **given}), kinds, 0)
    except InvalidRequest as error:
        violation = error.violations[0]
        raise bad_input(violation.field.removesuffix("_seconds"), violation.description) from None
    gear = hardware(plan.gpu)
    step = StepCosts.prior(
        preset.config,
        rates_of(gear),
        ranks=plan.ranks,
        cfg_groups=plan.cfg_groups,
        text_tokens=card.max_text_tokens,
        quantize=plan.quantize,
    )
    price: Price = price_of(spec, card, EngineCosts(step, StageCosts.prior(card, gear)))
    return PlannedJob(
        segments=len(spec.spans),
        steps=spec.steps,
        computed_steps=computed_steps(spec),
        gpu_seconds=price.total,
        conditioning=price.conditioning,
        denoising=price.denoising,
        decoding=price.decoding,
        per_video_second=price.total * spec.fps / spec.frames,
    )


def _with_text(card: ModelCard) -> ModelCard:
    """The same model as if it made clips from text, which cost what its own tasks do at least."""
    return replace(card, tasks=(*card.tasks, "text_to_video"))


def _card(preset: Preset) -> ModelCard:
    """The card of a preset whose weights are not here, as far as a price needs it."""
    vae, sampling = preset.vae, preset.sampling
    return ModelCard(
        name=preset.name,
        directory="",
        tasks=("text_to_video",),
        native_sizes=preset.native_sizes,
        size_multiple=vae.spatial * preset.config.patch_size[1],
        spatial=vae.spatial,
        temporal=vae.temporal,
        latent_channels=vae.z_dim,
        fps=sampling.fps,
        default_frames=sampling.frames,
        max_frames=1_000_000,
        default_steps=sampling.steps,
        default_guidance=sampling.guidance,
        max_text_tokens=TEXT_TOKENS,
        trained_sizes=sampling.trained_sizes,
    )
