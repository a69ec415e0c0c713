"""The overlays of the repository, and others that `zoetrope k8s render` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serving.kubernetes.overlays import NAMES, OVERLAYS, ROOT, tree_of, write
from zoetrope.model.catalog.exported_cards import exported_text
from zoetrope.model.catalog.presets import find_model
from zoetrope.serving.cli.k8s import plan_sizing
from zoetrope.serving.kubernetes.check import check, check_folder, kustomize, render_folder
from zoetrope.serving.kubernetes.knobs import KnobError, Knobs, read_knobs
from zoetrope.serving.kubernetes.objects import Tree, TreeError
from zoetrope.serving.kubernetes.render import render, secrets_of
from zoetrope.serving.kubernetes.serve_config import application_args

EVERYTHING = {
    "monitoring": True,
    "redis": True,
    "tls": True,
    "kueue": True,
    "weights_from": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong_with_it(name: str) -> None:
    assert [str(finding) for finding in check(tree_of(name))] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_its_knobs_say(name: str, tmp_path: Path) -> None:
    """If not: python -m tests.serving.kubernetes.overlays"""
    write(name, tmp_path / name)
    written = {path.name: path.read_text() for path in (tmp_path / name).iterdir()}
    kept = {path.name: path.read_text() for path in (OVERLAYS / name).iterdir()}
    assert kept == written


def test_the_names_of_the_issue_are_there() -> None:
    assert set(NAMES) == {"cpu-dev", "h100x8", "multi-node"}


def rendered(target: Path, **knobs: Any) -> Tree:
    """An overlay with copies of its own, without a finding."""
    wanted = Knobs(**knobs)
    render(wanted, plan_sizing(wanted), target)
    tree, findings = check_folder(target)
    assert [str(finding) for finding in findings] == []
    return tree


def args(tree: Tree) -> dict[str, Any]:
    (service,) = tree.of("RayService")
    return application_args(service)


def settings(tree: Tree) -> dict[str, str]:
    """Variables of the processes beside Ray."""
    found: dict[str, str] = next(each for each in tree.of("ConfigMap") if "settings" in each.name).data["data"]
    return found


def groups(tree: Tree) -> list[tuple[str, int, str]]:
    """Of workers: name, nodes, NVLink domain."""
    (service,) = tree.of("RayService")
    found = service.spec["rayClusterConfig"]["workerGroupSpecs"]
    return [(g["groupName"], g["replicas"], g["labels"].get("ray.io/gpu-domain", "")) for g in found]


def test_every_knob_at_once(tmp_path: Path) -> None:
    tree = rendered(
        tmp_path / "out",
        model="wan2.7-27b",
        nodes=2,
        namespace="videos",
        image=f"registry.example:5000/zoetrope@sha256:{'0' * 64}",
        quantize="fp8",
        node_cpus=64,
        node_memory="512Gi",
        node_labels={"pool": "video"},
        weights_class="shared",
        store_networks=("10.20.0.0/16", "10.1.0.0/16"),
        upgrade="new-cluster",
        longest_job_seconds=1_800,
        **EVERYTHING,
    )
    assert {each.metadata["namespace"] for each in tree.manifests if "namespace" in each.metadata} == {"videos"}
    assert [each.name for each in tree.of("Namespace")] == ["videos"]
    images = {box["image"] for pod in tree.pods for _, box in pod.all_containers if "zoetrope" in box["image"]}
    assert images == {f"registry.example:5000/zoetrope@sha256:{'0' * 64}"}
    assert args(tree)["quantize"] == "fp8"
    assert groups(tree) == [("engines-1", 1, "domain-1"), ("engines-2", 1, "domain-2")]
    (service,) = tree.of("RayService")
    assert service.metadata["labels"] == {"kueue.x-k8s.io/queue-name": "zoetrope"}
    assert service.spec["rayClusterDeletionDelaySeconds"] == 3_600
    worker = service.spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    assert worker["nodeSelector"] == {"pool": "video", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert worker["containers"][0]["resources"]["limits"] == {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": 8}
    assert worker["initContainers"][0]["args"] == ["models", "verify", "/weights/wan2.7-27b"]
    assert args(tree)["warmup_shapes"] == "1280x704x121"


def test_nodes_that_come_with_the_work(tmp_path: Path) -> None:
    """KEDA adds pods like KubeRay's, as many as the wanted engines need beyond the fixed nodes."""
    tree = rendered(tmp_path / "out", model="wan2.2-ti2v-5b", gpus=2, nodes=3, elastic_nodes=4)
    assert [args(tree)[name] for name in ("engines", "min_engines", "max_engines")] == ["12x2", 12, 28]
    (scaled,) = tree.of("ScaledObject")
    (trigger,) = scaled.spec["triggers"]
    assert trigger["metadata"]["query"] == (
        'clamp_min(ceil(max(zoetrope_desired_engines{deployment="Engine"}) / 4) - 3, 0)'
    )
    assert (scaled.spec["minReplicaCount"], scaled.spec["maxReplicaCount"]) == (0, 4)
    deployment = tree.find("Deployment", "elastic-engines")
    assert deployment is not None
    box = deployment.spec["template"]["spec"]["containers"][0]
    for words in ("--address=zoetrope-head-svc:6379", "--num-gpus=8", "zoetrope/part=worker", "--block"):
        assert words in box["command"][-1]
    assert {"RAY_AUTH_TOKEN", "ZOETROPE_DATABASE"} <= {variable["name"] for variable in box["env"]}


def test_gateways_read_an_exported_card(tmp_path: Path) -> None:
    """Without one they wait for the card beside the weights, which they mount but never hash."""
    card = tmp_path / "any.json"
    card.write_text(exported_text(find_model("nano")))
    tree = rendered(tmp_path / "out", model="wan2.2-ti2v-5b", card=str(card))
    gateway = next(pod for pod in tree.pods if pod.component == "gateway")
    assert "weights" not in {volume["name"] for _, volume in gateway.volumes}
    assert settings(tree)["ZOETROPE_MODEL"] == "/cards/wan2.2-ti2v-5b.card.json"
    (cards,) = [each for each in tree.of("ConfigMap") if each.name.startswith("zoetrope-cards")]
    assert cards.data["data"] == {"wan2.2-ti2v-5b.card.json": card.read_text()}
    tree = rendered(tmp_path / "other", model="wan2.2-ti2v-5b")
    gateway = next(pod for pod in tree.pods if pod.component == "gateway")
    waits = [box for _, box in gateway.all_containers if box["name"] == "wait-for-card"]
    assert len(waits) == 1 and settings(tree)["ZOETROPE_MODEL"] in waits[0]["command"][-1]


def test_small_engines_share_a_node(tmp_path: Path) -> None:
    tree = rendered(tmp_path / "out", model="wan2.2-ti2v-5b", gpus=2, nodes=3)
    assert (args(tree)["engines"], args(tree)["gang_place"]) == ("12x2", "node")


def test_an_engine_of_several_nodes_stays_in_a_domain(tmp_path: Path) -> None:
    tree = rendered(tmp_path / "out", model="wan2.2-ti2v-5b", gpus=8, nodes=4, gpus_per_node=4, nvlink=8)
    assert (args(tree)["engines"], args(tree)["gang_place"]) == ("2x8", "domain")
    assert groups(tree) == [("engines-1", 2, "domain-1"), ("engines-2", 2, "domain-2")]


def test_rendering_again_replaces_what_was_written(tmp_path: Path) -> None:
    rendered(tmp_path / "out", model="wan2.2-ti2v-5b")
    tree = rendered(tmp_path / "out", gpu="cpu", gpus=1, gpus_per_node=1, size="64x64", duration=1.0)
    assert tree.of("PersistentVolumeClaim") == []
    assert args(tree)["model"] == "nano"


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: Mine\n")
    knobs = Knobs(model="wan2.2-ti2v-5b")
    with pytest.raises(FileExistsError):
        render(knobs, plan_sizing(knobs), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"nodes": 0}, "nodes: 0 must be at least 1"),
        ({"node": 1}, "node: is not a known field"),
        ({"image": "zoetrope:latest"}, "image: 'zoetrope:latest' must be"),
        ({"image": "zoetrope"}, "image: 'zoetrope' must be"),
        ({"model": "../x"}, "model: '../x' must be"),
        ({"node_memory": "much"}, "node_memory: 'much' must be a quantity"),
        ({"store_networks": ["10.0.0.0/99"]}, "store_networks: '10.0.0.0/99' must be ADDRESS/BITS"),
        ({"elastic_nodes": 1, "gpus": 16}, "elastic_nodes: an engine of 16 must fit on one node of 8 GPUs"),
        ({"gateways": 9}, "max_gateways: 6 is below the 9 of gateways"),
        ({"nvlink": 12}, "nvlink: 12 must be a multiple of the 8 GPUs of a node"),
        ({"namespace": "My Videos"}, "namespace: 'My Videos' must be"),
        ({"artifact_store": "gs://videos/artifacts"}, "artifact_store: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_knob_is_named(knobs: dict[str, object], words: str) -> None:
    with pytest.raises(KnobError, match=words):
        read_knobs(None, knobs)


def test_both_buckets_are_reached_at_their_own_ports(tmp_path: Path) -> None:
    tree = rendered(
        tmp_path / "out",
        artifact_store="s3://videos/artifacts?endpoint=http://minio.store:9000",
        snapshot_store="s3://videos/snapshots?endpoint=https://other.store:9443",
    )
    (rule,) = next(policy for policy in tree.of("NetworkPolicy") if policy.name == "artifacts").spec["egress"]
    assert [port["port"] for port in rule["ports"]] == [9000, 9443]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]


def test_budgets_say_how_many_workers_stay(tmp_path: Path) -> None:
    tree = rendered(tmp_path / "out", nodes=3, redis=True)
    budgets = {budget.name: budget.spec for budget in tree.of("PodDisruptionBudget")}
    assert (budgets["ray-worker"]["minAvailable"], budgets["ray-head"]["minAvailable"]) == (2, 0)


def test_too_few_nodes_are_refused() -> None:
    knobs = Knobs(model="wan2.2-ti2v-5b", gpus=8, gpus_per_node=4)
    with pytest.raises(KnobError, match="nodes: 1 node of 4 have no room for an engine of 8 GPUs"):
        plan_sizing(knobs)


def test_secrets_are_those_that_the_tree_does_not_have() -> None:
    for name in NAMES:
        knobs = read_knobs(OVERLAYS / name / "knobs.yaml", {})
        there = {each.name for each in tree_of(name).of("Secret")}
        assert there.isdisjoint(secrets_of(knobs))
        assert bool(there) == knobs.dev_stores


def test_plain_yaml_files_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(kustomize(OVERLAYS / "cpu-dev"))
    for path in (tmp_path, tmp_path / "all.yaml"):
        assert check_folder(path)[1] == []


@pytest.mark.parametrize("case", ["nowhere", "empty", "broken"])
def test_what_cannot_be_rendered_is_refused(case: str, tmp_path: Path) -> None:
    folder = tmp_path / case
    if case != "nowhere":
        folder.mkdir()
    if case == "broken":
        (folder / "kustomization.yaml").write_text("resources: [none.yaml]\n")
    with pytest.raises(TreeError, match=case):
        render_folder(folder)


def test_no_file_of_the_base_is_left_out() -> None:
    for folder in [ROOT / "k8s" / "base", *sorted((ROOT / "k8s" / "components").iterdir())]:
        said = yaml.safe_load((folder / "kustomization.yaml").read_text())
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert files == set(said.get("resources", ())), folder
