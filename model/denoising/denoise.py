"""Take one denoising step of any number of segments at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoetrope.model.adapters.slots import AdapterSlots
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.forward import Runner, run_alone
from zoetrope.model.denoising.guidance import Mode, branches, combine, effective, scales
from zoetrope.model.denoising.noise import draw_noise, noise_generator
from zoetrope.model.denoising.samplers import start_sampler
from zoetrope.model.denoising.sampling import SegmentSampler
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.steps import acts, computes
from zoetrope.model.request.tasks import Role
from zoetrope.model.runtime.errors import Picklable


@dataclass
class Segment:
    """A denoising run in progress."""

    spec: SegmentSpec
    conditions: Conditions
    sampler: SegmentSampler
    latents: torch.Tensor  # [C, lead + T, H, W] float32
    noise: torch.Tensor | None = None  # from which they started, if known frames are as noisy as the rest

    @property
    def whole_mode(self) -> Mode:
        """The mode of steps in which guidance acts."""
        return effective(self.conditions.guidance, self.spec.guidance)

    @property
    def mode(self) -> Mode:
        """The mode of the next step: without guidance only the branch of the positive text is computed."""
        return self.whole_mode if acts(self.spec, self.sampler.step) else "none"

    def sequence_tokens(self, patch: tuple[int, int, int]) -> list[int]:
        """Count the tokens of each sequence of the next step, one for each branch of guidance."""
        conditions = self.conditions
        clip = _tokens(self.latents, patch)
        if conditions.ending is not None:
            clip += _tokens(conditions.ending, patch)
        sources = [(source.video, _tokens(source.latents, patch)) for source in conditions.sources]
        shown = {
            "none": 0,
            "videos": sum(tokens for video, tokens in sources if video),
            "all": sum(tokens for _, tokens in sources),
        }
        return [clip + shown[branch.streams] for branch in branches(self.mode)]

    def advance(self, velocity: torch.Tensor) -> None:
        """Take a step with a velocity ``[C, lead + T, H, W]`` float32."""
        self.latents = self.sampler.advance(velocity, self.latents)

    def estimate(self) -> torch.Tensor | None:
        """Estimate `result` from the last step; None before the first step in this process."""
        clean = self.sampler.estimate()
        return None if clean is None else self.conditions.finish(clean)

    def result(self) -> torch.Tensor:
        """Return the clip ``[C, T, H, W]`` after the last step: with known frames inserted, without VACE's
        references."""
        return self.conditions.finish(self.latents)


def _tokens(latents: torch.Tensor, patch: tuple[int, int, int]) -> int:
    return math.prod(math.ceil(size / side) for size, side in zip(latents.shape[1:], patch, strict=True))


class NotFinite(Picklable):
    """Segments for which the network returned infinities or NaN; they have not advanced. Users do not know their
    ids."""

    def __init__(self, segments: tuple[str, ...], tokens: int) -> None:
        super().__init__("the network gave values that are not finite")
        self.segments = segments
        self.tokens = tokens


class Denoiser:
    """A transformer, or two for high and low noise, and their scheduler configuration."""

    def __init__(
        self,
        transformer: Network,
        scheduler_config: dict[str, Any],
        low_noise: Network | None = None,
        boundary: float | None = None,
        runner: Runner = run_alone,
        role: Role = "both",
    ) -> None:
        """Steps at noise levels (0..1) of at least ``boundary`` are taken by ``transformer``, those below by
        ``low_noise``. Without a second expert the boundary has no effect: some public configurations have one.
        ``runner`` runs sequences through a network. A denoiser in the role of one noise expert has only that one, as
        ``transformer``, and takes only its steps (`takes`).

        Raises:
            ValueError: a second expert, or the role of one, without a boundary.
        """
        two = low_noise is not None or role != "both"
        if two and boundary is None:
            raise ValueError("two noise experts need a boundary_ratio between them")
        self.transformer = transformer
        self.low_noise = low_noise
        self.scheduler_config = scheduler_config
        self.device = transformer.device
        self.role = role
        self.adapters: AdapterSlots | None = None  # of its networks, where requests may have adapters
        self._runner = runner
        self._boundary = 0.0
        if two and boundary is not None:
            self._boundary = boundary * scheduler_config.get("num_train_timesteps", 1000)

    def start(self, spec: SegmentSpec, conditions: Conditions) -> Segment:
        """Return a segment before its first step; its noise is drawn on the CPU so that a seed means the same
        everywhere.

        Raises:
            ValueError: guidance needs a negative prompt that the conditions lack.
        """
        c, t, h, w = spec.latent_shape
        generator = noise_generator(spec.seed)
        noise = draw_noise((c, conditions.lead + t, h, w), generator).to(self.device)
        sampler = start_sampler(spec, self.scheduler_config, generator)
        segment = Segment(
            spec=spec,
            conditions=conditions.to(self.device),
            sampler=sampler,
            latents=sampler.begin(noise),
            noise=None if conditions.clean_known else noise,
        )
        if conditions.negative is None and any(not branch.positive for branch in branches(segment.whole_mode)):
            raise ValueError(f"segment {spec.id}: guidance {spec.guidance} needs a negative prompt")
        return segment

    def takes_low_noise(self, segment: Segment) -> bool:
        """Tell whether the low-noise expert takes the next step: by its noise level, or as the profile says."""
        profile = segment.spec.profile
        if profile is not None and self._boundary:
            return profile.takes_low_noise(segment.sampler.step, self._boundary)
        return segment.sampler.timestep < self._boundary

    def takes(self, segment: Segment) -> bool:
        """Tell whether a noise expert of this denoiser takes the next step."""
        return self.role == "both" or (self.role == "low") == self.takes_low_noise(segment)

    def check(self, segment: Segment) -> None:
        """Raise ValueError or RuntimeError if the conditions do not fit the network, before any step is taken."""
        self.transformer.check(self._sequences(segment, segment.whole_mode))

    @torch.inference_mode()
    def step(self, segments: list[Segment]) -> int:
        """Advance every segment by one step, with all guidance branches of one noise expert in one forward pass, and by
        the steps that reuse its velocity (`model.caching`).

        So a segment is only ever held before a step that is computed, and a snapshot needs no velocity. The first step
        of a noise expert is computed even if the mask skips it. If a network fails, no segment has advanced: samplers
        step once all velocities are there.

        Returns:
            The number of tokens in the packed batches.

        Raises:
            NotFinite: the velocity of a segment is not finite; the others have advanced.
        """
        low = [segment for segment in segments if self.takes_low_noise(segment)]
        high = [segment for segment in segments if not self.takes_low_noise(segment)]
        made: list[tuple[Segment, torch.Tensor]] = []
        tokens = 0
        if high:
            tokens += self._velocities(self.transformer, high, False, made)
        if low:
            network = self.low_noise if self.low_noise is not None else self.transformer
            tokens += self._velocities(network, low, True, made)
        poisoned: list[str] = []
        finite = torch.stack([velocity.isfinite().all() for _, velocity in made]).tolist()  # one wait for the device
        for (segment, velocity), good in zip(made, finite, strict=True):
            if good:
                self._advance(segment, velocity)
            else:
                poisoned.append(segment.spec.id)
        if poisoned:
            raise NotFinite(tuple(poisoned), tokens)
        return tokens

    def _velocities(
        self,
        network: Network,
        segments: list[Segment],
        low_noise: bool,
        made: list[tuple[Segment, torch.Tensor]],
    ) -> int:
        """Add the guided velocity of each segment to ``made``; return the number of tokens."""
        if any(segment.spec.loras for segment in segments):
            segments = sorted(segments, key=self._place)
        made_of = [self._sequences(segment, segment.mode, low_noise) for segment in segments]
        run = self._runner(network, [sequence for sequences in made_of for sequence in sequences])
        outputs = iter(run.velocities)
        for segment in segments:
            spec, latents, mode = segment.spec, segment.latents, segment.mode
            # With an ending the target is longer than the latents.
            velocities = [next(outputs)[:, : latents.shape[1]] for _ in branches(mode)]
            weights = scales(mode, spec.guidance, spec.guidance_low, low_noise)
            made.append((segment, combine(mode, velocities, latents, segment.sampler.sigma, weights)))
        return run.tokens

    def _place(self, segment: Segment) -> int:
        """Order segments by slot, so that the rows with adapters are next to each other."""
        loras = segment.spec.loras
        return -1 if not loras or self.adapters is None else self.adapters.use(segment.spec.id, loras, False).slot

    def _advance(self, segment: Segment, velocity: torch.Tensor) -> None:
        """Take the step, and those after it that reuse its velocity."""
        low = self.takes_low_noise(segment)
        segment.advance(velocity)
        while not segment.sampler.done and not computes(segment.spec, segment.sampler.step):
            if self.takes_low_noise(segment) != low:
                return
            segment.advance(velocity)

    def _sequences(self, segment: Segment, mode: Mode, low_noise: bool = False) -> list[Sequence]:
        conditions, timestep = segment.conditions, segment.sampler.timestep
        sequences = []
        for branch in branches(mode):
            text = conditions.positive if branch.positive else conditions.negative
            assert text is not None
            sequences.append(conditions.sequence(segment.latents, timestep, text, branch.streams, segment.noise))
        if segment.spec.loras:
            if self.adapters is None:
                raise RuntimeError(f"segment {segment.spec.id}: its adapters are not loaded")
            use = self.adapters.use(segment.spec.id, segment.spec.loras, low_noise)
            return [replace(sequence, adapter=use) for sequence in sequences]
        return sequences
