"""Engines of several sizes, and the models that each size can run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.config.engine_groups import EngineGroup, engine_groups, models_of_gangs
from zoetrope.serving.config.settings import Settings

NANO = find_model("nano")


@pytest.mark.parametrize(
    ("engines", "ranks", "groups"),
    [
        ("2", 1, [(2, 1)]),
        (3, 4, [(3, 4)]),
        ("2x1,1x4", 1, [(2, 1), (1, 4)]),
        ("1x4,2,1x4", 2, [(2, 4), (2, 2)]),
    ],
)
def test_sizes_are_counted(engines: Any, ranks: int, groups: list[tuple[int, int]]) -> None:
    assert engine_groups(Settings(engines=engines, ranks=ranks)) == tuple(EngineGroup(*group) for group in groups)


@pytest.mark.parametrize("engines", ["0", "2x0", "x", "1x2x3", "-1", "2.5", "all"])
def test_what_is_no_size_is_refused(engines: str) -> None:
    with pytest.raises(ValidationError, match="must be how many engines, such as 2, or how many of which size"):
        Settings(engines=(engines,))


def test_a_model_must_run_somewhere() -> None:
    odd = EngineGroup(1, 7)  # no number of heads of ours has this factor
    assert models_of_gangs([NANO], [EngineGroup(1, 1)], 1) == {1: (NANO,)}
    with pytest.raises(ModelError, match="ranks: nano cannot run on 7: "):
        models_of_gangs([NANO], [odd], 1)
    with pytest.raises(ModelError, match="engines: none of the models can run on 7 ranks"):
        models_of_gangs([NANO], [EngineGroup(1, 1), odd], 1)
