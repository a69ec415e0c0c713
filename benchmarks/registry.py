"""All benchmarks: what each measures, its smallest run, and what its result files hold.

A new benchmark is an entry here, a model of its figures in `benchmarks/schema`, and a module with a ``main`` and a
``page``; benchmarks/README.md says more. A test finds modules that have no entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from zoetrope.benchmarks.provenance import output_of
from zoetrope.benchmarks.schema import computed, quality, service, speed
from zoetrope.benchmarks.schema.header import ResultHeader, ResultRecord, header_of

Needs = Literal["", "gpu", "deepspeed", "aiperf", "history"]
OLD_PRODUCTS = "83f1257"  # the commit with which the committed prediction compares
Page = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: ``python -m zoetrope.benchmarks.NAME`` runs it.
        measures: what it finds out, in a line.
        record: what a result file holds beside its header; None if the benchmark only prints.
        page: the function that makes the page (.md) from the JSON, as ``module:function`` below `zoetrope.benchmarks`;
            empty if there is no page.
        smoke: the options of its smallest run, on a CPU if it can.
        quick: `make test` has that run: it takes a few seconds, and no other test of the suite makes it.
        needs: what it cannot run without.
        passes: exit statuses of a run without errors; 1 also says that a goal was missed.
    """

    name: str
    measures: str
    record: type[ResultRecord] | None
    page: str = ""
    smoke: tuple[str, ...] = ()
    quick: bool = False
    needs: Needs = ""
    passes: tuple[int, ...] = (0,)

    @property
    def command(self) -> str:
        """Return how it is called."""
        return f"python -m zoetrope.benchmarks.{self.name}"

    def missing(self) -> str | None:
        """Return what this machine lacks to run it, in words; None if nothing."""
        if self.needs == "deepspeed" and find_spec("deepspeed") is None:
            return "needs DeepSpeed"
        if self.needs == "aiperf" and not (Path(sys.prefix) / "aiperf" / "bin" / "aiperf").is_file():
            return "needs AIPerf (make aiperf)"
        if self.needs == "history" and output_of("git", "cat-file", "-t", OLD_PRODUCTS) != "commit":
            return f"needs the repository with its commit {OLD_PRODUCTS}"
        if self.needs == "gpu":
            import torch

            if not torch.cuda.is_available():
                return "needs a GPU"
        return None

    def render(self, record: Mapping[str, Any]) -> str | None:
        """Return the page of a result file; None if the benchmark makes none."""
        if not self.page:
            return None
        module, function = self.page.split(":")
        made: Page = getattr(import_module(f"zoetrope.benchmarks.{module}"), function)
        return made(record)


def _given(options: str) -> tuple[str, ...]:
    return tuple(options.split())


BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark(
            "adapters",
            "what LoRAs of requests cost a forward pass",
            speed.AdapterRecord,
            "adapters:page_of",
            _given("--width 64 --layers 1 --ranks 16 --tokens 64 --repeats 1"),
            quick=True,
        ),
        Benchmark(
            "aiperf",
            "a service, by NVIDIA's AIPerf over OpenAI's videos API",
            service.AIPerfRecord,
            "aiperf:page",
            _given("--requests 4 --concurrency 2 --steps 1"),
            needs="aiperf",
        ),
        Benchmark(
            "attention_error",
            "the error of 8-bit and block-sparse attention",
            quality.AttentionRecord,
            "attention_report:markdown",
            _given("--steps 1 --long-steps 0 --length 70 --no-generations"),
        ),
        Benchmark(
            "busy",
            "nano beside other work on the machine",
            service.BusyRecord,
            "busy:markdown",
            _given("--ours --rounds 1 --steps 2 --loops 1"),
        ),
        Benchmark(
            "cached_quality",
            "what step caching and intervals of guidance cost nano in quality",
            quality.CachedRecord,
            "cached_quality:page",
            _given("--variants fast --tasks t2v --count 1 --steps 9"),
            quick=True,
            passes=(0, 1),
        ),
        Benchmark(
            "cached_schedules", "which steps the levels of quality compute; prints a table", None, quick=True
        ),
        Benchmark(
            "cold_start",
            "how fast a rank starts, by phase",
            speed.ColdStartRecord,
            "cold_start.__main__:markdown",
            _given("--blocks 1 --rounds 1"),
        ),
        Benchmark(
            "compile_gain",
            "what torch.compile gains, by the size of the step",
            speed.CompileRecord,
            "compile_gain:markdown",
            _given("--device cpu --tokens 16 --backend aot_eager"),
        ),
        Benchmark(
            "decision_time",
            "how long the router's decisions take with a long queue",
            computed.DecisionRecord,
            "decision_time:page",
            _given("--waiting 200 --tenants 5 --engines 2 --decisions 5"),
            quick=True,
        ),
        Benchmark(
            "eta_error",
            "how far off a job's ETA is, through a service",
            service.EtaRecord,
            "eta_error:markdown",
            _given("--jobs 3 --warm-up 1"),
        ),
        Benchmark(
            "forward_graphs", "whether steps as CUDA graphs are right, and faster", speed.GraphRecord, needs="gpu"
        ),
        Benchmark(
            "gateway",
            "creates, gets, watchers and lists of a gateway",
            service.GatewayRecord,
            "gateway.report:page",
            _given("--quick --database sqlite --streams 5 --queued 210"),
        ),
        Benchmark(
            "gemm_prediction",
            "predicts matrix products from compiled code",
            computed.PredictionRecord,
            "gemm_prediction:page",
            _given(f"--before {OLD_PRODUCTS}"),
            needs="history",
        ),
        Benchmark(
            "kernels",
            "each kernel against its peers; toy sizes on a CPU",
            speed.KernelRecord,
            "kernels.report:markdown",
            _given("--tiny --device cpu --tokens 48 --seed 7"),
        ),
        Benchmark(
            "model_steps",
            "one model: a step by part and by size, and against diffusers",
            speed.ModelStepsRecord,
            "model_steps.report:page",
            _given("--clip 32x32x5 --steps 2 --repeats 1 --ways eager --jobs 0"),
        ),
        Benchmark(
            "packed_throughput",
            "many small jobs together, one by one, and by diffusers",
            service.PackedRecord,
            "packed_throughput.report:markdown",
            _given("--jobs 4 --quick --busy"),
        ),
        Benchmark(
            "parallel_peers",
            "expert parallelism against DeepSpeed's",
            speed.ParallelPeersRecord,
            smoke=_given("--tokens 24 --repeats 1"),
            needs="deepspeed",
        ),
        Benchmark(
            "peers",
            "the same clip by diffusers and other projects, each by its own command",
            speed.PeersRecord,
            "peers.report:page",
            _given("--size 64x64 --frames 5 --steps 5 --repeats 1"),
        ),
        Benchmark(
            "price_error",
            "how far a job's price is from what it used",
            service.PriceRecord,
            "price_error:markdown",
            _given("--jobs 3"),
        ),
        Benchmark(
            "quality",
            "what every option that makes clips faster gains, and costs in quality",
            quality.QualityRecord,
            "quality.report:page",
            _given("--options fp8,tiles,again --tasks t2v --count 1 --floor-count 1 --steps 1"),
            passes=(0, 1),
        ),
        Benchmark(
            "quantized_quality",
            "what weights in 8 bits cost nano in quality",
            quality.QuantizedRecord,
            "quantized_quality:page",
            _given("--tasks t2v --count 1 --steps 1"),
            passes=(0, 1),
        ),
        Benchmark(
            "scaling", "predicts a step's time on 1 to 64 GPUs", computed.ScalingRecord, "scaling:page", quick=True
        ),
        Benchmark(
            "scheduling",
            "what policies make of one trace on a running service",
            service.SchedulingRecord,
            "scheduling.__main__:page",
            _given("--policies fair --jobs 2 --gap 0.1 --large 64 64 9 --large-steps 4 --flood 0"),
        ),
        Benchmark(
            "served_step",
            "a step through the whole service against the bare model",
            service.ServedStepRecord,
            "served_step.report:markdown",
            _given("--model nano --size 96x64 --duration 1 --steps 20 --rounds 1 --repeats 1 --busy"),
        ),
        Benchmark(
            "serving_load",
            "a server under load: latency, throughput, objectives, faults (`zoetrope bench serve`)",
            service.LoadRecord,
            "serving_load.report:page",
            _given("--start nano --rate 2 --jobs 3 --warm-up 0 --quiet"),
        ),
        Benchmark(
            "simulate",
            "policies on a simulated fleet of GPUs",
            computed.SimulationRecord,
            "simulate.report:page",
            _given("--model bernini-r --engines 2x8 --hours 0.05 --policies fair,fifo --etas 2"),
            quick=True,
        ),
        Benchmark(
            "simulate.compare",
            "the simulation against a real service",
            computed.ComparedRecord,
            "simulate.compare:page",
            _given("--jobs 2"),
        ),
        Benchmark(
            "simulate.elastic",
            "what gangs would give that change their size",
            computed.SimulationRecord,
            "simulate.elastic:page",
            _given("--model bernini-r --nodes 2 --hours 0.05"),
            quick=True,
        ),
        Benchmark(
            "snapshot_cost",
            "what snapshots cost, measured on nano and computed for large models",
            speed.SnapshotRecord,
            "snapshot_cost:markdown",
            _given("--steps 4 --rounds 1"),
        ),
        Benchmark(
            "step",
            "one denoising step of a preset, by part",
            speed.StepPartsRecord,
            smoke=_given("--preset nano --duration 1 --repeats 1 --device cpu"),
            quick=True,
        ),
        Benchmark(
            "streaming",
            "weights streamed from host memory: order, bits, speed",
            speed.StreamingRecord,
            smoke=_given("--ranks 1 --repeats 1"),
            quick=True,
        ),
        Benchmark(
            "vae_decode",
            "decoding by Wan's autoencoders, whole and in tiles",
            speed.DecodeRecord,
            smoke=_given("--vae wan2.2 --channels 4 --size 96x64 --tile 64 --latents 3 --device cpu"),
        ),
    )
}  # fmt: skip

# Modules with a command line that measure nothing.
TOOLS = {
    "gpu_day": "runs the others on a machine with GPUs; `--dry-run` rehearses that",
    "kernels.merge": "brings back the kernels' results",
    "random_checkpoint": "writes checkpoints for benchmarks",
    "registry": "this list",
    "report": "makes the report page of all results",
    "smoke": "runs every benchmark small",
}


def check_record(record: Mapping[str, Any]) -> tuple[Benchmark, ResultHeader]:
    """Hold a result file against its schema; return whose it is, and its header.

    Raises:
        pydantic.ValidationError: a field is missing or wrong.
        KeyError: the command in its header is of no benchmark that writes results.
    """
    header = header_of(record)
    benchmark = BENCHMARKS[header.benchmark]
    if benchmark.record is None:
        raise KeyError(benchmark.name)
    benchmark.record.model_validate(record)
    return benchmark, header
