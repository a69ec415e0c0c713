"""Rates of a GPU from measurements: the available results of `benchmarks.kernels` and `benchmarks.step`.

Kernels give the rates. Whole steps do not: they say how far a prediction from those rates is off (`check_steps`), and
that ratio corrects later predictions. So a check is never made against what it was made from.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoetrope.cluster.planning.hardware import Hardware
from zoetrope.cluster.planning.rates import Rates, roofline
from zoetrope.cluster.planning.step_time import step_seconds
from zoetrope.model.families import all_presets

log = logging.getLogger("zoetrope.engine")

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

# Kind of work -> section of the kernels' results, prefix of its cases, and the kernels of ours to choose from.
KERNELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "products": ("grouped_gemm", "14b", ("cublas bf16",)),  # plain linear layers are cuBLAS's, in the same shapes
    "experts": ("grouped_gemm", "27b", ("triton bf16",)),
    "attention": ("attention", "self", ("triton", "gluon")),
    "passes": ("passes", "", ("triton",)),
}


@dataclass(frozen=True)
class StepCheck:
    """A step measured on one GPU, with its prediction. ``ratio``: predicted over measured."""

    preset: str
    tokens: int
    forwards: int
    measured: float
    predicted: float
    where: str

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def rates_of(hardware: Hardware, results: Path | None = None) -> Rates:
    """Return measured rates where ``results`` has figures for this kind of GPU, else the roofline's; the notes say
    which.

    Args:
        results: a folder; None: the repository's.

    Raises:
        ValueError: a file of results is damaged.
    """
    results = RESULTS if results is None else results
    rates = _from_kernels(hardware, results)
    checks = check_steps(hardware, results)
    if checks:
        correction = statistics.median(1 / check.ratio for check in checks)
        files = ", ".join(sorted({check.where for check in checks}))
        note = f"whole steps took {correction:.3g} times what was predicted ({files}): measured, predictions corrected"
        rates = replace(rates, origin="calibrated", correction=correction, notes=(*rates.notes, note))
    return rates


def known_rates(hardware: Hardware) -> Rates:
    """`rates_of` in service: a damaged file is logged, and the roofline is used instead."""
    try:
        return rates_of(hardware)
    except ValueError as error:
        log.warning("measured rates are left out: %s", error)
        return roofline(hardware)


def check_steps(hardware: Hardware, results: Path) -> list[StepCheck]:
    """Compare every step of a preset that was measured on one such GPU with the prediction from the kernels' rates."""
    rates, presets = _from_kernels(hardware, results), all_presets()
    checks = []
    for path, record in _records(results, hardware, "step*.json"):
        for row in record.get("rows", []):
            preset = presets.get(row.get("preset"))
            if preset is not None and row.get("seconds"):
                tokens, forwards = int(row["tokens"]), int(row["forwards"])
                predicted = step_seconds(preset.config, [tokens] * forwards, rates)
                checks.append(StepCheck(preset.name, tokens, forwards, float(row["seconds"]), predicted, path.name))
    return checks


def _from_kernels(hardware: Hardware, results: Path) -> Rates:
    rates = roofline(hardware)
    found: dict[str, list[float]] = {kind: [] for kind in KERNELS}
    files: set[str] = set()
    for pattern in ("kernels*.json", "kernels/*.json"):
        for path, record in _records(results, hardware, pattern):
            for kind, values in _kernel_rates(record.get("rows", [])).items():
                found[kind] += values
                files.add(path.name)
    if not files:
        return rates
    measured = {kind: statistics.median(values) for kind, values in found.items() if values}
    assumed: dict[str, float] = {kind: getattr(rates, kind) for kind in KERNELS if kind not in measured}
    notes = [f"measured: {_listed(measured)} ({', '.join(sorted(files))})"]
    notes += [f"assumed: {_listed(assumed)}"] if assumed else []
    every = {**measured, **assumed}
    return Rates(
        hardware,
        products=every["products"],
        experts=every["experts"],
        attention=every["attention"],
        passes=every["passes"],
        origin="calibrated",
        notes=tuple(notes),
    )


def _kernel_rates(rows: list[Mapping[str, Any]]) -> dict[str, list[float]]:
    """One rate for each case: that of the fastest kernel."""
    found: dict[str, list[float]] = {}
    for kind, (section, start, names) in KERNELS.items():
        best: dict[str, float] = {}
        for row in rows:
            case = str(row.get("case", ""))
            work = row.get("moved" if kind == "passes" else "flops")
            counts = row.get("section") == section and case.startswith(start) and row.get("name") in names
            if counts and row.get("seconds") and work:
                best[case] = max(best.get(case, 0.0), float(work) / float(row["seconds"]))
        if best:
            found[kind] = list(best.values())
    return found


def _records(results: Path, hardware: Hardware, pattern: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The results for this kind of GPU; files of other devices are skipped.

    Raises:
        ValueError: a file is not a JSON object.
    """
    if not hardware.is_gpu:
        return
    for path in sorted(results.glob(pattern)):
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}: holds no JSON object")
        devices = {str(run.get("device")) for run in (record, *record.get("runs", {}).values())}
        if any(hardware.name.upper() in device.upper() for device in devices):
            yield path, record


def _listed(rates: Mapping[str, float]) -> str:
    units = {"passes": "TB/s"}
    return ", ".join(f"{kind} {rate / 1e12:.4g} {units.get(kind, 'TFLOP/s')}" for kind, rate in rates.items())
