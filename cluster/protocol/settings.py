"""The settings of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zoetrope.model.request.loras import RANK_CLASSES
from zoetrope.model.request.tasks import Role

CudaGraphs = Literal["auto", "never"]


@dataclass(frozen=True)
class EngineSettings:
    """One engine: a gang of ranks under a leader.

    Attributes:
        ranks: processes, one GPU each; ``cfg_groups`` of them work on different guidance branches (or other
            sequences); the ranks of a group share its tokens and experts.
        rank_resources: what Ray reserves for each rank.
        role: which noise expert the gang holds.
        snapshots: where they are written, a directory or an object store's URL; None: no snapshots.
        snapshot_steps: steps between snapshots; None: one every ``snapshot_seconds``, or less often where that would
            cost more than ``snapshot_share`` of the time.
        hang_seconds: the shortest time after which a step counts as hung; more for steps predicted to be long.
        first_step_seconds: extra time for the first step of a gang, to compile and warm up.
        start_seconds: the longest that a gang may take to start, including loading its weights.
        adapters: the storage of registered adapters, as `cluster.storage.open` takes it; None: no segment may have one.
        adapter_slots: how many different adapters (or pairs of them) the segments of a step may have. adapter_rank: of
            each slot.
        compile: measure, when a gang starts, which steps torch.compile makes faster, by their tokens, and compile those
            (`cluster.parallel.compiled`). The start takes half a minute longer; results may differ in their last bits.
        warmup_shapes: width, height and frames of clips of which a step is taken before the gang is ready.
        cuda_graphs: whether a single rank captures steps that repeat; auto: those that are proved and faster on its GPU
            (`model.denoising.graph_proofs`).
    """

    ranks: int = 1
    cfg_groups: int = 1
    rank_resources: dict[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    role: Role = "both"
    snapshots: str | None = None
    snapshot_steps: int | None = None
    snapshot_seconds: float = 10.0
    snapshot_share: float = 0.01
    hang_seconds: float = 30.0
    first_step_seconds: float = 300.0
    start_seconds: float = 1800.0
    compile: bool = False
    cuda_graphs: CudaGraphs = "never"
    adapters: str | None = None
    adapter_slots: int = 4
    adapter_rank: int = 64
    warmup_shapes: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ValueError(f"ranks is {self.ranks}: it must be at least 1")
        if self.cfg_groups not in (1, 2) or self.ranks % self.cfg_groups:
            raise ValueError(
                f"cfg_groups is {self.cfg_groups} for {self.ranks} ranks: it must be 1 or 2, and divide them"
            )
        if self.snapshot_seconds < 0:
            raise ValueError(f"snapshot_seconds is {self.snapshot_seconds}: it must be at least 0")
        for name in ("snapshot_share", "hang_seconds", "first_step_seconds", "start_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.compile and self.cuda_graphs != "never":
            raise ValueError(f"cuda_graphs is {self.cuda_graphs!r}: it must be 'never' where compile is true")
        if self.adapter_slots < 0:
            raise ValueError(f"adapter_slots is {self.adapter_slots}: it must be at least 0")
        if self.adapter_rank not in RANK_CLASSES:
            classes = ", ".join(map(str, RANK_CLASSES))
            raise ValueError(f"adapter_rank is {self.adapter_rank}: it must be one of {classes}")
        if any(least < 1 for shape in self.warmup_shapes for least in shape):
            raise ValueError(f"warmup_shapes is {self.warmup_shapes}: widths, heights and frames must be at least 1")
        if self.snapshot_steps is not None and self.snapshot_steps < 1:
            raise ValueError(f"snapshot_steps is {self.snapshot_steps}: it must be at least 1")
