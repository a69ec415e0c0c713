"""What the benchmarks' command lines share."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from zoetrope.benchmarks.command import parser, write_json
from zoetrope.benchmarks.schema.commands import COMMANDS
from zoetrope.serving.cli import main as zoetrope


def test_a_number_that_is_none_is_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"p50": math.nan, "rows": [{"most": math.inf}, (1.5, 2)], "text": "NaN"})
    text = (tmp_path / "deep" / "a.json").read_text()
    assert json.loads(text) == {"p50": None, "rows": [{"most": None}, [1.5, 2]], "text": "NaN"}


def test_a_usage_names_what_users_type() -> None:
    assert parser("model_steps", "x").prog == "zoetrope bench model"
    assert parser("smoke", "x").prog == "zoetrope bench smoke"
    assert parser("step", "x").prog == "python -m zoetrope.benchmarks.step"


def test_the_help_has_a_whole_sentence_of_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoetrope(["bench", "--help"]) == 0
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    sentences = {words[0]: words[1] for words in told if words[0] in COMMANDS}
    assert sentences.keys() == COMMANDS.keys()
    assert [text for text in sentences.values() if text.endswith("...") or not text.endswith(".")] == []
