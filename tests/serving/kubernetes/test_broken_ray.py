"""Broken manifests: Ray and its Serve application; each refused with object and field."""

from __future__ import annotations

import pytest

from tests.serving.kubernetes.broken import (
    APPLICATION,
    ARGS,
    CLUSTER,
    DEV,
    MANY,
    ONE,
    RAY_WORKER,
    SERVICE,
    WORKER,
    Broken,
    cluster,
    put,
    ray,
    redis,
    refuse,
    serve,
    setting,
    worker,
    worker_pod,
)
from zoetrope.serving.kubernetes.objects import Tree


def more_engines(tree: Tree) -> None:
    """Ask for one engine more than there are GPUs for, in both places that say how many."""
    serve(tree, "engines: 1x8", "engines: 2x8")
    setting(tree, engines="2x8")


BROKEN = (
    Broken(
        "Serve's configuration as no YAML",
        DEV,
        lambda t: serve(t, "applications:", "applications: ["),
        SERVICE,
        "spec.serveConfigV2",
        "not YAML",
    ),
    Broken(
        "a key that Serve ignores",
        DEV,
        lambda t: serve(t, "  route_prefix: null", "  route_prefix: null\n  num_replica: 2"),
        SERVICE,
        "spec.serveConfigV2.applications[0].num_replica",
        "unknown to Ray Serve",
    ),
    Broken(
        "a proxy without keys",
        DEV,
        lambda t: serve(t, "Disabled", "HeadOnly"),
        SERVICE,
        "spec.serveConfigV2.proxy_location",
        "Disabled",
    ),
    Broken(
        "a builder that is not there",
        DEV,
        lambda t: serve(t, "serve_app:build", "serve_app:app"),
        SERVICE,
        f"{APPLICATION}.import_path",
        "cannot be imported",
    ),
    Broken(
        "a builder that is none",
        DEV,
        lambda t: serve(t, "zoetrope.serving.serve_app:build", "os:getpid"),
        SERVICE,
        f"{APPLICATION}.import_path",
        "no builder",
    ),
    Broken(
        "an argument with a typo",
        DEV,
        lambda t: serve(t, "    cfg_groups:", "    cfg_group:"),
        SERVICE,
        f"{APPLICATION}.args.cfg_group",
        "no setting",
    ),
    Broken(
        "an argument's value",
        DEV,
        lambda t: serve(t, "gang_place: node", "gang_place: rack"),
        SERVICE,
        f"{APPLICATION}.args.gang_place",
        "must be",
    ),
    Broken(
        "a secret in the clear",
        DEV,
        lambda t: serve(t, "    model: nano", "    model: nano\n    database: postgresql://a:b@c/d"),
        SERVICE,
        f"{APPLICATION}.args.database",
        "Secret",
    ),
    Broken(
        "settings that differ",
        DEV,
        lambda t: setting(t, snapshot_store="s3://other/snapshots"),
        SERVICE,
        f"{ARGS}.snapshot_store",
        "s3://other/snapshots",
    ),
    Broken(
        "engines without room",
        ONE,
        more_engines,
        SERVICE,
        f"{ARGS}.engines",
        "do not fit",
    ),
    Broken(
        "a label that no node has",
        DEV,
        lambda t: serve(t, "stage_labels: zoetrope/part=worker", "stage_labels: zoetrope/part=stage"),
        SERVICE,
        f"{ARGS}.stage_labels",
        "zoetrope/part=stage",
    ),
    Broken(
        "ranks that ask the cluster",
        DEV,
        lambda t: serve(t, "rank_device: cpu", "rank_device: auto"),
        SERVICE,
        f"{ARGS}.rank_device",
        "cpu or gpu",
    ),
    Broken(
        "GPUs that Ray does not know of",
        ONE,
        lambda t: worker(t)["resources"].update(GPU="4"),
        SERVICE,
        f"{CLUSTER}.workerGroupSpecs[engines].resources.GPU",
        "8 nvidia.com/gpu",
    ),
    Broken(
        "weights that can be written",
        ONE,
        lambda t: worker_pod(t)["containers"][0]["volumeMounts"][-1].pop("readOnly"),
        SERVICE,
        f"{RAY_WORKER}.volumeMounts[weights].readOnly",
        "must be true",
    ),
    Broken(
        "weights that are not mounted",
        ONE,
        lambda t: (
            worker_pod(t)["containers"][0]["volumeMounts"].pop(),
            worker_pod(t)["initContainers"][0].update(name="verify"),
        ),
        SERVICE,
        f"{RAY_WORKER}.volumeMounts",
        "/weights/wan2.7-27b",
    ),
    Broken(
        "an upgrade that the schema lets pass",
        DEV,
        put(ray, upgradeStrategy={"type": "Rolling"}),
        SERVICE,
        "spec.upgradeStrategy.type",
        "'Rolling'",
    ),
    Broken(
        "a cluster that ends under its jobs",
        DEV,
        put(ray, rayClusterDeletionDelaySeconds=60),
        SERVICE,
        "spec.rayClusterDeletionDelaySeconds",
        "600 s",
    ),
    Broken("another Ray", DEV, put(cluster, rayVersion="2.9.0"), SERVICE, f"{CLUSTER}.rayVersion", "'2.9.0'"),
    Broken(
        "Ray without tokens",
        DEV,
        put(cluster, authOptions={"mode": "disabled"}),
        SERVICE,
        f"{CLUSTER}.authOptions.mode",
        "token",
    ),
    Broken(
        "replicas on the head",
        DEV,
        lambda t: cluster(t)["headGroupSpec"].update(resources={"CPU": "4"}),
        SERVICE,
        f"{CLUSTER}.headGroupSpec.resources.CPU",
        "must be 0",
    ),
    Broken(
        "what the operator refuses",
        DEV,
        put(cluster, tlsOptions={"enabled": True}),
        SERVICE,
        f"{CLUSTER}.tlsOptions",
        "gate",
    ),
    Broken(
        "a probe of Serve's proxy",
        DEV,
        lambda t: worker_pod(t)["containers"][0]["readinessProbe"]["httpGet"].update(path="/-/healthz"),
        SERVICE,
        f"{RAY_WORKER}.readinessProbe.httpGet.path",
        "/api/healthz",
    ),
    Broken(
        "a node that is not drained",
        DEV,
        lambda t: worker_pod(t)["containers"][0].pop("lifecycle"),
        SERVICE,
        f"{RAY_WORKER}.lifecycle.preStop",
        "drain",
    ),
    Broken(
        "a drain that is cut off",
        DEV,
        put(worker_pod, terminationGracePeriodSeconds=120),
        SERVICE,
        f"{WORKER}.terminationGracePeriodSeconds",
        "above the 120 s",
    ),
    Broken(
        "an object store that does not fit",
        DEV,
        lambda t: worker(t)["rayStartParams"].update({"object-store-memory": "99999999999"}),
        SERVICE,
        f"{CLUSTER}.workerGroupSpecs[engines].rayStartParams.object-store-memory",
        "/dev/shm",
    ),
    Broken(
        "a Redis that is not there",
        MANY,
        put(redis, redisAddress="cache:6379"),
        SERVICE,
        f"{CLUSTER}.gcsFaultToleranceOptions.redisAddress",
        "'cache'",
    ),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.what)
def test_it_is_refused(broken: Broken) -> None:
    refuse(broken)
