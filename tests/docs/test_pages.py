"""What the documents say is what the code says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from PIL import Image

from tests.docs import benchmarks_table, capacity_table, commands_page, settings_page, small_gpus_table
from tests.docs.pages import ROOT, blocks
from zoetrope.cluster.telemetry import metrics  # noqa: F401  # which describes them
from zoetrope.cluster.telemetry.catalogue import ALL as METRICS
from zoetrope.serving.gateway.errors.api_error import HTTP_STATUS

MAX_README_LINES = 150
MAX_ANIMATION_BYTES = 1_000_000


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_ci_runs_the_command_that_the_readme_names() -> None:
    shell = "\n".join(block.text for block in blocks("sh") if block.page == "README.md")
    assert re.search(r"^make test\b", shell, re.MULTILINE)
    script = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert script[-1] == "exec make test"


def test_the_page_of_settings_is_current() -> None:
    page = (ROOT / "docs" / "operations" / "settings.md").read_text()
    assert page == settings_page.page(), "python -m tests.docs.settings_page > docs/operations/settings.md"


def test_the_page_of_commands_is_current() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert page == commands_page.page(), "python -m tests.docs.commands_page > docs/commands.md"


def test_the_capacity_table_is_the_planners() -> None:
    page = (ROOT / "docs" / "operations" / "runbook.md").read_text()
    assert capacity_table.table() in page, "python -m tests.docs.capacity_table"


def test_the_table_of_small_gpus_is_the_planners() -> None:
    page = (ROOT / "docs" / "gpus.md").read_text()
    assert small_gpus_table.table() in page, "python -m tests.docs.small_gpus_table"


def test_the_table_of_benchmarks_is_the_registrys() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert benchmarks_table.table() in page, "python -m tests.docs.benchmarks_table"


def test_every_setting_says_what_it_means() -> None:
    lacking = [row for row in settings_page.rows() if not row.rstrip("| ").endswith(".")]
    assert lacking == []


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs" / "operations" / "monitoring.md").read_text()
    documented = re.findall(r"^\| `(zoetrope_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", page, re.MULTILINE)
    assert sorted(documented) == sorted((m.name, ",".join(m.labels), m.kind) for m in METRICS.values())


def test_errors_have_the_status_that_is_documented() -> None:
    page = (ROOT / "docs" / "apis" / "index.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", page, re.MULTILINE)
    assert len(rows) > 5
    assert {code: int(status) for code, status in rows} == {code: HTTP_STATUS[code] for code, _ in rows}


def test_the_animation_moves_and_is_small() -> None:
    path = ROOT / "docs" / "nano" / "six-tasks.webp"
    assert path.stat().st_size < MAX_ANIMATION_BYTES
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) > 8


def test_diagrams_need_nothing_from_elsewhere() -> None:
    for path in (ROOT / "docs" / "images").glob("*.svg"):
        root = ET.parse(path).getroot()
        assert not [value for element in root.iter() for value in element.attrib.values() if "://" in value], (
            f"{path.name} refers to another file"
        )
