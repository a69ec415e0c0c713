"""The comparison with DeepSpeed's layers runs, agrees with them, and says what it is."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from zoetrope.benchmarks.parallel_peers import LABEL, main


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.timeout(400)
def test_both_sides_make_the_same_and_are_timed_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "peers.json"
    command = ["--tokens", "24", "--repeats", "2", "--out", str(out)]
    assert main(command) == 0
    record = json.loads(out.read_text())
    assert LABEL in capsys.readouterr().out
    assert record["label"] == LABEL
    assert record["environment"]["command"] == "python -m zoetrope.benchmarks.parallel_peers " + " ".join(command)
    assert (record["ranks"], record["shape"]["tokens"]) == (2, 24)
    assert [row["what"] for row in record["rows"]] == ["experts", "attention"]
    for row in record["rows"]:
        assert row["difference"] < 1e-5
        assert row["ours"] > 0 and row["deepspeed"] > 0
        assert row["ratio"] == pytest.approx(row["deepspeed"] / row["ours"])


def test_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--tokens", "0"])
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err
