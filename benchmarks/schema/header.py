"""The part that all result files have in common: which command made them, of which code, when and where."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from zoetrope.benchmarks.schema.commands import COMMANDS

SHARE = Annotated[float, Field(ge=0, le=1)]
SECONDS = Annotated[float, Field(ge=0)]
COUNT = Annotated[int, Field(ge=0)]


class ResultRecord(BaseModel):
    """A JSON object of a result file: it may say more than its schema, but never a number that is none."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True, populate_by_name=True)


class MeasuredMachine(ResultRecord):
    """A machine. ``load_average`` is from before the run, of 1, 5 and 15 minutes; ``idle``: nothing else ran."""

    processor: str = Field(min_length=1)
    cores: int = Field(ge=1)
    usable_cores: int = Field(ge=1)
    load_average: list[float] = Field(min_length=3, max_length=3)
    idle: bool


class ResultHeader(ResultRecord):
    """Where figures come from, as `provenance.header` and `environment.header` write it.

    Attributes:
        command: what reproduces the file, in a shell at the repository's root.
        commit, changed: of the code; None if unknown. changed: Python files differed from the commit.
        seed: None if nothing is drawn.
        machine: results from before December 2026 may lack it.
        device, torch, ...: of benchmarks that compute with torch.
    """

    command: str = Field(pattern=r"^(python -m (zoetrope\.benchmarks|tests\.serving\.soak)\.|zoetrope bench )\w")
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    changed: bool | None
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    seed: int | None = None
    machine: MeasuredMachine | None = None
    device: str | None = None
    torch: str | None = None
    packages: dict[str, str] = {}

    @property
    def when(self) -> datetime:
        """Return the time of the run, in UTC."""
        return datetime.strptime(self.date, "%Y-%m-%dT%H:%M:%S%z")

    @property
    def benchmark(self) -> str:
        """Return the benchmark's name as the registry has it."""
        words = self.command.split()
        if words[0] == "zoetrope":  # zoetrope bench NAME
            return COMMANDS[words[2]].removeprefix("zoetrope.benchmarks.").partition(":")[0].partition(".")[0]
        return words[2].removeprefix("zoetrope.benchmarks.")


def header_of(record: Mapping[str, Any]) -> ResultHeader:
    """Return the header of a result file.

    It stands under ``environment``. Files that have grown in several runs have one for each under ``runs``: the last
    counts. Those of the day with a GPU have its fields at the top.

    Raises:
        pydantic.ValidationError: a field is missing or wrong.
    """
    if isinstance(runs := record.get("runs"), dict) and runs:
        return ResultHeader.model_validate(list(runs.values())[-1])
    environment = record.get("environment", record)
    for place in ("machine", "measured_on"):  # where older files describe it
        about = record.get(place)
        if isinstance(environment, dict) and isinstance(about, dict) and "processor" in about:
            environment = {"machine": about, **environment}
    return ResultHeader.model_validate(environment)
