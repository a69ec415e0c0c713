"""The Serve application as a declarative config deploys it: ``import_path: zoetrope.serving.serve_app:build``.

Serve runs the builder in a process on the head, before the workers have joined: the settings alone say what the gangs
need, and no weights are read there. Serve finds the settings' class by the annotation itself, so this file must not
import annotations from __future__.
"""

from pydantic_settings import SettingsConfigDict
from ray.serve import Application

from zoetrope.cluster.planning.placement import Seat, planned_seat
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.serving.config.checked_lists import label_map
from zoetrope.serving.config.deployment_checks import KERNELS_VARIABLE, check_gangs, check_kernels
from zoetrope.serving.config.logs import VARIABLE as LOG_FORMAT_VARIABLE
from zoetrope.serving.config.served_models import open_models
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.startup_checks import StartError
from zoetrope.serving.ray_host.application import application

# Ray runs the function that this names first of all in a worker. A runtime environment may name it by the variable
# alone: Ray has an option for it, but only for whole jobs, and Serve's is not ours.
SETUP_HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
SETUP_HOOK = "zoetrope.serving.ray_host.worker_setup.set_up"


class Args(Settings):
    """The settings of a Serve config. What its args leave out is taken from ZOETROPE_* variables of the head: secrets
    belong there, because Serve shows the args to everybody."""

    model_config = SettingsConfigDict(extra="forbid")


def build(args: Args) -> Application:
    """Build the application; called by Serve.

    Raises:
        StartError, ModelError: a setting is at fault, which the message names.
    """
    settings = Settings(**args.model_dump(include=args.model_fields_set))
    if settings.rank_device == "auto":
        raise StartError("rank_device: must be cpu or gpu here: the nodes that would tell have not joined yet")
    for name in ("database", "artifact_store", "snapshot_store"):
        if not getattr(settings, name):
            raise StartError(f"{name}: must be given here: what lies in the data folder is not seen by other nodes")
    models = open_models(settings, find_model)
    check_gangs(settings, models)
    check_kernels(settings.kernels)
    labels = label_map(settings.engine_labels)

    def seated(gang: EngineSettings) -> Seat:
        place = "node" if settings.gang_place == "auto" else settings.gang_place
        return planned_seat(gang, place, labels or None)

    variables = {
        KERNELS_VARIABLE: settings.kernels,
        LOG_FORMAT_VARIABLE: settings.log_format,
        SETUP_HOOK_VARIABLE: SETUP_HOOK,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a stage that reserves no GPU sees none
    }
    return application(settings, models, seated, gpus=settings.rank_device == "gpu", variables=variables)
