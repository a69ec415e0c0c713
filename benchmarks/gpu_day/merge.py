"""Put what a GPU day gave back into the repository: proofs, tiles, tables and plots, under the device's name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.command import write_json
from zoetrope.benchmarks.gpu_day import archive, outcome, page
from zoetrope.benchmarks.gpu_day.outcome import StageOutcome
from zoetrope.benchmarks.kernels import merge as kernels
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.kernels.gpu.tiles import DATA, DEVICES
from zoetrope.model.denoising.graph_proofs import PROOFS, GraphProof, proof_of, record

RESULTS = REPOSITORY / "benchmarks" / "results"


class Refused(ValueError):
    """Results that must not become figures of this project."""


def merge(path: Path, results: Path = RESULTS, data: Path = DATA, graphs: Path = PROOFS) -> list[str]:
    """Merge an archive; nothing is written if any of it is refused.

    Args:
        results: folder of tables and plots. data: folder of kernels' proofs and tiles. graphs: file of the proofs of
            CUDA graphs.

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
        proofs = _graph_proofs(work, found, device)
        lines = _kernels(work, found, device, results / "kernels", data)
        lines += _merge_graphs(proofs, graphs)
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
    if not devices[0] or kernels.FAKE in devices[0].lower():
        raise Refused(f"device is {devices[0]!r}: it must be a GPU")
    return devices[0]


def _stored(work: Path, found: Iterable[StageOutcome], pattern: str) -> Iterable[tuple[StageOutcome, Path, Any]]:
    for one in found:
        for path in sorted((work / one.stage).glob(pattern)):
            yield one, path, json.loads(path.read_text())


def _kernels(work: Path, found: Sequence[StageOutcome], device: str, results: Path, data: Path) -> list[str]:
    """Merge proofs, tiles and times of the kernel benchmark. Raises Refused if any are of another device."""
    there = False
    for one, path, stored in _stored(work, found, "kernels/*.json"):
        there = True
        others = {run["device"] for run in stored["runs"].values()} - {device}
        if stored["notice"] or others:
            raise Refused(f"{one.stage}/{path.name} is of {stored['notice'] or ', '.join(others)}, not of {device}")
    return list(dict.fromkeys(kernels.merge([work], results, data))) if there else []


def _graph_proofs(work: Path, found: Sequence[StageOutcome], device: str) -> list[GraphProof]:
    """Return the proofs of CUDA graphs. Raises Refused if any are of another device."""
    entries: list[GraphProof] = []
    for one, _, stored in _stored(work, found, "graphs.json"):
        entries += [proof_of(network["proof"]) for network in stored["networks"]]
        others = sorted({entry.device for entry in entries} - {device})
        if others:
            raise Refused(f"{one.stage} is of {', '.join(others)}, not of {device}")
    return entries


def _merge_graphs(proofs: Sequence[GraphProof], path: Path) -> list[str]:
    """Write the proofs of CUDA graphs to a file; those that are not right are left out there."""
    if not proofs:
        return []
    record(proofs, path)
    return [
        f"{proof.network}: {f'CUDA graphs up to {proof.tokens} tokens' if proof.right else 'CUDA graphs are not right'}"
        for proof in proofs
    ]


def _key(row: dict[str, Any], quantize: str) -> str:
    """Return what a step is called; one in 8 bits is compared with no published one."""
    return f"{row['preset']} {row['size']}" + ("" if quantize == "none" else f" {quantize}")


def _write_day(work: Path, found: Sequence[StageOutcome], device: str, name: str, folder: Path) -> list[str]:
    steps = [
        {**row, "key": _key(row, stored["quantize"]), "device": stored["device"], "stage": one.stage}
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
        "graphs": [
            {"preset": network["preset"], "quantize": network["quantize"], **row}
            for _, _, stored in _stored(work, found, "graphs.json")
            for network in stored["networks"]
            for row in network["rows"]
        ],
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
