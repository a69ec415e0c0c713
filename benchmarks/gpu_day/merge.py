"""Put what a GPU day gave back into the repository: proofs, tiles, tables and plots, under the device's name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.command import write_json
from zoetrope.benchmarks.gpu_day import archive, outcome, page
from zoetrope.benchmarks.gpu_day.outcome import StageOutcome
from zoetrope.benchmarks.kernels.plot import plot
from zoetrope.benchmarks.kernels.report import markdown
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.kernels.gpu.tiles import DATA, DEVICES
from zoetrope.kernels.select.fingerprint import fingerprint
from zoetrope.kernels.select.proofs import MODULES, PROOFS, load, record

RESULTS = REPOSITORY / "benchmarks" / "results"
FAKE = "fake"  # in the name of a device on which nothing is computed


class Refused(ValueError):
    """Results that must not become figures of this project."""


def merge(path: Path, results: Path = RESULTS, data: Path = DATA) -> list[str]:
    """Merge an archive; nothing is written if any of it is refused.

    Args:
        results: folder of tables and plots. data: folder of proofs and tiles.

    Returns:
        Lines that say what was written, and what was not and why.

    Raises:
        Refused: it is of a dry run, of no GPU, of several, or empty.
        ValueError: it is no archive of results.
    """
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        archive.unpack(path, work)
        found = [known for folder in sorted(work.iterdir()) if (known := outcome.read(folder)) is not None]
        found.sort(key=lambda one: one.started)
        device = _device(found)
        name = device_file(device)
        kernels = _kernel_results(work, found, device)
        lines = _proofs(work, found, kernels, data / PROOFS.name) + _tiles(work, found, data)
        if kernels:
            lines += _write_kernels(kernels, results / "kernels", name)
        lines += _write_day(work, found, device, name, results / "gpu-day")
    if any(one.commit is None for one in found):
        lines.append("warning: stages without a commit: set ZOETROPE_COMMIT where there is no git")
    return lines


def device_file(device: str) -> str:
    """Return the stem of a device's files: ``h100``, or its name in lower case."""
    return next((table for part, table in DEVICES.items() if part in device), "-".join(device.lower().split()))


def _device(found: Sequence[StageOutcome]) -> str:
    """Return the one GPU of all outcomes. Raises Refused as `merge`."""
    if not found:
        raise Refused("there is no valid outcome of a stage in it")
    dry = next((one for one in found if one.dry_run), None)
    if dry is not None:
        raise Refused(f"stage {dry.stage} was a dry run: nothing was computed, so there is nothing to merge")
    devices = sorted({one.device for one in found})
    if len(devices) > 1:
        raise Refused(f"its stages ran on {' and '.join(devices)}: results of one device at a time")
    if not devices[0] or FAKE in devices[0].lower():
        raise Refused(f"device is {devices[0]!r}: it must be a GPU")
    return devices[0]


def _stored(work: Path, found: Iterable[StageOutcome], pattern: str) -> Iterable[tuple[StageOutcome, Path, Any]]:
    for one in found:
        for path in sorted((work / one.stage).glob(pattern)):
            yield one, path, json.loads(path.read_text())


def _kernel_results(work: Path, found: Sequence[StageOutcome], device: str) -> list[Mapping[str, Any]]:
    """Return the result files of the kernel benchmark, oldest first. Raises Refused if one is of another device."""
    kernels = []
    for one, path, stored in _stored(work, found, "kernels/*.json"):
        others = {run["device"] for run in stored["runs"].values()} - {device}
        if stored["notice"] or others:
            raise Refused(f"{one.stage}/{path.name} is of {stored['notice'] or ', '.join(others)}, not of {device}")
        kernels.append(stored)
    return kernels


def _proofs(work: Path, found: Sequence[StageOutcome], kernels: Sequence[Mapping[str, Any]], target: Path) -> list[str]:
    """Record proofs of sources as they are now; revoke those of kernels that were wrong."""
    lines: list[str] = []
    proofs = []
    for one in found:
        for path in sorted((work / one.stage).glob(f"data/{PROOFS.name}")):
            for proof in load(path):
                if proof.fingerprint == fingerprint(MODULES[proof.op, proof.backend]):
                    proofs.append(proof)
                else:
                    lines.append(
                        f"not proved: {proof.op}/{proof.backend} {proof.dtype}: its sources have changed since"
                    )
    right = {proof.key for proof in proofs}
    wrong = {_kernel(entry) for stored in kernels for entry in stored["correctness"] if not entry["right"]}
    revoked = [one.key for one in load(target) if (one.op, one.backend, one.dtype, one.head_dim) in wrong]
    if proofs or revoked:
        record(proofs, failed=[key for key in revoked if key not in right], path=target)
    lines += [f"proved: {proof.op}/{proof.backend} {proof.dtype}" for proof in proofs]
    return lines + [f"WRONG: {op}/{backend} {dtype}" for op, backend, dtype, _ in sorted(wrong, key=str)]


def _kernel(entry: Mapping[str, Any]) -> tuple[str, str, str, int | None]:
    return entry["op"], entry["backend"], entry["dtype"], entry["head_dim"]


def _tiles(work: Path, found: Sequence[StageOutcome], data: Path) -> list[str]:
    lines = []
    for _, path, stored in _stored(work, found, "data/tiles-*.json"):
        target = data / path.name
        known = json.loads(target.read_text()) if target.is_file() else {"tiles": {}}
        known = {**known, "run": stored["run"], "tiles": dict(sorted({**known["tiles"], **stored["tiles"]}.items()))}
        write_json(target, known)
        lines.append(f"tiles: {len(stored['tiles'])} in {path.name}")
    return lines


# Lists of a result file, and what identifies the case that a newer run replaces.
CASES = {
    "rows": ("section", "case"),
    "verdicts": ("target", "case"),
    "correctness": ("op", "backend", "dtype", "head_dim"),
}


def together(kernels: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge result files of the kernel benchmark, the newest last: it replaces older runs of the same cases."""
    merged: dict[str, Any] = {"notice": None, "runs": {}, **{part: [] for part in CASES}}
    for stored in kernels:
        merged["runs"] |= stored["runs"]
        for part, names in CASES.items():
            new = {tuple(entry[name] for name in names) for entry in stored[part]}
            kept = [entry for entry in merged[part] if tuple(entry[name] for name in names) not in new]
            merged[part] = kept + list(stored[part])
    used = {entry["run"] for part in CASES for entry in merged[part]}
    merged["runs"] = {run: header for run, header in merged["runs"].items() if run in used}
    return merged


def _write_kernels(kernels: Sequence[Mapping[str, Any]], folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.json"
    older = [json.loads(path.read_text())] if path.is_file() else []
    merged = together([*older, *kernels])
    write_json(path, merged)
    path.with_suffix(".md").write_text(markdown(merged))
    reason = plot(merged, path.with_suffix(".png"))
    return [f"wrote {path}, {path.stem}.md, {f'no plot: {reason}' if reason else f'{path.stem}.png'}"]


def _write_day(work: Path, found: Sequence[StageOutcome], device: str, name: str, folder: Path) -> list[str]:
    steps = [
        {**row, "key": f"{row['preset']} {row['size']}", "device": stored["device"], "stage": one.stage}
        for one, _, stored in _stored(work, found, "step.json")
        for row in stored["rows"]
    ]
    day: dict[str, Any] = {
        "device": device,
        "name": name,
        "stages": [
            {key: getattr(one, key) for key in ("stage", "state", "reason", "commit", "started", "seconds", "limit")}
            for one in found
        ],
        "steps": steps,
        "decode": [row for _, _, stored in _stored(work, found, "decode.json") for row in stored["rows"]],
        "sanitizer": [row for _, _, stored in _stored(work, found, "sanitizer.json") for row in stored["rows"]],
        **{
            key: next((stored for _, _, stored in _stored(work, found, f"{key}.json")), None)
            for key in ("cache", "nano", "one-rank", "served-step")
        },
    }
    path = folder / f"{name}.json"
    write_json(path, day)
    path.with_suffix(".md").write_text(page.markdown(day))
    reason = page.plot(day, path.with_suffix(".png"))
    return [f"wrote {path}, {name}.md, {f'no plot: {reason}' if reason else f'{name}.png'}"]
