"""The plan of the day: every stage with its command, its time limit and what it leaves, most valuable first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FAKE = "zoetrope.kernels.check.fake_cuda"  # runs a module with a CUDA device that computes nothing
KERNELS = "zoetrope.benchmarks.kernels"
STEP = "zoetrope.benchmarks.step"
DECODE = "zoetrope.benchmarks.vae_decode"
SERVED = "zoetrope.benchmarks.served_step"
GRAPHS = "zoetrope.benchmarks.forward_graphs"
DAY = "zoetrope.benchmarks.gpu_day"


@dataclass(frozen=True)
class DayStage:
    """One process of the day.

    In commands, ``{out}`` stands for the stage's own folder and ``{work}`` for the one that holds those of all stages.

    Attributes:
        call: 1 or 2: in which of the two calls it is due. seconds: its limit.
        command: module and arguments. dry: the same at toy sizes, for a dry run.
        fake: a dry run gives it a fake CUDA device; otherwise it takes the CPU.
        ahead: what launches its kernels on a fake device, if not the command itself.
        files: patterns, relative to its folder; something must match each, or the stage has failed.
        needs: modules or, after ``!``, programs without which it is skipped.
        beside: stages in a row with the same word here run side by side. They must not be timed.
        proved: it runs with the kernels that were right in this day's correctness stages.
    """

    name: str
    call: int
    seconds: float
    command: tuple[str, ...]
    dry: tuple[str, ...]
    files: tuple[str, ...]
    fake: bool = True
    ahead: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    beside: str = ""
    proved: bool = False

    def arguments(self, dry_run: bool) -> tuple[str, ...]:
        """Return what follows ``python -m``, with its placeholders."""
        words = self.dry if dry_run else self.command
        if self.proved:
            words = (f"{DAY}.proved", "{work}", "{out}/data", *words)
        return (FAKE, *words) if dry_run and self.fake else words


# (part of the kernel benchmark, operation, backend, dtypes), of every kernel that can be proved. What compiles longest
# comes first, its bf16 by itself: what models need is then proved whatever becomes of the rest. Gluon, the riskiest, is
# last.
KERNEL_PARTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("grouped_gemm", "grouped_gemm", "triton", ("bf16",)),
    ("attention", "attention", "triton", ("bf16",)),
    ("moe", "router_logits", "triton", ()),
    ("moe", "routing", "triton", ()),
    ("moe", "permute_rows", "triton", ()),
    ("moe", "combine", "triton", ()),
    ("moe", "dispatch", "triton", ()),
    ("passes", "residual_norm", "triton", ()),
    ("passes", "qk_norm_rope", "triton", ()),
    ("grouped_gemm", "grouped_gemm_fp8", "triton", ()),
    ("grouped_gemm", "quantise_fp8", "triton", ()),
    ("attention", "attention", "int8", ()),
    ("attention", "attention", "int8_fp8", ()),
    ("grouped_gemm", "grouped_gemm", "triton", ("fp16", "fp32")),
    ("attention", "attention", "triton", ("fp16", "fp32")),
    ("attention", "attention", "gluon", ()),
)
GEMM = ("grouped_gemm/triton", "grouped_gemm_fp8/triton")
TIMED_TOKENS = 32768  # of the timings: of the token counts of a full run, the one that says most
PRESETS = {"27b": "wan2.7-27b", "a14b": "wan2.2-t2v-a14b", "5b": "wan2.2-ti2v-5b"}


DECODED = "--out {out}/decode.json"
ONE_ROUND = ("--rounds", "1", "--busy", "--out", "{out}/served-step.json")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _kernels(*arguments: str) -> tuple[str, ...]:
    return (KERNELS, *arguments, "--out", "{out}/kernels", "--data", "{out}/data")


def _correct(part: str, op: str, backend: str, dtypes: tuple[str, ...]) -> DayStage:
    more = ("--dtype", *dtypes) if dtypes else ()
    command = _kernels("--only", part, "--kernel", f"{op}/{backend}", *more, "--correctness-only")
    return DayStage(
        name="-".join(("correct", op, backend, *dtypes)),
        call=1,
        seconds=90 if backend == "gluon" else 150,
        command=command,
        dry=(*command, "--tiny"),
        files=("kernels/*.json",),
        beside="last" if backend == "gluon" else "correct",
    )


def _timed(
    part: str,
    call: int,
    seconds: float,
    name: str = "",
    *,
    kernels: tuple[str, ...] = (),
    tokens: tuple[int, ...] = (TIMED_TOKENS,),
    rehearsed: str = "combine/triton",
) -> DayStage:
    """Return a stage that times. A dry run, which proves nothing, first checks what it times: one kernel will do."""
    more = ("--kernel", *kernels) if kernels else ()
    command = _kernels("--only", part, "--resume", *more)
    return DayStage(
        f"time-{name or part}",
        call,
        seconds,
        (*command, "--limit", str(int(seconds) - 15), "--tokens", *map(str, tokens)),
        (*_kernels("--only", part, "--kernel", rehearsed, "--dtype", "bf16", "fp8"), "--tiny", "--tokens", "48"),
        ("kernels/*.json",),
        proved=True,
    )


def _step(model: str, size: str, call: int, seconds: float, repeats: int, quantize: str = "") -> DayStage:
    form = ("--quantize", quantize) if quantize else ()
    end = (*form, "--repeats", str(repeats), "--out", "{out}/step.json")
    return DayStage(
        "-".join(filter(None, ("step", quantize, model, size))),
        call,
        seconds,
        (STEP, "--preset", PRESETS[model], "--size", size, "--duration", "5", *end),
        (STEP, "--preset", "nano", "--size", size, "--duration", "1", "--device", "cpu", *end),
        ("step.json",),
        fake=False,
        proved=True,
    )


PLAN: tuple[DayStage, ...] = (
    DayStage(
        "cache",
        call=1,
        seconds=60,
        command=(f"{DAY}.kernel_cache", "--out", "{out}/cache.json"),
        dry=(f"{DAY}.kernel_cache", "--out", "{out}/cache.json"),
        files=("cache.json",),
    ),
    *(_correct(*entry) for entry in KERNEL_PARTS),
    DayStage(
        "sanitizer",
        call=1,
        seconds=90,
        command=(f"{DAY}.sanitizer", "--out", "{out}/sanitizer.json"),
        dry=(f"{DAY}.sanitizer", "--out", "{out}/sanitizer.json"),
        files=("sanitizer.json",),
        fake=False,
        needs=("!compute-sanitizer",),
    ),
    _timed("choice", 1, 90),
    _timed("attention", 1, 90, rehearsed="attention/triton"),
    _timed("grouped_gemm", 1, 60, kernels=GEMM[:1], rehearsed=GEMM[0]),
    _timed("moe", 1, 60),
    _timed("grouped_gemm", 1, 60, "fp8", kernels=GEMM, rehearsed=GEMM[1]),
    _timed("layer", 1, 120),
    _step("27b", "480p", 1, 90, repeats=3),
    _step("a14b", "480p", 1, 90, repeats=2),
    _step("27b", "480p", 2, 60, repeats=3, quantize="fp8"),
    _step("a14b", "480p", 2, 60, repeats=2, quantize="fp8"),
    _step("5b", "480p", 2, 60, repeats=3),
    _step("27b", "720p", 2, 90, repeats=1),
    _step("a14b", "720p", 2, 120, repeats=1),
    _step("5b", "720p", 2, 60, repeats=2),
    DayStage(
        "decode",
        call=2,
        seconds=120,
        command=(DECODE, *_words(f"--size 480p --size 720p --size 1080p {DECODED}")),
        dry=(DECODE, *_words(f"--vae wan2.2 --size 96x64 --tile 64 --channels 4 --latents 3 --device cpu {DECODED}")),
        files=("decode.json",),
        fake=False,
        needs=("diffusers",),
    ),
    DayStage(
        "nano-oracle",
        call=2,
        seconds=120,
        command=("zoetrope.model.nano.evaluate", "--count", "40", "--json", "{out}/nano.json"),
        dry=("zoetrope.model.nano.evaluate", *_words("--tasks t2v --count 4 --steps 1 --json {out}/nano.json")),
        files=("nano.json",),
        fake=False,
    ),
    DayStage(
        "one-rank",
        call=2,
        seconds=60,
        command=(f"{DAY}.one_rank", "--out", "{out}/one-rank.json"),
        dry=(f"{DAY}.one_rank", "--device", "cpu", "--out", "{out}/one-rank.json"),
        files=("one-rank.json",),
        fake=False,
    ),
    DayStage(
        "graphs",
        call=2,
        seconds=90,
        command=(
            GRAPHS,
            *_words("--preset wan2.7-27b --preset wan2.1-t2v-14b --preset wan2.2-ti2v-5b --preset wan2.1-t2v-1.3b"),
            *_words("--quantize none --quantize fp8 --out {out}/graphs.json"),
        ),
        dry=(GRAPHS, *_words("--preset nano --quantize none --tokens 64 --repeats 1 --out {out}/graphs.json")),
        files=("graphs.json",),
        proved=True,
    ),
    _timed("choice", 2, 120, "choice-other-sizes", tokens=(8192, 75600)),
    _timed("passes", 2, 60, rehearsed="residual_norm/triton"),
    DayStage(
        "served-step",
        call=2,
        seconds=150,
        command=(SERVED, *_words("--model wan2.1-t2v-1.3b --size 480p --duration 5 --steps 8 --repeats 2"), *ONE_ROUND),
        dry=(SERVED, *_words("--model nano --size 480p --duration 1 --steps 60 --repeats 1"), *ONE_ROUND),
        files=("served-step.json",),
        fake=False,
        needs=("ray", "grpc", "av", "obstore"),
    ),
    DayStage(
        "tune",
        call=2,
        seconds=240,
        command=_kernels("--only", "grouped_gemm", "attention", "passes", "--tune", "--limit", "220"),
        dry=_kernels("--only", "passes", "--kernel", "residual_norm/triton", "--tune", "--tiny"),
        files=("kernels/*.json",),
        ahead=(f"{DAY}.candidates",),
    ),
)


def due(plan: Sequence[DayStage], call: int | None = None, only: Sequence[str] = ()) -> list[DayStage]:
    """Return the stages that a call goes through, in its order: what an earlier call should have done comes first.

    Args:
        call: leave out what is due in later calls; None: nothing. only: just these, by name.

    Raises:
        ValueError: no stage has a name of ``only``.
    """
    names = [stage.name for stage in plan]
    unknown = next((name for name in only if name not in names), None)
    if unknown is not None:
        raise ValueError(f"there is no stage {unknown!r}; there are {', '.join(names)}")
    kept = [stage for stage in plan if (call is None or stage.call <= call) and (not only or stage.name in only)]
    return sorted(kept, key=lambda stage: stage.call)
