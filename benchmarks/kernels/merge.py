"""Put what runs with ``--out`` gave into the repository: proofs with their speeds, tiles, results, page and plot.

    python -m zoetrope.benchmarks.kernels.merge FOLDER [FOLDER ...]

Every folder is searched, with those in it. Proofs of code that has changed since are left out, kernels that were wrong
anywhere lose theirs, and results are put beside those of the same device.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.command import write_json
from zoetrope.benchmarks.kernels.plot import plot
from zoetrope.benchmarks.kernels.report import markdown
from zoetrope.benchmarks.kernels.results import merged_rows
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.kernels.gpu.tiles import DATA
from zoetrope.kernels.select.fingerprint import fingerprint
from zoetrope.kernels.select.proofs import MODULES, PROOFS, Proof, load, record

RESULTS = REPOSITORY / "benchmarks" / "results" / "kernels"
PARTS = {"runs", "rows", "verdicts", "correctness"}  # of a file of results
# What identifies an entry of these parts, which a newer run replaces.
FACTS = {"verdicts": ("target", "case"), "correctness": ("op", "backend", "dtype", "head_dim")}
FAKE = "fake"  # in the name of a device that computes nothing


def merge(folders: Iterable[Path], results: Path = RESULTS, data: Path = DATA) -> list[str]:
    """Merge all runs in some folders; nothing is written if any of them cannot be.

    Args:
        results: the folder of results, pages and plots. data: that of proofs and tiles.

    Returns:
        Lines that say what was merged, with the device, and what was not and why.

    Raises:
        ValueError: there is nothing to merge, or something is of no GPU.
    """
    paths = sorted({path for folder in folders for path in folder.rglob("*.json")})
    contents = [(path, json.loads(path.read_text())) for path in paths]
    found = [(path, value) for path, value in contents if isinstance(value, dict) and value.keys() >= PARTS]
    proofs = [proof for path in paths if path.name == PROOFS.name for proof in load(path)]
    tiles = [(path, value) for path, value in contents if path.name.startswith("tiles-")]
    if not (found or proofs or tiles):
        raise ValueError("there are no results, proofs or tiles in these folders")
    devices = {run["device"] for _, value in found for run in value["runs"].values()}
    devices |= {proof.device for proof in proofs} | {value["run"]["device"] for _, value in tiles}
    for path, value in found:
        if value["notice"]:
            raise ValueError(f"{path} is no result of a GPU: {value['notice']}")
    if fake := next((device for device in sorted(devices) if FAKE in device.lower()), None):
        raise ValueError(f"device is {fake!r}: nothing was computed there, so there is nothing to merge")
    return [
        *(_merge_tiles(data / path.name, value) for path, value in tiles),
        *_merge_proofs(proofs, [value for _, value in found], data / PROOFS.name),
        *(_merge_results(results / name, found) for name in sorted({path.name for path, _ in found})),
    ]


def _merge_tiles(target: Path, value: Mapping[str, Any]) -> str:
    stored = json.loads(target.read_text()) if target.is_file() else {"tiles": {}}
    tiles = dict(sorted({**stored["tiles"], **value["tiles"]}.items()))
    write_json(target, {**stored, "tiles": tiles, "run": value["run"]})
    return f"{value['run']['device']}: {len(value['tiles'])} tiles in {target.name}"


def _merge_proofs(proofs: Sequence[Proof], results: Sequence[Mapping[str, Any]], target: Path) -> list[str]:
    lines = []
    good = []
    for proof in proofs:
        name = f"{proof.device}: {proof.op}/{proof.backend} {proof.dtype}"
        name += "" if proof.head_dim is None else f" {proof.head_dim}"
        if proof.fingerprint != fingerprint(MODULES[proof.op, proof.backend]):
            lines.append(f"{name} is not proved: its code has changed since")
        else:
            good.append(proof)
            faster = sum(speed.ratio > 1 for speed in proof.speeds)
            lines.append(f"{name} is proved, faster than torch on {faster} of {len(proof.speeds)} classes of shapes")
    wrong = {
        (*(entry[fact] for fact in FACTS["correctness"]), value["runs"][entry["run"]]["capability"])
        for value in results
        for entry in value["correctness"]
        if not entry["right"]
    }
    if good or wrong:
        record(good, failed=wrong, path=target)
    return [*lines, *(f"WRONG: {'/'.join(map(str, key))}" for key in sorted(wrong, key=str))]


def _merge_results(target: Path, found: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    """Merge all files of results with the target's name into it, the oldest run first."""
    runs = [(run, value) for path, value in found if path.name == target.name for run in value["runs"]]
    merged: dict[str, Any] = {"notice": None, "runs": {}, "correctness": [], "verdicts": [], "rows": []}
    if target.is_file():
        merged |= json.loads(target.read_text())
    for number, (run, value) in enumerate(sorted(runs, key=lambda one: one[0])):
        name = f"{run} {number}" if run in merged["runs"] and merged["runs"][run] != value["runs"][run] else run
        merged["runs"][name] = value["runs"][run]
        of_run = {
            part: [{**entry, "run": name} for entry in value[part] if entry["run"] == run] for part in PARTS - {"runs"}
        }
        beside = value["runs"][run].get("selection") is not None
        merged["rows"] = merged_rows(merged["rows"], of_run["rows"], beside)
        for part, facts in FACTS.items():
            new = {tuple(entry[fact] for fact in facts) for entry in of_run[part]}
            kept = [entry for entry in merged[part] if tuple(entry[fact] for fact in facts) not in new]
            merged[part] = kept + of_run[part]
    used = {entry["run"] for part in PARTS - {"runs"} for entry in merged[part]}
    merged["runs"] = {run: header for run, header in merged["runs"].items() if run in used}
    write_json(target, merged)
    target.with_suffix(".md").write_text(markdown(merged))
    reason = plot(merged, target.with_suffix(".png"))
    devices = ", ".join(sorted({header["device"] for header in merged["runs"].values()}))
    return f"{devices}: {target.name}, {target.stem}.md, {f'no plot: {reason}' if reason else f'{target.stem}.png'}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m zoetrope.benchmarks.kernels.merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folder that --out named")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results go (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="where proofs and tiles go (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        lines = merge(args.folders, args.results, args.data)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
