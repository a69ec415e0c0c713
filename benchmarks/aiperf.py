"""Measure a service with NVIDIA's AIPerf, unchanged, over OpenAI's videos API.

    make aiperf
    python -m zoetrope.benchmarks.aiperf --out benchmarks/results/aiperf

AIPerf is installed apart, since it pins other versions. It measures a service that runs already (``--url``), or nano in
one that is started for it. Its tokenizer only counts the words of the prompts that it makes up; litellm brings the
file that it would fetch for that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.provenance import busy, commit_of, header

EXPORT = "profile_export_aiperf.json"
SEED = 1
READY_SECONDS = 180.0
SECONDS = 540.0  # in which it must end
STATISTICS = ("avg", "min", "max", "p50", "p90", "p99")
SHOWN = {
    "request_count": "requests",
    "request_throughput": "throughput",
    "request_latency": "latency",
    "video_inference_time": "inference time",
    "benchmark_duration": "duration",
}
LACKING = "AIPerf is not installed: run make aiperf, or name its program by --aiperf"


def program(given: str | None = None) -> str | None:
    """Return the path of AIPerf's program: as given, of `make aiperf`, or on the PATH; None if there is none."""
    beside = Path(sys.prefix) / "aiperf" / "bin" / "aiperf"
    return shutil.which(given) if given else str(beside) if beside.is_file() else shutil.which("aiperf")


def arguments_of(args: Any, url: str, folder: Path) -> list[str]:
    """Return AIPerf's arguments, those that its documents have for videos."""
    given = ["profile", "--url", url, "--model", args.model, "--endpoint-type", "video_generation"]
    given += ["--tokenizer", "builtin", "--synthetic-input-tokens-mean", "30", "--random-seed", str(SEED)]
    given += ["--request-count", str(args.requests), "--concurrency", str(args.concurrency)]
    for extra in args.extra or [f"size:{args.size}", f"num_frames:{args.frames}", f"num_inference_steps:{args.steps}"]:
        given += ["--extra-inputs", extra]
    return [*given, "--ui", "none", "--artifact-dir", str(folder)]


def tokenizer_files() -> dict[str, str]:
    """Return the environment in which tiktoken finds its vocabulary without a network, if litellm is installed."""
    spec = find_spec("litellm")
    if spec is None or spec.origin is None or "TIKTOKEN_CACHE_DIR" in os.environ:
        return {}
    return {"TIKTOKEN_CACHE_DIR": str(Path(spec.origin).parent / "litellm_core_utils" / "tokenizers")}


def run(path: str, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run AIPerf and return what it exported.

    Raises:
        BenchmarkError: it fails, does not end, or exports nothing.
    """
    env = {**os.environ, **tokenizer_files(), "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)  # ours is not for its Python
    try:
        done = subprocess.run(
            [path, *arguments], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"AIPerf did not end within {SECONDS:g} s") from None
    found = sorted(folder.rglob(EXPORT))
    if done.returncode or not found:
        last = "\n".join(done.stdout.decode(errors="replace").strip().splitlines()[-15:])
        raise BenchmarkError(f"AIPerf ended with status {done.returncode} and {len(found)} reports:\n{last}")
    exported: dict[str, Any] = json.loads(found[0].read_text())
    return exported


def record_of(exported: Mapping[str, Any], line: str, given: Sequence[str], url: bool) -> dict[str, Any]:
    """Return the record to write as JSON: AIPerf's figures, without the paths and addresses in its export.

    Args:
        line: our command. given: AIPerf's arguments. url: whether the service is somebody else's.
    """
    kept, skipped = [], {"--url", "--artifact-dir"}
    for flag, value in zip(["", *given], [*given, ""], strict=True):
        if flag not in skipped and value not in skipped:
            kept.append(value)
    metrics = {
        name: {"unit": value["unit"], **{key: value[key] for key in STATISTICS if value.get(key) is not None}}
        for name, value in exported.items()
        if isinstance(value, dict) and value.get("unit") is not None and value.get("avg") is not None
    }
    return {
        "environment": header(line, SEED),
        "aiperf": {"version": exported["aiperf_version"], "arguments": [word for word in kept if word]},
        "service": "given by --url" if url else "nano, started for the run",
        "requests": int(metrics["request_count"]["avg"]) if "request_count" in metrics else 0,
        "errors": int(metrics["error_request_count"]["avg"]) if "error_request_count" in metrics else 0,
        "error_summary": exported.get("error_summary") or [],
        "complete": exported.get("is_complete") is not False and not exported.get("was_cancelled"),
        "metrics": metrics,
    }


def page(record: Mapping[str, Any]) -> str:
    """Format the page."""
    where, aiperf = record["environment"], record["aiperf"]
    about = where["machine"]
    lines = [
        "# A service measured by AIPerf",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}; AIPerf {aiperf['version']}; {about['processor']}, "
        f"{about['usable_cores']} cores, which it shares with the service. Service: {record['service']}.",
        "",
        f"    aiperf {' '.join(aiperf['arguments'])}",
        "",
        f"**{record['requests']} requests succeeded, {record['errors']} failed"
        f"{'' if record['complete'] else '; the run was not complete'}.**",
        "",
        f"| figure | unit | {' | '.join(STATISTICS)} |",
        f"|---|---|{'---|' * len(STATISTICS)}",
    ]
    for name, row in record["metrics"].items():
        if row["unit"].startswith("tokens"):
            continue  # those of prompts that it made up, or of text that a video does not have
        cells = [f"{row[key]:,.2f}" if key in row else "" for key in STATISTICS]
        lines.append(f"| {SHOWN.get(name, name.replace('_', ' '))} | {row['unit']} | {' | '.join(cells)} |")
    for error in record["error_summary"]:
        lines += ["", f"{error.get('count')} times: `{json.dumps(error.get('error_details'))}`"]
    if (warning := busy(about)) is not None:
        lines += ["", warning]
    return "\n".join(lines) + "\n"


def _nano(folder: Path, stack: ExitStack) -> str:
    """Start a service with nano, which ends with the stack; return its HTTP address.

    Raises:
        BenchmarkError: it does not start.
    """
    from zoetrope.serving.cli.errors import CliError
    from zoetrope.serving.cli.service import ServiceProcess, private_env, serve_command

    process = ServiceProcess(serve_command("nano", folder / "data"), folder / "service.log", private_env())
    stack.callback(process.stop)
    try:
        return f"http://{process.wait_ready(READY_SECONDS).http}"
    except CliError as error:
        raise BenchmarkError(f"the service: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser, positive = command.parser("aiperf", __doc__), command.at_least(1)
    parser.add_argument("--url", help="of a service that runs already (default: start one with nano)")
    parser.add_argument("--model", default="nano", help="as GET /v1/models lists it (default: nano)")
    parser.add_argument("--requests", type=positive, default=20, help="(default: 20)")
    parser.add_argument("--concurrency", type=positive, default=4, help="requests at a time (default: 4)")
    parser.add_argument("--size", default="64x48", help="of the clips (default: 64x48)")
    parser.add_argument("--frames", type=positive, default=9, help="of the clips (default: 9)")
    parser.add_argument("--steps", type=positive, default=4, help="denoising steps (default: 4)")
    parser.add_argument("--extra", action="append", metavar="NAME:VALUE", help="fields in place of these; repeatable")
    parser.add_argument("--aiperf", help="its program (default: that of make aiperf, else on the PATH)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    path = program(args.aiperf)
    if path is None:
        print(f"error: {LACKING}", file=sys.stderr)
        return 2
    if args.concurrency > args.requests:
        parser.error(f"--concurrency: {args.concurrency} must be at most --requests, {args.requests}")
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = args.url or _nano(folder / "service", stack)
            given = arguments_of(args, url, folder / "artifacts")
            (folder / "artifacts").mkdir()
            exported = run(path, given, folder / "artifacts")
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    record = record_of(exported, command.command_line("aiperf", arguments), given, args.url is not None)
    text = page(record)
    command.write_results(args.out, record, text)
    print(text)
    return 0 if record["errors"] == 0 and record["requests"] == args.requests and record["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
