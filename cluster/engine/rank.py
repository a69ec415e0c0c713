"""One rank of a gang: holds the model and the segments, and executes the plans that the leader passes on."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import ray
import torch
from torch import distributed

from zoetrope.cluster.engine.adapters import AdapterGone, AdapterUnavailable, RankAdapters
from zoetrope.cluster.engine.expert_imbalance import ExpertImbalance
from zoetrope.cluster.engine.rank_process import Joined, Place, RankError, RankLost, StepOutcome
from zoetrope.cluster.engine.warm_up import most_tokens, share_of, streaming_of, warm_up
from zoetrope.cluster.parallel.meeting import meet
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.parallel.runner import run_gang
from zoetrope.cluster.planning.calibration import known_rates
from zoetrope.cluster.planning.device_plan import device_plan
from zoetrope.cluster.planning.gang_plan import preset_of
from zoetrope.cluster.planning.hardware import hardware_of
from zoetrope.cluster.planning.overlap import WHOLE, Chunking, chunking
from zoetrope.cluster.protocol.losses import LOSSES, original
from zoetrope.cluster.protocol.messages import Admit, Failed, Finished, HeldSegment, Previewed, StepPlan, one_line
from zoetrope.cluster.protocol.phases import Phases
from zoetrope.cluster.protocol.processes import Process
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.format import BadSnapshot, Fingerprint, decode
from zoetrope.cluster.snapshots.keeper import SnapshotKeeper
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.cluster.snapshots.writer import SnapshotWriter
from zoetrope.model.catalog.weights_identity import Hashing, weights_of
from zoetrope.model.checkpoints.load import configure_torch, load_denoiser
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import NotFinite, Segment
from zoetrope.model.denoising.forward import InParts, Runner, run_alone
from zoetrope.model.denoising.graph_proofs import standing
from zoetrope.model.denoising.graphs import GraphLimits, GraphRunner
from zoetrope.model.denoising.resume import resume
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.runtime.errors import device_lost
from zoetrope.model.streaming.device_plan import DevicePlan

if TYPE_CHECKING:
    from zoetrope.cluster.parallel.compiled import Chooser

log = logging.getLogger("zoetrope.rank")

GRAPH_MEMORY = 0.1  # of a device's, at most
# A rank's answer about a segment to admit; where ranks differ, the largest wins. AFRESH: without its snapshot. GONE: an
# adapter is.
TAKEN, AFRESH, LOST, REFUSED, GONE = 0, 1, 2, 3, 4
UNLIMITED = 1 << 40  # tokens of a forward pass


@dataclass(frozen=True)
class _Started:
    """A segment before its first step, and as resumed from its snapshot; None if the rank refuses the snapshot."""

    fresh: Segment
    resumed: Segment | None


@dataclass
class _Step:
    """The outcome of a step so far."""

    tokens: int = 0
    failed: list[Failed] = field(default_factory=list)


class Rank:
    """What a `cluster.engine.rank_process.RankProcess` runs; its methods are called one at a time: `place`, `join`,
    then `execute`."""

    def __init__(self, card: ModelCard, settings: EngineSettings, hashing: Hashing | None = None) -> None:
        """``hashing``: of the card, if it has begun already."""
        self._hashing = hashing or Hashing(card)
        self._card = card
        self._settings = settings
        self._device = configure_torch(card)
        self._segments: dict[str, Segment] = {}
        self._rank = 0
        self._meeting: socket.socket | None = None  # where the first rank waits for the others
        self._failed = False

    def place(self) -> Place:
        context = ray.get_runtime_context()
        gpus = tuple(int(i) for i in context.get_accelerator_ids().get("GPU", ()))
        return Place(context.get_node_id(), gpus, Process.this(), self._device_name())

    def free_address(self) -> str:
        """Return ``host:port`` on this node where the ranks can meet. Called on the first rank, which listens there."""
        host = ray.util.get_node_ip_address()
        self._meeting = socket.create_server((host, 0))
        return f"{host}:{self._meeting.getsockname()[1]}"

    def join(self, rank: int, address: str) -> Joined:
        """Meet the other ranks, load this rank's share of the weights, compile and measure if so set, and warm up.

        Raises:
            RankError.
        """
        try:
            return self._join(rank, address)
        except Exception as error:
            raise _told(error) from error

    def _join(self, rank: int, address: str) -> Joined:
        settings, phases = self._settings, Phases()
        self._rank = rank
        mesh = Mesh()
        if settings.ranks > 1:
            with phases.of("group"):
                mesh = self._meet(address)
        self._mesh = mesh
        plan = device_plan(self._card, self._device, ranks=mesh.ranks, groups=mesh.groups, role=settings.role)
        runner: Runner = partial(run_gang, mesh, chunking=self._chunking()) if settings.ranks > 1 else self._alone(plan)
        limit = -mesh.largest([-(plan.most_tokens or UNLIMITED)], self._device)[0]
        runner = InParts(runner, limit) if limit < UNLIMITED else runner
        chooser = self._chooser(runner) if settings.compile else None
        with phases.of("read"):
            self._denoiser = load_denoiser(
                self._card,
                self._device,
                rank=mesh.place,
                ranks=mesh.ranks,
                role=settings.role,
                runner=chooser or runner,
                room=plan.room,
            )
        with phases.of("hash"):  # what it takes longer than all before; only one rank of a machine does it, once
            identity = self._hashing.result()
        self._imbalance = ExpertImbalance(self._denoiser, self._card.name)
        self._adapters = RankAdapters(self._denoiser, settings, two_experts=self._card.boundary is not None)
        if chooser is not None:
            with phases.of("compile"):
                self._compile(chooser, runner)
        self._keeper: SnapshotKeeper | None = None
        if rank == 0 and settings.snapshots is not None:
            writer = SnapshotWriter(SnapshotStore(settings.snapshots))
            self._keeper = SnapshotKeeper(writer, settings, identity, self._denoiser.scheduler_config)
        gear = hardware_of(self._device_name())
        with phases.of("warm_up"):
            warmed = warm_up(self._denoiser, self._card, gear, mesh, settings.warmup_shapes)
        return Joined(
            warmed,
            streaming_of(self._denoiser, gear, limit if limit < UNLIMITED else 0),
            most_tokens(self._denoiser, self._card, gear, plan, mesh),
            phases.seconds(),
        )

    def _meet(self, address: str) -> Mesh:
        """Form the process group of all ranks."""
        settings, timeout = self._settings, timedelta(seconds=self._settings.start_seconds)
        distributed.init_process_group(
            "nccl" if self._device.type == "cuda" else "gloo",
            store=meet(address, settings.ranks, timeout, self._meeting),
            rank=self._rank,
            world_size=settings.ranks,
            timeout=timeout,
        )
        self._meeting = None  # the store has it
        torch.set_num_threads(max(1, torch.get_num_threads() // settings.ranks))
        return Mesh.build(self._device, settings.cfg_groups, timeout)

    def execute(self, plan: StepPlan) -> StepOutcome:
        """Drop, admit, take one step, and hand out what is finished.

        Raises:
            RankError: a step failed in a gang of several ranks, which may leave the others waiting; a single rank
                retries the segments of a failed step one by one, unless it has lost its device. After that all plans
                are refused: their messages would meet those of peers in another step.
        """
        if self._failed:
            raise RankError("an earlier plan failed on this rank")
        self._failed = True
        try:
            outcome = self._execute(plan)
        except Exception as error:
            raise _told(error) from error
        self._failed = False
        return outcome

    def _execute(self, plan: StepPlan) -> StepOutcome:
        result = _Step()
        for segment_id in plan.drop:
            self._forget(segment_id)
        self._release(plan.release)
        result.failed += self._admit_all(plan.admit)
        if plan.checkpoint:
            self.checkpoint(self._settings.hang_seconds / 2)
        self._adapters.prefetch(plan.prefetch)
        started = time.monotonic()
        wanted = [self._segments[i] for i in plan.advance if i in self._segments]
        batch = [s for s in wanted if not s.sampler.done and self._denoiser.takes(s)]
        shares = tuple(share_of(self._denoiser, segment) for segment in batch)
        if batch:
            self._step(batch, result)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            if self._rank == 0:
                self._imbalance.look()
        seconds = time.monotonic() - started if batch else 0.0
        for failure in result.failed:
            self._forget(failure.id)
        return replace(self._outcome(batch, result, seconds, plan.preview), shares=shares)

    def checkpoint(self, seconds: float) -> None:
        """Write snapshots of all segments and wait for them, and for those of segments that have ended, at most so many
        seconds."""
        if self._keeper is not None:
            self._keeper.checkpoint(list(self._segments.values()), seconds, ended=True)

    def _release(self, segment_ids: tuple[str, ...]) -> None:
        """Drop segments once their snapshots are written, so that another engine goes on from here."""
        leaving = [self._segments[i] for i in segment_ids if i in self._segments]
        if self._keeper is not None and leaving:
            self._keeper.checkpoint(leaving, self._settings.hang_seconds / 2)
        for segment in leaving:
            self._forget(segment.spec.id)

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def _chunking(self) -> Chunking:
        """How tokens are chunked on their way to experts; if ranks have different figures, the fewest chunks win."""
        rates = known_rates(hardware_of(self._device_name()))
        found = chunking(preset_of(self._card).config, rates, self._mesh.ranks).thresholds
        return Chunking(tuple(self._mesh.largest(found, self._device))) if found else WHOLE

    def _alone(self, plan: DevicePlan) -> Runner:
        """Return the runner of a single rank, which may capture graphs, unless weights come and go."""
        if self._settings.cuda_graphs == "never" or self._device.type != "cuda" or plan.room is not None:
            return run_alone
        found = standing(preset_of(self._card).config, self._card.load.quantize, self._device_name())
        if not found.tokens:
            log.warning("no CUDA graphs: %s", found.why)
            return run_alone
        memory = torch.cuda.get_device_properties(self._device).total_memory
        return GraphRunner(GraphLimits(found.tokens, int(GRAPH_MEMORY * memory)))

    def _chooser(self, runner: Runner) -> Chooser:
        """Return what will run each step in the faster way, compiled or not."""
        from zoetrope.cluster.parallel.compiled import Chooser  # not above: torch's compiler takes seconds to import

        return Chooser(runner)

    def _compile(self, chooser: Chooser, runner: Runner) -> None:
        """Compile the blocks, and measure which steps that makes faster. The figures go to this process's log."""
        from zoetrope.cluster.parallel.compiled import longest_clip, measure

        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")  # Ray sets up no handler
        logging.getLogger("zoetrope").setLevel(logging.INFO)
        networks = [n for n in (self._denoiser.transformer, self._denoiser.low_noise) if n is not None]
        agree = partial(self._mesh.largest, device=self._device)
        chooser.gains = measure(networks, runner, longest_clip(self._card), self._card.max_text_tokens, agree=agree)

    def _admit_all(self, admits: tuple[Admit, ...]) -> list[Failed]:
        """Start or resume segments. What one rank cannot admit no rank keeps, because they need each other in every
        step: conditions whose owner died are gone for a rank that asks late, but not for one that already has them.
        Likewise a snapshot that one rank refuses is used by none."""
        started: dict[str, _Started] = {}
        refused: dict[str, Failed] = {}
        for admit in admits:
            try:
                started[admit.spec.id] = self._start(admit)
            except AdapterGone as error:
                refused[admit.spec.id] = Failed(admit.spec.id, str(error), code="FAILED_PRECONDITION")
            except Exception as error:
                lost = isinstance(original(error), (*LOSSES, AdapterUnavailable))
                refused[admit.spec.id] = Failed(admit.spec.id, one_line(error), lost)
        verdicts = [_verdict(started.get(admit.spec.id), refused.get(admit.spec.id)) for admit in admits]
        agreed = self._mesh.largest(verdicts, self._device) if verdicts else []
        failed: list[Failed] = []
        for admit, mine, verdict in zip(admits, verdicts, agreed, strict=True):
            if verdict in (TAKEN, AFRESH):
                self._keep(admit, started[admit.spec.id], verdict)
            else:
                self._forget(admit.spec.id)
                failed.append(refused[admit.spec.id] if mine == verdict else _told_by_another(admit, verdict))
        return failed

    def _start(self, admit: Admit) -> _Started:
        """Start a segment, and resume it if there is a snapshot. Raises for conditions with which no step would
        work, and for adapters that are not there."""
        self._adapters.hold(admit.spec.id, admit.spec.loras)
        conditions: Conditions = ray.get(admit.conditions)
        fresh = self._denoiser.start(admit.spec, conditions)
        self._denoiser.check(fresh)
        if admit.snapshot is None:
            return _Started(fresh, fresh)
        data = ray.get(admit.snapshot)
        expected = Fingerprint.of(weights_of(self._card), admit.spec, self._denoiser.scheduler_config)
        try:
            return _Started(fresh, resume(self._denoiser, fresh, decode(data, expected, admit.owner).state))
        except (BadSnapshot, ValueError) as error:
            log.warning("segment %s starts again, its snapshot does not fit: %s", admit.spec.id, one_line(error))
            return _Started(fresh, None)

    def _keep(self, admit: Admit, started: _Started, verdict: int) -> None:
        """Hold the segment from now on."""
        segment = started.fresh if verdict == AFRESH or started.resumed is None else started.resumed
        self._segments[admit.spec.id] = segment
        if self._keeper is not None and admit.owner is not None:
            self._keeper.track(segment, admit.owner)

    def _step(self, batch: list[Segment], result: _Step) -> None:
        """Take a step. If it fails, a single rank retries one segment at a time, so that only the culprit fails."""
        try:
            result.tokens += self._denoiser.step(batch)
        except NotFinite as error:  # detected by all ranks alike; the others have advanced
            result.tokens += error.tokens
            result.failed += [Failed(i, "the network gave values that are not finite") for i in error.segments]
        except Exception as error:
            if self._settings.ranks > 1 or device_lost(error):
                raise
            if len(batch) > 1:
                for segment in batch:
                    self._step([segment], result)
            else:
                result.failed.append(Failed(batch[0].spec.id, one_line(error)))

    def _outcome(self, batch: list[Segment], result: _Step, seconds: float, preview: tuple[str, ...]) -> StepOutcome:
        first = self._rank == 0
        finished = [s for s in self._segments.values() if s.sampler.done]
        leaving = [s for s in self._segments.values() if not s.sampler.done and not self._denoiser.takes(s)]
        if self._keeper is not None:
            self._keeper.after_step([s for s in batch if s.spec.id in self._segments], seconds)
            if leaving:
                self._keeper.checkpoint(leaving, self._settings.hang_seconds / 2)
        for segment in (*finished, *leaving):
            self._forget(segment.spec.id)
        return StepOutcome(
            held=tuple(HeldSegment(s.spec.id, s.sampler.step) for s in self._segments.values()),
            finished=tuple(Finished(s.spec.id, _shared(s.result()) if first else None) for s in finished),
            failed=tuple(result.failed),
            previews=tuple(self._preview(s) for s in batch if first and s.spec.id in preview and not s.sampler.done),
            handed_over=tuple(s.spec.id for s in leaving),
            step_seconds=seconds,
            step_tokens=result.tokens,
        )

    def _preview(self, segment: Segment) -> Previewed:
        estimate = segment.estimate()
        assert estimate is not None, "a step was just taken"
        return Previewed(segment.spec.id, segment.sampler.step, _shared(estimate))

    def _forget(self, segment_id: str) -> None:
        self._segments.pop(segment_id, None)
        self._adapters.release(segment_id)
        if self._keeper is not None:
            self._keeper.forget(segment_id)


def _shared(latents: torch.Tensor) -> ray.ObjectRef:  # type: ignore[type-arg]
    """Put latents into the object store as an array, for processes without torch."""
    return ray.put(latents.float().cpu().numpy())


def _told(error: Exception) -> RankError:
    lost = device_lost(error) or isinstance(original(error), LOSSES)
    return (RankLost if lost else RankError)(one_line(error))


def _told_by_another(admit: Admit, verdict: int) -> Failed:
    """Return why a segment is not taken that this rank could take."""
    if verdict == GONE:
        names = " or ".join(lora.name for lora in admit.spec.loras)
        return Failed(admit.spec.id, f"its adapter {names} was removed", code="FAILED_PRECONDITION")
    return Failed(admit.spec.id, "another rank could not take it", verdict == LOST)


def _verdict(started: _Started | None, refusal: Failed | None) -> int:
    if refusal is not None:
        return LOST if refusal.lost else GONE if refusal.code == "FAILED_PRECONDITION" else REFUSED
    return TAKEN if started is not None and started.resumed is not None else AFRESH
