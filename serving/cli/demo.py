"""``make demo``: starts a service, makes one video over gRPC, probes the file and stops the service."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from zoetrope.serving.cli.errors import INTERRUPTED, CliError
from zoetrope.serving.cli.service import ServiceProcess, private_service, serve_command
from zoetrope.serving.media import MediaError, ProbedMedia, probe

PROMPT = "a red circle moving right on a white background"
READY_SECONDS = 180.0


def main() -> int:
    """Run the demo; the exit code is 0 only if the file is there and the service has stopped by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for everything the demo makes (default: out)"
    )
    parser.add_argument("--model", default="nano", help="preset or checkpoint folder (default: nano)")
    options = parser.parse_args()
    out: Path = options.out
    command = serve_command(options.model, fresh_folder(out / "demo-data"))
    started = time.monotonic()
    try:
        with private_service(command, out / "demo-service.log") as service:
            code = demonstrate(service, out / "demo.mp4", started)
            killed = service.stop()
    except CliError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except MediaError as error:
        print(f"error: {out / 'demo.mp4'}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted, the service has been stopped", file=sys.stderr)
        return INTERRUPTED
    if killed:
        print(f"error: had to kill processes of the service: {', '.join(killed)}", file=sys.stderr)
        return 1
    print(f"service stopped after {time.monotonic() - started:.0f} s in all")
    return code


def demonstrate(service: ServiceProcess, video: Path, started: float) -> int:
    """Make ``video`` with `zoetrope generate`, print what is in it, and return the exit code."""
    print("starting the service", flush=True)
    addresses = service.wait_ready(READY_SECONDS)
    print(f"ready after {time.monotonic() - started:.0f} s: grpc={addresses.grpc} http={addresses.http}")
    arguments = ["generate", PROMPT, "--server", addresses.grpc, "--size", "480p", "--duration", "2"]
    print(f'$ zoetrope generate "{PROMPT}" {" ".join(arguments[2:])} --out {video}', flush=True)
    command = [sys.executable, "-m", "zoetrope.serving.cli", *arguments, "--out", str(video)]
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        print(describe(probe(video)))
    return code


def describe(info: ProbedMedia) -> str:
    """Format what the probe found, one line per fact."""
    facts = {
        "container": info.container,
        "codec": f"{info.codec} {info.pixel_format}",
        "size": f"{info.width}x{info.height}",
        "length": f"{info.frames} frames at {info.fps:g} fps, {info.duration_seconds:.3f} s",
        "faststart": "yes" if info.faststart else "no",
    }
    return "\n".join(f"  {name:<10} {value}" for name, value in facts.items())


def fresh_folder(path: Path) -> Path:
    """Make an empty folder, whatever an earlier demo left there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
