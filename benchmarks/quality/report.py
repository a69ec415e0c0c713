"""The page: what each option gains and costs, and what changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoetrope.benchmarks.quality.pairs import POINTS
from zoetrope.benchmarks.quality.tables import run_lines
from zoetrope.model.nano.measures import MAX_PSNR

NOTE = (
    "All clips are nano's, of held-out cases; each is compared with the clip of the same case and noise that was made "
    "exactly, in the same run. A clip is *right* if the oracle finds in it everything that was asked for; *lost* and "
    "*won* count the clips that are right only exactly and only with the option. PSNR and SSIM (Gaussian windows of 11 "
    "pixels) are of the decoded frames, means over clips, with the worst clip beside; equal clips have "
    f"{MAX_PSNR:g} dB. Steadiness is VBench's temporal flickering, (255 - mean absolute difference of neighbouring "
    "frames) / 255, without its choice of clips that do not move. Seconds are of one CPU core for a clip, decoding "
    "included: with 8 bits they are those of a plain reference, slower than float32, and say nothing of a GPU."
)
SIZES = (
    "Bytes of weights are against float32, in which nano computes on a CPU; those of attention are of one call, "
    "against bfloat16; those of decoding are of tensors alive at a time, for a whole frame and for a tile. nano's "
    "decoder needs no tiles: here it is cut as Wan's are."
)
FLICKER = "Steadiness that differs from the exact clips' would be flicker, or motion lost."


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    about, options = record["measured"], record["options"]
    speed = {name: row for name, row in options.items() if not row["floor"]}
    floor = {name: row for name, row in options.items() if row["floor"]}
    lines = ["# Quality of what makes clips faster", *run_lines(record), ""]
    lines += [f"{about['model']}, {about['steps']} steps, cases of seed {about['seed']}. {_vmaf(record)}", ""]
    lines += [NOTE, "", SIZES]
    if record.get("plot"):
        lines += ["", f"![Gain over quality]({record['plot']})"]
    if speed:
        lines += ["", *_head("option", "gain", "seconds")]
        lines += [_line(row, _gain(row["gain"])) for row in speed.values()]
        lines += ["", FLICKER]
    if floor:
        lines += ["", "## What changes nothing", ""]
        lines += ["Differences below these are no option's: they come with the order of floating-point sums.", ""]
        lines += _head("what", "equal latents", "seconds")
        lines += [_line(row, f"{row['equal']} of {row['clips']}, {_error(row)}") for row in floor.values()]
    for name, row in speed.items():
        lines += ["", f"## {name}", "", f"{row['title'][0].upper()}{row['title'][1:]}.", *_tasks(row)]
    lines += ["", "## VBench", "", *_vbench(record["vbench"])]
    return "\n".join([*lines, ""])


COLUMNS = ("right", "lost, won", "PSNR (worst)", "SSIM (worst)", "VMAF (worst)", "steadiness")  # of `_quality`


def _head(*before: str, after: Sequence[str] = ()) -> list[str]:
    names = (*before, *COLUMNS, *after)
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _line(row: dict[str, Any], first: str) -> str:
    return f"| {row['title']} | {first} | {_pair(row['seconds'], '.2f')} | {_quality(row)} |"


def _quality(row: dict[str, Any]) -> str:
    cells = [f"{_pair(row['right'], '.1f')} %", f"{row['lost']}, {row['won']}"]
    cells += [_spread(row["frames_psnr"], ".1f", " dB"), _spread(row["ssim"], ".4f"), _spread(row["vmaf"], ".1f")]
    return " | ".join([*cells, _pair(row["steadiness"], ".4f")])


def _tasks(row: dict[str, Any]) -> list[str]:
    lines = ["", *_head("task", "cases", after=["shares"])]
    for kind, task in row["tasks"].items():
        shares = f"{'within' if task['within'] else 'beyond'} {POINTS:g} points"
        lines.append(f"| {kind} | {task['cases']} | {_quality(task)} | {shares} |")
    beyond = [
        f"{kind}: {name} {measure['exact']:.1f} -> {measure['other']:.1f} %"
        for kind, task in row["tasks"].items()
        if not task["within"]
        for name, measure in task["measures"].items()
        if measure["unit"] == "%" and measure["lost"] + measure["won"]
    ]
    return [*lines, "", f"What changed there: {'; '.join(beyond)}."] if beyond else lines


def _vmaf(record: dict[str, Any]) -> str:
    measured = record["vmaf"]
    if "reason" in measured:
        return f"VMAF was not measured: {measured['reason']}."
    return (
        f"VMAF by FFmpeg {measured['ffmpeg']}, of clips that were scaled up to {measured['lines']} lines or more: it "
        "was fitted to large pictures, and tells clips this small apart less well."
    )


def _vbench(found: dict[str, Any]) -> list[str]:
    note = "There is no VBench total: it is defined over VBench's own prompts alone."
    if "reason" in found:
        return [f"Not measured: {found['reason']}. {note}"]
    names = list(next(iter(found["scores"].values())))
    lines = [f"By vbench {found['version']}, of the clips of this run. {note}", ""]
    lines += [f"| option | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for option, scores in found["scores"].items():
        lines.append(f"| {option} | {' | '.join(f'{scores[name]:.4f}' for name in names)} |")
    return lines


def _gain(gain: dict[str, Any] | None) -> str:
    if gain is None:
        return ""
    if gain["of"] == "forwards":
        return f"{gain['times']:.2f} x fewer forwards ({gain['exact']:.0f} -> {gain['other']:.0f})"
    return f"{gain['times']:.2f} x fewer {gain['of']} ({gain['exact'] / 1e6:.2f} -> {gain['other'] / 1e6:.2f} MB)"


def _error(row: dict[str, Any]) -> str:
    return f"differ by {row['latents_error']['worst']:.1e} at most"


def _pair(values: list[float], form: str) -> str:
    return f"{values[0]:{form}} -> {values[1]:{form}}"


def _spread(found: dict[str, float] | None, form: str, unit: str = "") -> str:
    if found is None:
        return "not measured"
    return f"{found['mean']:{form}}{unit} ({found['worst']:{form}})"
