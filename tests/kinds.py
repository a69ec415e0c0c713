"""Every test is of one kind: unit, integration or long. `make unit` runs the first, `make test` the first two.

A test is long where it is marked so. It is an integration test if its file or one of its fixtures is declared below, or
if it or one of its parameters is marked so. All others are unit tests, and `UnitRule` holds them to it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

# These start Ray, or several ranks: one worker runs them all, since each takes every core.
RAY = (
    "tests/cluster/engine/test_adapters.py",
    "tests/cluster/engine/test_ahead.py",
    "tests/cluster/engine/test_chaos.py",
    "tests/cluster/engine/test_handover.py",
    "tests/cluster/engine/test_lost_node.py",
    "tests/cluster/engine/test_mixed_steps.py",
    "tests/cluster/engine/test_out_of_service.py",
    "tests/cluster/engine/test_step_caching.py",
    "tests/cluster/engine/test_two_nodes.py",
    "tests/cluster/engine/test_rank.py",
    "tests/cluster/parallel/",
    "tests/cluster/planning/test_placement.py",
    "tests/cluster/snapshots/test_engine.py",
    "tests/serving/apart/test_deployed.py",
    "tests/serving/models/",
    "tests/serving/seen/",
    "tests/serving/stages/test_isolation.py",
    "tests/serving/whole/",
)
# The tests of such a folder share a gateway: one worker runs them all.
TOGETHER = (
    "tests/serving/gateway/http/fal/",
    "tests/serving/gateway/http/openai/",
    "tests/serving/gateway/http/replicate/",
)
# Files and folders whose tests start processes: services, media workers, programs (the benchmarks ask git).
INTEGRATION = (
    *RAY,
    "tests/benchmarks/peers/test_measure.py",
    "tests/benchmarks/quality/test_run.py",
    "tests/benchmarks/quality/test_vbench.py",
    "tests/benchmarks/serving_load/test_command.py",
    "tests/benchmarks/simulate/test_elastic.py",
    "tests/benchmarks/simulate/test_setup.py",
    "tests/benchmarks/test_attention_error.py",
    "tests/benchmarks/test_gpu_day_dry_run.py",
    "tests/benchmarks/test_gpu_day_runner.py",
    "tests/benchmarks/test_kernels_results.py",
    "tests/benchmarks/test_kernels_run.py",
    "tests/benchmarks/test_model_steps.py",
    "tests/benchmarks/test_scaling.py",
    "tests/benchmarks/test_snapshot_cost.py",
    "tests/benchmarks/test_step.py",
    "tests/benchmarks/test_streaming.py",
    "tests/cluster/telemetry/test_shared.py",
    "tests/docs/test_site.py",
    "tests/k8s/image/test_dockerfile.py",
    "tests/k8s/monitoring/test_component.py",
    "tests/k8s/monitoring/test_rules.py",
    "tests/k8s/test_fetch_weights.py",
    "tests/model/runtime/test_freed_memory.py",
    "tests/serving/api/test_named_sizes.py",
    "tests/serving/cli/",
    "tests/serving/client/",
    "tests/serving/faults/",
    "tests/serving/gateway/http/replicate/test_other_clients.py",
    "tests/serving/gateway/http/replicate/test_tenants.py",
    "tests/serving/gateway/test_forecast_shown.py",
    "tests/serving/gateway/test_management.py",
    "tests/serving/gateway/test_metrics.py",
    "tests/serving/gateway/test_notices.py",
    "tests/serving/gateway/test_outage.py",
    "tests/serving/gateway/test_process.py",
    "tests/serving/hostile/",
    "tests/serving/jobs/db/test_concurrency.py",
    "tests/serving/kubernetes/",
    "tests/serving/media/sandbox/",
    "tests/serving/ray_host/test_kept_logs.py",
    "tests/serving/restore/",
    "tests/serving/soak/test_nothing_lost.py",
    "tests/serving/stages/test_conditioning_cache.py",
    "tests/serving/supervisor/",
    "tests/serving/sweeper/test_process.py",
    "tests/serving/sweeper/test_webhook_bodies.py",
    "tests/test_package.py",
)
# Fixtures that start a process, in whichever file they are defined.
FIXTURES = frozenset({"doors", "gangs", "gateway", "postgres", "ray_session", "sandbox", "served", "service"})

UNIT_SECONDS = 20.0  # of processor time; the slowest unit test takes 4, and three times that on a busy machine
STARTS = frozenset(
    {"multiprocessing", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
)


class NotAUnit(AssertionError):
    """A unit test does what only an integration test may."""


class UnitRule:
    """Forbids unit tests to start a process, and to compute for long."""

    def __init__(self) -> None:
        self._breaches: list[str] | None = None
        sys.addaudithook(self._audit)
        start = BaseProcess.start

        def audited(process: BaseProcess) -> None:
            self._audit("multiprocessing", (process.name,))
            start(process)

        BaseProcess.start = audited  # type: ignore[assignment, method-assign]  # a spawned one raises no audit event

    @property
    def watches(self) -> bool:
        return self._breaches is not None

    @contextmanager
    def applied(self, seconds: float = UNIT_SECONDS) -> Iterator[None]:
        """Watch over a part of a unit test, which may take so many seconds of processor time.

        Raises:
            NotAUnit: it started a process, even if it caught the error of that, or took too long.
        """
        outer, breaches, start = self._breaches, list[str](), time.process_time()
        self._breaches = breaches
        try:
            yield
        finally:
            self._breaches = outer
        if breaches:
            raise NotAUnit(breaches[0])
        if (took := time.process_time() - start) > seconds:
            raise NotAUnit(f"a unit test takes at most {seconds} s of processor time, this took {took:.1f} s")

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._breaches is not None and event in STARTS:
            breach = f"a unit test starts no process, this did: {event} {arguments[:2]}; see tests/kinds.py"
            self._breaches.append(breach)
            raise NotAUnit(breach)
