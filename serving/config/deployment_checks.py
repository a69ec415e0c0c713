"""Checks of a service as a whole, before any of its processes is deployed."""

from __future__ import annotations

from zoetrope.serving.config.engine_groups import engine_groups, models_of_gangs
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.startup_checks import StartError

OF_NODES = ("engine_labels", "stage_labels", "router_labels")
KERNELS_VARIABLE = "ZOETROPE_KERNELS"  # kernels.select.backends.VARIABLE


def check_gangs(settings: Settings, models: ServedModels) -> None:
    """Check that gangs of these sizes can run these models.

    Raises:
        StartError, ModelError.
    """
    groups = engine_groups(settings)
    for group in groups:
        if group.ranks % settings.cfg_groups:
            raise StartError(f"cfg-groups: {settings.cfg_groups} must divide ranks, {group.ranks}")
    if settings.noise_experts == "apart":
        if models.default.boundary is None:
            raise StartError(f"noise-experts: 'apart' needs a model with two networks, {models.default.name} has one")
        if len(models) > 1:
            raise StartError(f"noise-experts: 'apart' is for one model, {len(models)} are served")
    models_of_gangs(models, groups, settings.cfg_groups)


def check_one_machine(settings: Settings) -> None:
    """Check that nothing is asked of a service's own machine that only nodes of a Ray cluster have. Raises
    StartError."""
    for name in OF_NODES:
        if getattr(settings, name):
            raise StartError(f"{name}: is for the nodes of a Ray cluster, this service has one machine of its own")


def check_kernels(choices: str) -> None:
    """Check a choice of kernels. Raises StartError."""
    if not choices:
        return
    from zoetrope.kernels.select.backends import parse  # loads torch

    try:
        parse(choices)
    except ValueError as error:
        raise StartError(str(error)) from None
