"""The runner of the GPU day on trivial stages: how they end, what is kept, and what a later call takes up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.trivial_day import day, machine, stage
from zoetrope.benchmarks.gpu_day import archive, carried, outcome
from zoetrope.benchmarks.gpu_day.outcome import InvalidOutcome, StageOutcome
from zoetrope.benchmarks.gpu_day.runner import alone
from zoetrope.benchmarks.provenance import REPOSITORY


def states(found: list[StageOutcome]) -> dict[str, str]:
    return {one.stage.removeprefix("stage-"): one.state for one in found}


def runs(counter: Path) -> int:
    return len(counter.read_text().splitlines()) if counter.is_file() else 0


def gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_every_way_in_which_a_stage_ends(tmp_path: Path) -> None:
    stages = [
        stage("pass", beside="x"),
        stage("wrong", beside="x"),
        stage("raise", beside="x"),
        stage("nothing", beside="x"),
        stage("absent", need="!no-such-program"),
        stage("lacking", need="no_such_module"),
    ]
    found = day(tmp_path / "work", tmp_path / "out", *stages)
    assert states(found) == {
        "pass": "passed",
        "wrong": "wrong",
        "raise": "failed",
        "nothing": "failed",
        "absent": "skipped",
        "lacking": "skipped",
    }
    reasons = [one.reason for one in found]
    assert reasons[0] == "" and "RuntimeError: it cannot be" in reasons[2] and "left no *.json" in reasons[3]
    assert reasons[4] == "no-such-program is not installed"
    for one in found:
        stored = outcome.load(tmp_path / "work" / one.stage)
        assert stored == one and (stored.device, stored.commit, stored.dry_run) == ("a GPU", "abc", False)
    assert found[0].command[:2] == ("python", "-m") and found[0].command[-1] == "{out}/found.json"
    assert set(found[0].files) == {"found.json", "log.txt"}
    assert archive.unpack(tmp_path / "out" / archive.NAME, tmp_path / "again") == sorted(one.stage for one in found)


def test_a_stage_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    (found,) = day(tmp_path / "work", tmp_path / "out", stage("hang", seconds=2.0))
    assert found.state == "timeout" and found.exit_code is None and found.seconds >= 2.0
    child = int(found.tail.split("child ")[1].split()[0])
    assert gone(child)


def test_what_is_settled_does_not_run_again(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    counters = {what: tmp_path / f"{what}.log" for what in ("pass", "wrong", "twice")}
    stages = [stage(what, counter=counter) for what, counter in counters.items()]
    assert states(day(work, out, *stages)) == {"pass": "passed", "wrong": "wrong", "twice": "failed"}
    assert states(day(work, out, *stages)) == {"pass": "passed", "wrong": "wrong", "twice": "failed"}
    assert [runs(counter) for counter in counters.values()] == [1, 1, 1]
    mended = day(work, out, *stages, on=machine("def"))
    assert states(mended) == {"pass": "passed", "wrong": "wrong", "twice": "passed"}, (
        "another commit may have mended it"
    )
    assert [runs(counter) for counter in counters.values()] == [1, 1, 2]
    assert [one.commit for one in mended] == ["abc", "abc", "def"]


def test_what_stopped_at_its_own_limit_goes_on_from_there(tmp_path: Path) -> None:
    work, out, counter = tmp_path / "work", tmp_path / "out", tmp_path / "runs.log"
    one = stage("partial", counter=counter)
    (first,) = day(work, out, one)
    assert (first.state, first.reason, first.complete) == ("partial", "out of time: run again", True)
    (second,) = day(work, out, one)
    assert (second.state, second.reason) == ("passed", "")
    assert states(day(work, out, one)) == {"partial": "passed"} and runs(counter) == 2


def test_what_no_time_was_left_for_runs_in_the_next_call(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    (late,) = day(work, out, stage("pass"), budget=1.0)
    assert (late.state, late.reason) == ("skipped", "no time was left")
    assert states(day(work, out, stage("pass"))) == {"pass": "passed"}
    (kept,) = day(work, out, stage("pass", need="no_such_module"), on=machine("def"))
    assert kept.state == "passed", "settled"


@pytest.mark.parametrize("damage", ["truncated", "changed", "lost", "renamed"])
def test_a_damaged_outcome_counts_as_none(tmp_path: Path, damage: str) -> None:
    work, out, counter = tmp_path / "work", tmp_path / "out", tmp_path / "runs.log"
    (one,) = day(work, out, stage("pass", counter=counter))
    folder = work / one.stage
    if damage == "truncated":
        (folder / outcome.FILE).write_text((folder / outcome.FILE).read_text()[:-40])
    elif damage == "changed":
        (folder / "found.json").write_text("{}")
    elif damage == "lost":
        (folder / "found.json").unlink()
    else:
        stored = json.loads((folder / outcome.FILE).read_text())
        (folder / outcome.FILE).write_text(json.dumps({**stored, "stage": "another"}))
    with pytest.raises(InvalidOutcome):
        outcome.load(folder)
    assert states(day(work, out, stage("pass", counter=counter))) == {"pass": "passed"} and runs(counter) == 2


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with alone(tmp_path / "work"), pytest.raises(ValueError, match="another run uses"):
        day(tmp_path / "work", tmp_path / "out", stage("pass"))
    assert states(day(tmp_path / "work", tmp_path / "out", stage("pass"))) == {"pass": "passed"}


@pytest.mark.parametrize("other", [machine(device="another GPU"), machine(dry_run=True)])
def test_devices_and_dry_runs_do_not_mix(tmp_path: Path, other: object) -> None:
    day(tmp_path / "work", tmp_path / "out", stage("pass"))
    with pytest.raises(ValueError, match="holds results of a GPU"):
        day(tmp_path / "work", tmp_path / "out", stage("pass"), on=other)  # type: ignore[arg-type]


def test_a_run_that_is_killed_loses_the_stage_it_was_in_and_no_other(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    command = [sys.executable, "-m", "tests.benchmarks.trivial_day", str(work), str(out), "pass", "wrong", "hang"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as run:
        assert run.stdout is not None
        lines = [run.stdout.readline().split(",")[0] for _ in range(5)]
        assert [line for line in lines if "started" not in line] == ["stage-pass: passed", "stage-wrong: wrong"]
        assert lines[-1] == "stage-hang: started"
        children = psutil.Process(run.pid).children()
        assert children
        run.kill()
    assert all(gone(child.pid) for child in children), "a stage does not outlive its run"
    assert [path.name for path in work.glob(".*")] and "stage-hang" not in {path.name for path in work.iterdir()}
    day(work, out)
    assert not list(work.glob(".*")), "what a killed run leaves is removed"
    shutil.rmtree(work)  # the machine keeps nothing but what came back
    assert archive.unpack(out / archive.NAME, work) == ["stage-pass", "stage-wrong"]
    counter = tmp_path / "runs.log"
    rest = [stage("pass", counter=counter), stage("wrong", counter=counter), stage("hang", seconds=1.0)]
    assert states(day(work, out, *rest)) == {"pass": "passed", "wrong": "wrong", "hang": "timeout"}
    assert runs(counter) == 0


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="no archive of results"):
        archive.unpack(tmp_path / "results.tar.gz", tmp_path / "work")


def test_carried_wheels_are_installed_without_a_network(tmp_path: Path) -> None:
    carry, target = tmp_path / "carry", tmp_path / "site"
    for name, version in (("zoetrope_carried", "1.0"), ("pydantic", "2.0")):  # the second is there already
        wheel = carry / carried.WHEELS / f"{name}-{version}-py3-none-any.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"{name}.py", "VALUE = 1\n")
            file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            file.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            file.writestr(f"{about}/RECORD", "")
    assert carried.install(carry, target) == ["zoetrope_carried-1.0-py3-none-any.whl"]
    assert (target / "zoetrope_carried.py").read_text() == "VALUE = 1\n" and not (target / "pydantic.py").exists()
    assert carried.install(carry, target) == []
    assert carried.install(tmp_path / "nothing", target) == []
