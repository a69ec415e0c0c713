"""The figures that documents quote from result files: for each, what the page must say, made from the file.

Whoever measures again changes the page, not this list; whoever quotes another figure adds a claim.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from zoetrope.benchmarks.results_files import RESULTS

Json = Mapping[str, Any]
BENCHMARKS, README = "docs/benchmarks.md", "README.md"


@dataclass(frozen=True)
class Claim:
    """Words of a page that come from a result file; the line that has them links to the file or its page.

    Attributes:
        says: returns each piece of text that the line must have, from what the file holds.
    """

    page: str
    result: str
    says: Callable[[Json], tuple[str, ...]]

    def __str__(self) -> str:
        return f"{self.page} {self.result}"

    def texts(self) -> tuple[str, ...]:
        """Return what the page must say."""
        return self.says(load(f"{self.result}.json"))


@cache
def load(name: str) -> Json:
    """Return a committed result file."""
    found: Json = json.loads((RESULTS / name).read_text())
    return found


def _gateway(record: Json) -> tuple[str, ...]:
    rate = record["sizes"]["rate"]
    found = {one["database"]: {load["what"]: load for load in one["loads"]} for one in record["databases"]}
    full = [found[name][f"{rate:,.0f}/s offered"] for name in ("SQLite", "PostgreSQL")]
    half = [found[name][f"{rate / 2:,.0f}/s offered"] for name in ("SQLite", "PostgreSQL")]
    made = {f"{load['per_second']:.0f}" for load in full}
    late, early = (" and ".join(f"{load['gets']['p99']:.0f}" for load in loads) for loads in (full, half))
    return (
        f"{' and '.join(sorted(made))} of {rate:,.0f} creates a second that were offered, on SQLite and on PostgreSQL",
        f"a get took {late} ms (p99), at half of it {early} ms",
    )


def _gateway_of_the_readme(record: Json) -> tuple[str, ...]:
    rate = record["sizes"]["rate"]
    sqlite = next(one for one in record["databases"] if one["database"] == "SQLite")
    made = next(load["per_second"] for load in sqlite["loads"] if load["what"] == f"{rate:,.0f}/s offered")
    return (f"creates, {rate:,.0f} a second offered", f"{made:.0f} a second on SQLite")


def _core_of_a_gateway(record: Json) -> tuple[str, ...]:
    """A round number below what is computed for a whole core; the flood is what a core was seen to make."""
    rates = [load["per_second"] / load["shares"]["gateway"] for one in record["databases"] for load in one["loads"][:3]]
    return (f"a gateway's core for every {500 * (min(rates) // 500):.0f} jobs",)


def _snapshots(record: Json) -> tuple[str, ...]:
    share = next(row["waited_share"] for row in record["measured"] if row["variant"] == "default")
    return (f"steps waited {100 * share:.4f} % of their time at the default setting",)


def _snapshot_settings(record: Json) -> tuple[str, ...]:
    settings = record["measured_on"]["settings"]
    return (f"one every {settings['snapshot_seconds']:g} s if that costs less than {100 * record['goal']:g} % of",)


def _quiet(record: Json) -> str:
    """Whether the machine was idle, by the limit that all results have."""
    about = record["environment"]["machine"]
    return "on an idle machine" if about["idle"] else f"not idle (load average {about['load_average'][0]:.2f} before)"


def _cold_start(record: Json) -> tuple[str, ...]:
    seconds = record["seconds"]
    return (
        f"{seconds['now']['total']:.0f} s with {record['bytes'] / 1e9:.1f} GB of weights",
        f"{seconds['naive']['total']:.0f} s when everything is done one after the other",
        f"Goal, {record['goal']:g} x: {'met' if record['goal_met'] else 'not met'}",
        _quiet(record),
    )


def _packed(record: Json) -> tuple[str, ...]:
    busy = record["nano"]["together"]["busy_of_denoising"]
    return (
        f"{record['jobs']} small dense jobs take 1 / {record['ratio_to_diffusers']:.2f} of the time",
        f"{100 * busy:.1f} % of the time between nano's first and last step",
    )


def _scheduling(record: Json) -> tuple[str, ...]:
    first, *_, last = record["policies"].values()
    flood, gained = record["flood"], last["jobs_per_minute"] / first["jobs_per_minute"] - 1
    return (
        f"99 % of small ones are done {first['small_p99'] / last['small_p99']:.1f} times sooner",
        f"at {100 * abs(gained):.1f} % {'more' if gained > 0 else 'less'} throughput",
        f"takes {flood['alone']:.2f} s alone and {flood['among']:.2f} s among another's {record['settings']['flood']}",
        f"{flood['among'] / flood['alone'] - 1:.1f} of its own times later",
        f"share steps and take {flood['many_job']:.2f} s each",
    )


def _listed(values: list[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def _loads(record: Json) -> tuple[str, ...]:
    points = {(point["policy"], point["load"]): point["figures"] for point in record["points"]}
    loads = record["settings"]["loads"]

    def figures_of(policy: str) -> list[Json]:
        return [points[policy, load] for load in loads]

    middle = {
        policy: _listed([f"{points[policy, load]['latency']['p50']:.1f}" for load in loads])
        for policy in ("fifo", "fair")
    }
    met = {
        policy: _listed([f"{100 * points[policy, load]['slo_attainment']:.1f}" for load in loads])
        for policy in ("fifo", "fair")
    }
    alone = f"within {record['settings']['slo']:g} times their time alone"
    (large,) = {row["class"] for row in figures_of("fair")[0]["classes"] if "40 steps" in row["class"]}
    tail = {
        policy: _listed([f"{_class(found, large)['latency']['mean']:.1f}" for found in figures_of(policy)])
        for policy in ("fifo", "fair")
    }
    (count,) = {_class(found, large)["jobs"] for policy in ("fifo", "fair") for found in figures_of(policy)}
    for point in record["points"]:
        assert abs(point["share_of_capacity"]["tokens"] - point["load"]) < 1e-6, "what is offered is what is said"
    return (
        f"at {_listed([f'{load:g}' for load in loads])} of nano's capacity",
        f"which was {record['capacity']['per_second']:.1f} jobs a second",
        f"took {middle['fifo']} s (p50) first come, first served, and {middle['fair']} s under `fair`",
        f"{met['fifo']} % against {met['fair']} % were done {alone}",
        f"the {count} long ones took {tail['fifo']} s on average, and {tail['fair']} s under `fair`",
        f"{record['settings']['jobs']} jobs of {record['settings']['tenants']} tenants",
        _quiet(record),
    )


def _class(found: Json, name: str) -> Json:
    row: Json
    (row,) = (row for row in found["classes"] if row["class"] == name)
    return row


def _load_faults(record: Json) -> tuple[str, ...]:
    (point,) = record["points"]
    cost = point["faults"]
    lost = "none" if not cost["lost"] else str(cost["lost"])
    return (
        f"{lost} of {cost['accepted']} jobs was lost",
        f"{cost['steps_redone']} steps were taken again beside {cost['steps_needed']:,}",
        f"{cost['most_redone_by_a_job']} of one job at most",
        f"found {_listed([str(struck['under_way']) for struck in cost['struck']])} jobs under way",
        *([] if all(struck["hit"] for struck in cost["struck"]) else ["hit no job"]),
        f"{100 * point['figures']['gpu_busy_share']:.0f} % busy",
        _quiet(record),
    )


def _decisions(record: Json) -> tuple[str, ...]:
    row = record["rows"]["fair"]
    return (
        f"with {record['settings']['waiting']:,} jobs queued",
        f"{row['median_ms']:.1f} ms of the processor under `fair`, {row['p99_ms']:.1f} ms at 99 %",
        f"the longest of {record['settings']['decisions']} took {row['max_ms']:.1f} ms",
    )


def _compared(record: Json) -> tuple[str, ...]:
    return (
        f"{record['jobs']} small jobs of nano took {record['measured']['mean']:.2f} s on average",
        f"{record['simulated']['mean']:.2f} s simulated, a ratio of {record['ratio']:.3f}",
    )


def _simulated(record: Json) -> tuple[str, ...]:
    in_time = {run["policy"]: round(run["slo_attainment"] * run["jobs"]) for run in record["runs"]}
    best = max((policy for policy in in_time if policy != "fair"), key=lambda policy: in_time[policy])  # the first one
    return (
        f"on {record['fleet']['gpus']} GPUs, {in_time['fair']:,} of {record['trace']['jobs']:,} jobs",
        f"within {record['slo']:g} times what they take alone",
        f"{in_time['fifo']:,} first come, first served, and {in_time[best]:,} under `{best}`",
    )


def _bursts(record: Json) -> tuple[str, ...]:
    fair, fifo = ({run["policy"]: run for run in record["runs"]}[policy] for policy in ("fair", "fifo"))
    largest = max(fair["classes"], key=lambda shape: fair["classes"][shape]["solo"])
    ours, theirs = (run["classes"][largest] for run in (fair, fifo))
    return (
        *_simulated(record),
        f"the largest clips take {ours['mean']:,.0f} s on average under `fair` (p95 {ours['p95']:,.0f})",
        f"{theirs['mean']:,.0f} s first come, first served (p95 {theirs['p95']:,.0f})",
        f"99 % of all jobs {fair['latency']['p99']:,.0f} s against {fifo['latency']['p99']:,.0f}",
    )


def _prices(record: Json) -> tuple[str, ...]:
    found = record["summary"]
    return (
        f"{100 * found['median']:.1f} % of what was used (median of {found['jobs']:.0f} jobs on nano)",
        f"{100 * found['within_goal']:.0f} % of the jobs within {100 * record['goal']:.0f} %",
        f"all together {100 * found['total']:+.1f} %",
    )


def _elastic(record: Json) -> tuple[str, ...]:
    *fixed, elastic = (run["slo_attainment"] for run in record["runs"])
    return (
        f"{100 * elastic:.1f} % of {record['trace']['jobs']:,} jobs in time",
        f"{100 * max(fixed):.1f} % with the best fixed ones: {100 * (elastic - max(fixed)):+.1f} points",
    )


def _eta(record: Json) -> tuple[str, ...]:
    found = {
        row["stage"]: f"{100 * row['median']:.1f} % of the job's duration (p90 {100 * row['p90']:.1f} %;"
        f" {row['samples']} estimates of {row['jobs']} jobs)"
        for row in record["rows"]
    }
    price = record["price"]
    return (
        f"while queued {found['queued']}, while running {found['running']}",
        f"{record['measured_on']['jobs']} mixed jobs",
        f"a price is {100 * price['median']:.1f} % off what was used (p90 {100 * price['p90']:.1f} %)",
    )


def _busy(record: Json) -> tuple[str, ...]:
    ratio = {row["way"]: f"{row['ratio']:.1f}" for row in record["rows"]}
    return (
        f"{ratio['ours']} times its time on a quiet machine, through a service",
        f"spinning threads would make it {ratio['spinning']} times",
    )


def _aiperf(record: Json) -> tuple[str, ...]:
    given = record["aiperf"]["arguments"]
    asked, together = (given[given.index(name) + 1] for name in ("--request-count", "--concurrency"))
    assert record["requests"] + record["errors"] == int(asked) and record["complete"]
    return (f"{asked} requests to nano, {together} at a time: {record['errors']} failed",)


def _compile(record: Json) -> tuple[str, ...]:
    gains = [rung["gain"] for rung in record["rungs"]]
    return (f"{min(gains):.2f} to {max(gains):.2f} times",)


def _model(record: Json) -> tuple[str, ...]:
    rows, batch = [row for row in record["diffusers"]["rows"] if row["way"] == "eager"], record["diffusers"]["batch"]
    speeds, tokens = ([row[name] for row in rows] for name in ("speed", "tokens"))
    return (
        f"{min(speeds):.2f} to {max(speeds):.2f} times as fast as its WanPipeline",
        f"at {min(tokens)} to {max(tokens):,} tokens",
        f"{batch['jobs']} mixed small clips in one batch {batch['speed']:.2f} times",
    )


def _scaling(record: Json) -> tuple[str, ...]:
    gpus = [point["gpus"] for point in record["points"]]
    return (f"{min(gpus)} to {max(gpus)} GPUs",)


def _four_steps(record: Json) -> tuple[str, ...]:
    """The exact clips of the same cases are those of the benchmark of 8-bit weights."""
    exact = load("quantized-quality-clips.json")["clips"]
    lost, cases = [], {task["cases"] for task in record["tasks"].values()}
    for kind, task in record["tasks"].items():
        clips = exact[kind][: task["cases"]]
        for name, row in task["measures"].items():
            pairs = [clip["measures"][name] for clip in clips if name in clip["measures"]]
            if row["unit"] == "%" and pairs:
                assert len(pairs) == row["cases"], f"{kind}, {name}: not the same cases"
                lost.append(100 * sum(before for before, _ in pairs) / len(pairs) - row["value"])
    steps = load("quantized-quality.json")["measured"]["steps"]
    (count,) = cases
    return (
        f"{max(lost):.1f} points",
        f"{record['steps']} forward passes in place of {2 * steps}",
        f"the same {count} held-out cases",
        f"that of {steps} steps with guidance",
    )


def _adapters(record: Json) -> tuple[str, ...]:
    more = [100 * row[kind]["more"] for row in record["rows"] for kind in ("one", "mixed")]
    ranks, widths = ({row[name] for row in record["rows"]} for name in ("rank", "width"))
    (rank,), (width,) = ranks, widths
    (multiplied,) = {round(100 * row["one"]["flops_more"]) for row in record["rows"]}
    return (
        f"[{min(more):.0f} to {max(more):.0f} % at rank {rank}]",
        f"{width} wide, where one multiplies {multiplied} % more",
    )


def _cached(record: Json) -> tuple[str, ...]:
    tasks = record["variants"]["balanced"].values()
    (cases,) = {task["cases"] for task in tasks}
    before, after = zip(*(task["forwards"] for task in tasks), strict=True)
    assert 0.4 < sum(after) / sum(before) < 0.55, "half of the forwards"
    same = all(row["difference"] == 0 for task in tasks for row in task["measures"].values() if row["unit"] == "%")
    return (f"half of the forwards {'leave nano' if same else 'change nano'}'s scores", f"{cases} cases a task")


def _quality(record: Json) -> tuple[str, ...]:
    speed = {name: row for name, row in record["options"].items() if not row["floor"]}
    few, many = (chosen(row["clips"] for row in speed.values()) for chosen in (min, max))
    lost, won = (sum(row[name] for row in speed.values()) for name in ("lost", "won"))
    tasks = len({kind for row in speed.values() for kind in row["tasks"]})

    def told(name: str) -> str:
        return f"{speed[name]['gain']['times']:.2f} times fewer forwards at {speed[name]['frames_psnr']['mean']:.1f} dB"

    return (
        f"{few} clips" if few == many else f"{few} to {many} clips",
        f"of {tasks} tasks",
        f"{lost} became wrong and {won} right",
        f"balanced has {told('balanced')}",
        f"guidance in half of the steps {told('guidance-0-0.5')}",
    )


def _peers(record: Json) -> tuple[str, ...]:
    ours, theirs = record["peers"][:2]
    assert theirs["name"] == record["reference"] == "diffusers" and record["clock"] == "cpu"
    return (
        f"{1e3 * ours['step']:.0f} ms of the processor a step, theirs {1e3 * theirs['step']:.0f}",
        f"a whole run of the command takes {ours['seconds']:.1f} s, theirs {theirs['seconds']:.1f}",
        f"frames are as diffusers' to {ours['psnr']:.0f} dB",
    )


def _nano(record: Json) -> tuple[str, ...]:
    task = record["tasks"]["text_to_video"]
    colour, shape = (f"{task['measures'][name]['value']:.1f}" for name in ("color", "shape"))
    return (
        f"nano, text to video, {task['cases']} prompts",
        f"{colour} % right colour, {shape} % right shape",
    )


def _soak_of_the_readme(record: Json) -> tuple[str, ...]:
    assert not record["problems"]
    return (f"{record['jobs']} jobs under {len(record['struck'])} kills and faults", "none lost, none doubled")


def _soak(record: Json) -> tuple[str, ...]:
    assert not record["problems"]
    kills = sorted(one["healed"] for one in record["struck"] if one["fault"].startswith("kill"))
    assert all(one["healed"] is not None for one in record["struck"])
    return (
        f"{record['jobs']} jobs and {len(record['struck'])} faults in {record['seconds']:.0f} s",
        f"{record['files']} files decoded, {record['events']:,} webhook events",
        f"a new job was done {kills[0]:.0f} to {kills[-1]:.0f} s after a kill, {median(kills):.0f} s in the middle",
    )


CLAIMS = (
    Claim(README, "nano", _nano),
    Claim(README, "soak", _soak_of_the_readme),
    Claim("docs/promises.md", "soak", _soak),
    Claim(BENCHMARKS, "gateway", _gateway),
    Claim(README, "gateway", _gateway_of_the_readme),
    Claim("docs/operations/runbook.md", "gateway", _core_of_a_gateway),
    Claim(BENCHMARKS, "snapshot-cost", _snapshots),
    Claim("docs/promises.md", "snapshot-cost", _snapshot_settings),
    Claim("docs/gpus.md", "snapshot-cost", lambda record: (f"costs less than {100 * record['goal']:g} % of the time",)),
    Claim(BENCHMARKS, "cold-start", _cold_start),
    Claim(BENCHMARKS, "packed-throughput", _packed),
    Claim(BENCHMARKS, "scheduling", _scheduling),
    Claim(BENCHMARKS, "serving-load", _loads),
    Claim(BENCHMARKS, "serving-faults", _load_faults),
    Claim(BENCHMARKS, "simulate", _simulated),
    Claim(BENCHMARKS, "simulate-bursty", _bursts),
    Claim(BENCHMARKS, "simulate-elastic", _elastic),
    Claim(BENCHMARKS, "price-error", _prices),
    Claim(BENCHMARKS, "simulate-compare", _compared),
    Claim(BENCHMARKS, "decision-time", _decisions),
    Claim(BENCHMARKS, "eta-error", _eta),
    Claim(BENCHMARKS, "busy-service", _busy),
    Claim(BENCHMARKS, "compile-gain", _compile),
    Claim(BENCHMARKS, "model-steps", _model),
    Claim(BENCHMARKS, "aiperf", _aiperf),
    Claim(BENCHMARKS, "scaling", _scaling),
    Claim("docs/gpus.md", "scaling", _scaling),
    Claim(BENCHMARKS, "nano-4step", lambda record: _four_steps(record)[:2]),
    Claim("docs/nano.md", "nano-4step", lambda record: (_four_steps(record)[0], *_four_steps(record)[2:])),
    Claim("docs/models.md", "adapters", _adapters),
    Claim(README, "cached-quality", _cached),
    Claim(BENCHMARKS, "quality", _quality),
    Claim("docs/faster.md", "quality", lambda record: _quality(record)[:3]),
    Claim(BENCHMARKS, "peers", _peers),
)
