"""What the benchmarks' command lines share."""

from __future__ import annotations

import json
import math
from pathlib import Path

from zoetrope.benchmarks.command import write_json


def test_a_number_that_is_none_is_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"p50": math.nan, "rows": [{"most": math.inf}, (1.5, 2)], "text": "NaN"})
    text = (tmp_path / "deep" / "a.json").read_text()
    assert json.loads(text) == {"p50": None, "rows": [{"most": None}, [1.5, 2]], "text": "NaN"}
