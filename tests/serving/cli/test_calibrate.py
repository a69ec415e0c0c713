"""`zoetrope calibrate` as a user runs it: measures a model, keeps the list beside it, and requests then use it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.random_checkpoints import write_i2v, write_t2v
from zoetrope.model.caching.ratios import RATIOS_FILE
from zoetrope.model.catalog.presets import open_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import parse_request
from zoetrope.serving.cli import main

TASK = {"kind": "text_to_video", "prompt": "a red circle"}
SMALL: dict[str, Any] = {"task": TASK, "size": "32x32", "frames": 5, "guidance": 2.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_t2v(folder)
    return folder


def requests(path: Path, *rows: object) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def test_a_measured_model_takes_faster_requests(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = requests(tmp_path / "mine.jsonl", {**SMALL, "seed": 1}, {**SMALL, "seed": 2}, {**SMALL, "seed": 3})
    command = ["calibrate", str(checkpoint), "--requests", given, "--steps", "10", "--count", "2", "--quiet"]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "text_to_video: 10 steps, 2 clips"
    assert printed[1].startswith("  ratios   1.0000 ") and len(printed[1].split()) == 11
    words = printed[3].split()
    assert (words[0], len(words[1]), words[3:]) == ("fast", 10, ["of", "10", "steps", "computed"])
    assert printed[4] == f"wrote {checkpoint / RATIOS_FILE}"
    card = open_model(str(checkpoint))
    (found,) = card.step_ratios
    assert (found.steps, found.clips, found.sampler, found.flow_shift, found.guidance) == (
        *(10, 2),
        *("UniPCMultistepScheduler", 3.0, 2.0),
    )
    assert resolve(parse_request({**SMALL, "steps": 10, "quality": "fast"}), card, 1).step_mask == words[1]
    assert json.loads((checkpoint / RATIOS_FILE).read_text())["command"] == (
        f"zoetrope calibrate {checkpoint} --requests mine.jsonl --count 2 --steps 10"
    )


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        (["{"], (), "must hold one JSON object a line: "),
        (["[1]"], (), "must hold 1 to 1000 JSON objects, one a line"),
        ([], (), "must hold 1 to 1000 JSON objects, one a line"),
        ([{**SMALL, "frames": 0}], (), "number 1: frames: 0 must be from 1 to"),
        ([SMALL, {**SMALL, "quality": "fast"}], (), "number 2: quality is fast, must be exact"),
        ([SMALL, {**SMALL, "steps": 12}], (), "number 2: has 12 steps, others of text_to_video have 50; give --steps"),
        ([{**SMALL, "task": {"kind": "image_to_video", "prompt": "", "image": "absent.png"}}], (), "absent.png"),
        ([SMALL], ("--profile", "lightning"), "profile"),
        ([SMALL], ("--steps", "8"), "steps: 8 must be 9 or more: with fewer, every step is computed"),
    ],
)
def test_requests_that_cannot_be_measured(
    rows: list[Any], more: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    write_t2v(folder)
    assert main(["calibrate", str(folder), "--requests", requests(tmp_path / "mine.jsonl", *rows), *more]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: "), error
    assert not (folder / RATIOS_FILE).exists()


def test_models_that_need_requests_and_files_that_are_not_there(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_i2v(tmp_path / "i2v")
    assert main(["calibrate", str(tmp_path / "i2v")]) == 2
    assert "requests: must be given: i2v makes no clips of words alone" in capsys.readouterr().err
    assert main(["calibrate", str(checkpoint), "--requests", str(tmp_path / "absent")]) == 2
    assert "absent cannot be read: No such file" in capsys.readouterr().err
    assert main(["calibrate", str(checkpoint), "--count", "9"]) == 2
    assert "count: 9 must be at most 8" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    assert main(["calibrate", str(checkpoint)]) == 2
    assert f"model: {checkpoint} cannot be written to, where the list would be kept" in capsys.readouterr().err
