"""What a service refuses as a whole, before any of its processes starts."""

from __future__ import annotations

from typing import Any

import pytest

from zoetrope.model.catalog.presets import find_model
from zoetrope.serving.config.deployment_checks import check_gangs, check_kernels, check_one_machine
from zoetrope.serving.config.served_models import open_models
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.startup_checks import StartError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranks": 3, "cfg_groups": 2}, "^cfg-groups: 2 must divide ranks, 3$"),
        ({"noise_experts": "apart"}, "^noise-experts: 'apart' needs a model with two networks, nano has one$"),
    ],
)
def test_gangs_must_fit_the_models(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StartError, match=message):
        check_gangs(Settings(**settings), open_models(Settings(), find_model))


@pytest.mark.parametrize("name", ["engine_labels", "stage_labels", "router_labels"])
def test_one_machine_has_no_labels(name: str) -> None:
    labels: dict[str, Any] = {name: "ray.io/node-group=h100"}
    check_one_machine(Settings())
    with pytest.raises(StartError, match=f"^{name}: is for the nodes of a Ray cluster"):
        check_one_machine(Settings(**labels))


def test_a_choice_of_kernels_is_checked_by_its_names() -> None:
    check_kernels("")
    check_kernels("attention=reference")
    with pytest.raises(StartError, match="attention"):
        check_kernels("attention=none")
