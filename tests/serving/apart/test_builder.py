"""The application as a Serve config has it built: from its args and the environment alone, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app

from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.config.startup_checks import StartError
from zoetrope.serving.serve_app import SETUP_HOOK_VARIABLE, build

ARGS = {
    "model": "nano",
    "rank_device": "cpu",
    "database": "postgresql://z@db/z",
    "artifact_store": "s3://bucket/z",
    "snapshot_store": "s3://bucket/z",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE", "ARTIFACT_STORE", "SNAPSHOT_STORE", "KERNELS", "MODEL"):
        monkeypatch.delenv(f"ZOETROPE_{name}", raising=False)


def built(**args: Any) -> dict[str, Any]:
    """The deployments by name, as Serve makes them of a config's args."""
    builder: Any = build
    application = call_user_app_builder_with_args_if_necessary(builder, {**ARGS, **args})
    return {each.name: each for each in build_app(application, name="zoetrope").deployments}


def actor(deployment: Any) -> dict[str, Any]:
    options: dict[str, Any] = deployment.ray_actor_options
    return options


def test_the_settings_are_its_args() -> None:
    found = built(engines=["2x1", "1x2"], conditioners=2)
    assert set(found) == {"Router", "Conditioner", "Conditioner-2", "Decoder", "Engine", "Engine-2", "EngineKinds"}
    assert found["Engine"].num_replicas == 2
    assert len(found["Engine-2"]._replica_config.placement_group_bundles) == 3


def test_each_part_goes_to_its_nodes_with_what_it_reserves() -> None:
    found = built(
        rank_device="gpu",
        engine_labels="ray.io/node-group=h100",
        stage_labels=["ray.io/node-group=stages"],
        router_labels="ray.io/node-group=small",
        conditioner_cpus=2,
        conditioner_gpus=0.25,
        decoder_gpus=1,
    )
    bundles = found["Engine"]._replica_config
    assert bundles.placement_group_bundles == [{"CPU": 0.01}, {"CPU": 1.0, "GPU": 1.0}]
    assert bundles.placement_group_bundle_label_selector == [{"ray.io/node-group": "h100"}] * 2
    wanted = {
        "Router": (0, 0, "small"),
        "Conditioner": (2, 0.25, "stages"),
        "Decoder": (0, 1, "stages"),
    }
    for name, (cpus, gpus, group) in wanted.items():
        options = actor(found[name])
        assert (options["num_cpus"], options.get("num_gpus", 0)) == (cpus, gpus), name
        assert options["label_selector"] == {"ray.io/node-group": group}, name


def test_every_process_gets_what_a_supervisor_would_set() -> None:
    found = built(kernels="attention=reference", log_format="json")
    for name, deployment in found.items():
        variables = actor(deployment)["runtime_env"]["env_vars"]
        assert variables["ZOETROPE_KERNELS"] == "attention=reference", name
        assert variables["ZOETROPE_LOG_FORMAT"] == "json", name
        assert variables["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "0", name
        assert variables[SETUP_HOOK_VARIABLE] == "zoetrope.serving.ray_host.worker_setup.set_up", name


def test_the_hook_is_named_by_rays_own_variable() -> None:
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    assert SETUP_HOOK_VARIABLE == WORKER_PROCESS_SETUP_HOOK_ENV_VAR


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_DATABASE", "postgresql://z:secret@db/z")
    monkeypatch.setenv("ZOETROPE_ENGINES", "9")
    monkeypatch.delitem(ARGS, "database")
    found = built(engines="3")
    settings = found["Router"]._replica_config.init_args[0]
    assert settings.database == "postgresql://z:secret@db/z"
    assert found["Engine"].num_replicas == 3, "args outweigh variables"


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"modell": "nano"}, ValidationError, "modell\n  Extra inputs are not permitted"),
        ({"rank_device": "auto"}, StartError, "^rank_device: must be cpu or gpu here"),
        ({"rank_device": "tpu"}, ValidationError, "rank_device\n  Input should be 'auto', 'cpu' or 'gpu'"),
        ({"database": ""}, StartError, "^database: must be given here: what lies in the data folder is not seen by"),
        ({"artifact_store": ""}, StartError, "^artifact_store: must be given here"),
        ({"snapshot_store": ""}, StartError, "^snapshot_store: must be given here"),
        ({"engine_labels": "h100"}, ValidationError, "'h100' must be a label of Ray's nodes and its value"),
        ({"gang_place": "domains", "rank_device": "gpu"}, StartError, "^ranks: 'domains' is for cfg-groups 2, it is 1"),
        ({"ranks": 3, "cfg_groups": 2}, StartError, "^cfg-groups: 2 must divide ranks, 3"),
        ({"kernels": "attention=none"}, StartError, "attention"),
        ({"model": "no-such"}, ModelError, "'no-such'"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(args: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        built(**args)
