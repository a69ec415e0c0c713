"""The few things that differ between deployments, with a schema: what `zoetrope k8s render` asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.schema_errors import describe
from zoetrope.serving.kubernetes.knob_forms import (
    check_class,
    check_image,
    check_labels,
    check_model,
    check_namespace,
    check_networks,
    check_quantity,
    check_repository,
    check_store,
    check_url,
)
from zoetrope.serving.kubernetes.pods import quantity


class KnobError(ValueError):
    """A knob has a value that it cannot have; the message names it."""


Quantity = Annotated[str, AfterValidator(check_quantity)]
Url = Annotated[str, AfterValidator(check_url)]
Store = Annotated[str, AfterValidator(check_store)]
MONTH_SECONDS = 30 * 86_400
LEAST_MEMORY = 2 << 30  # bytes of a pod of Ray


class Knobs(BaseModel):
    """One deployment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Annotated[str, AfterValidator(check_namespace)] = Field(
        default="zoetrope", description="Where it lives."
    )
    image: Annotated[str, AfterValidator(check_image)] = Field(
        default="zoetrope:0.1.0", description="Image with its tag."
    )
    model: Annotated[str, AfterValidator(check_model)] = Field(
        default="nano",
        description="Preset, whose weights are in a folder of that name on the volume; nano brings its own.",
    )
    quantize: Quantize = Field(default="none", description="Form of the weights: none or fp8.")
    gpu: str = Field(default="h100", description="Kind of GPU, as `zoetrope plan` knows it; cpu: none.")
    gpus: int = Field(default=8, ge=1, le=1024, description="GPUs of one engine; with cpu: processes.")
    nodes: int = Field(default=1, ge=1, le=256, description="Nodes of workers.")
    gpus_per_node: int = Field(default=8, ge=1, le=64, description="GPUs of a node; with cpu: processes.")
    nvlink: int | None = Field(default=None, ge=1, description="GPUs that NVLink connects; empty: those of a node.")
    size: str = Field(default="720p", description="Size of the clip that is planned.")
    ratio: str = Field(default="16:9", description="Its aspect ratio.")
    duration: float = Field(default=5.0, gt=0, description="Its length in seconds.")
    longest_job_seconds: int | None = Field(
        default=None,
        ge=60,
        le=MONTH_SECONDS,
        description="Seconds of the longest job; empty: ten times the planned one, at least an hour.",
    )
    head_cpus: int = Field(default=2, ge=1, description="CPUs of the pod of Ray's head.")
    head_memory: Quantity = Field(default="8Gi", description="Memory of it.")
    node_cpus: int | None = Field(default=None, ge=1, description="CPUs of a node's pod; empty: 4 for each GPU.")
    node_memory: Quantity = Field(default="", description="Memory of a node's pod; empty: 32Gi for each GPU.")
    node_labels: Annotated[dict[str, str], AfterValidator(check_labels)] = Field(
        default_factory=dict, description="Labels that nodes of workers must have."
    )
    weights_size: Quantity = Field(default="200Gi", description="Size of the volume of weights.")
    weights_class: Annotated[str, AfterValidator(check_class)] = Field(
        default="", description="StorageClass of it, which many nodes can mount; empty: the default."
    )
    weights_from: Annotated[str, AfterValidator(check_repository)] = Field(
        default="", description="Repository ORG/NAME to fill it from; empty: you fill it yourself."
    )
    card: str = Field(
        default="",
        description="File of `zoetrope models export`, for gateways without that volume; empty: they read it there.",
    )
    elastic_nodes: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Nodes that KEDA adds while there is work for them; their engines fit on one.",
    )
    prometheus: Url = Field(
        default="http://prometheus-operated.monitoring:9090", description="Where KEDA asks how many engines are wanted."
    )
    artifact_store: Store = Field(default="s3://zoetrope/artifacts", description="Bucket for videos and uploads.")
    snapshot_store: Store = Field(default="s3://zoetrope/snapshots", description="Bucket for snapshots and previews.")
    store_networks: Annotated[tuple[str, ...], AfterValidator(check_networks)] = Field(
        default=("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        min_length=1,
        description="Where database and buckets are. While all are private, a cloud's buckets count as public.",
    )
    public_url: Url = Field(default="http://zoetrope.example", description="URL of the HTTP side, which webhooks name.")
    gateways: int = Field(default=2, ge=1, le=64, description="Gateways at least.")
    max_gateways: int = Field(default=6, ge=1, le=64, description="Gateways at most.")
    upgrade: Literal["in-place", "new-cluster"] = Field(
        default="in-place",
        description="new-cluster: a changed pod makes a second Ray cluster, which needs its GPUs twice.",
    )
    redis: bool = Field(default=False, description="A Redis, so that Ray's head can be replaced.")
    tls: bool = Field(default=False, description="TLS on the gateways, by the Secret zoetrope-tls.")
    kueue: bool = Field(default=False, description="Admission by Kueue's local queue `zoetrope`.")
    monitoring: bool = Field(
        default=False, description="PodMonitors, rules and dashboards for the Prometheus operator."
    )
    dev_stores: bool = Field(
        default=False, description="A PostgreSQL and an S3 server for trying out, with known passwords."
    )

    @model_validator(mode="after")
    def _fit(self) -> Knobs:
        if self.max_gateways < self.gateways:
            raise ValueError(f"max_gateways: {self.max_gateways} is below the {self.gateways} of gateways")
        for name in ("head_memory", "node_memory"):
            value = getattr(self, name)
            if value and (quantity(value) or 0) < LEAST_MEMORY:
                raise ValueError(f"{name}: {value!r} must be at least {LEAST_MEMORY >> 30}Gi")
        if self.elastic_nodes and (self.gpus > self.gpus_per_node or not self.on_gpus):
            raise ValueError(
                f"elastic_nodes: an engine of {self.gpus} must fit on one node of {self.gpus_per_node} GPUs"
            )
        if self.nvlink is not None and self.nvlink > self.gpus_per_node and self.nvlink % self.gpus_per_node:
            raise ValueError(f"nvlink: {self.nvlink} must be a multiple of the {self.gpus_per_node} GPUs of a node")
        return self

    @property
    def on_gpus(self) -> bool:
        return self.gpu != "cpu"

    @property
    def domain(self) -> int:
        """GPUs that NVLink connects."""
        return self.nvlink or self.gpus_per_node

    @property
    def model_path(self) -> str:
        """What the service is told to load."""
        return self.model if self.bundled else f"/weights/{self.model}"

    @property
    def bundled(self) -> bool:
        """Whether the image has the weights."""
        from zoetrope.model.families import BUNDLED

        return self.model in BUNDLED


def read_knobs(path: Path | None, given: dict[str, object]) -> Knobs:
    """Read a file of knobs (YAML); ``given`` ones win over it.

    Raises:
        KnobError: the file cannot be read, or a value is unknown or wrong.
    """
    said: object = {}
    if path is not None:
        try:
            said = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise KnobError(f"knobs: {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(said, dict):
        raise KnobError(f"knobs: {path} must hold names and values")
    try:
        return Knobs.model_validate({**said, **given})
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        field = ".".join(map(str, item["loc"]))
        text = describe(item)
        raise KnobError(f"{field}: {text}" if field else text.removeprefix("Value error, ")) from None
