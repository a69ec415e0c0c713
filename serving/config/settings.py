"""Settings of a service, from the command line or ZOETROPE_* variables; passed to every process as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from zoetrope.model.catalog.card_files import DEFAULT_DATA
from zoetrope.model.request.load_options import OPTIONS, LoadOptions, Offload
from zoetrope.model.request.quantize import Quantize
from zoetrope.serving.config.checked_lists import (
    as_text,
    check_engines,
    check_labels,
    check_models,
    check_names,
    check_origins,
    check_shapes,
    check_weights,
)
from zoetrope.serving.config.lists import CommaList

DAY = 86_400.0
Labels = Annotated[CommaList, AfterValidator(check_labels)]


class Settings(BaseSettings):
    """One service on one data directory."""

    model_config = SettingsConfigDict(env_prefix="ZOETROPE_", extra="ignore", allow_inf_nan=False)

    model: Annotated[CommaList, AfterValidator(check_models)] = Field(
        default=("nano",), description="Models: presets, model cards or checkpoint folders; the first is the default."
    )
    family: str = Field(default="", description="Preset that the model's folder holds, if its files do not say.")
    quantize: Quantize = Field(
        default="none", description="fp8: load the weights of the middle blocks in 8 bits, half of their size."
    )
    lora: CommaList = Field(
        default=(), description="Adapters to fuse into the model when it is loaded: FILE[:strength][@high|low|both]."
    )
    profile: str = Field(default="", description="Sampling profile of a few-step model; empty: the model's own.")
    offload: Offload = Field(
        default="auto",
        description="Keep blocks in the host's memory and stream them to the GPU; auto: if they do not fit.",
    )
    vae: str = Field(
        default="", description="Autoencoder, if the model is a single file: a file, or a folder with one."
    )
    text_encoder: str = Field(
        default="", description="UMT5 encoder, if the model is a single file: a file, or a folder with one."
    )
    image_encoder: str = Field(
        default="", description="CLIP, if the model is a single file that needs it: a file, or a folder with one."
    )
    tokenizer: str = Field(default="", description="Folder of UMT5's tokenizer, if the text encoder's file has none.")
    model_low: str = Field(
        default="", description="File of the low-noise expert, if the model is the file of the high-noise one."
    )
    models_dir: Path | None = Field(
        default=None, description="Folder of model cards, whose names are models; empty: models in the data folder."
    )
    served_model_name: Annotated[CommaList, AfterValidator(check_names)] = Field(
        default=(), description="Other names of the first model, or of another: sora-2,acme/video-1,wan=my-wan."
    )
    engines: Annotated[CommaList, BeforeValidator(as_text), AfterValidator(check_engines)] = Field(
        default=("1",), description="Engines, each a gang of ranks with a whole model; of several sizes: 2x1,1x4."
    )
    min_engines: int | None = Field(
        default=None, ge=0, description="Engines of each size kept when there is nothing to do; empty: all of them."
    )
    max_engines: int | None = Field(
        default=None, ge=1, description="Engines of each size when there is much to do; empty: as many as at the start."
    )
    scale_target_seconds: float = Field(
        default=300.0, gt=0, description="Seconds in which the engines should clear what is queued."
    )
    scale_up_seconds: float = Field(
        default=10.0, ge=0, description="Seconds that more engines must be wanted before they are started."
    )
    scale_down_seconds: float = Field(
        default=300.0, ge=0, description="Seconds that fewer engines must be wanted before they are drained."
    )
    ranks: int = Field(default=1, ge=1, description="Ranks of an engine, one GPU each, where engines says no size.")
    cfg_groups: int = Field(
        default=1, ge=1, le=2, description="2: half of an engine's ranks compute each guidance branch."
    )
    noise_experts: Literal["together", "apart"] = Field(
        default="together", description="apart: engines of their own for the two networks of a Wan2.2 A14B."
    )
    rank_device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="What each rank reserves; auto: a GPU where the cluster has any."
    )
    gang_place: Literal["auto", "node", "domain", "domains"] = Field(
        default="auto",
        description="Where an engine's GPUs are: on one node, in an NVLink domain of several, or in a domain for each"
        " guidance group; auto: as the nodes allow.",
    )
    engine_labels: Labels = Field(default=(), description="Labels of the nodes of a Ray cluster that run engines.")
    stage_labels: Labels = Field(default=(), description="Labels of the nodes that run conditioners and decoders.")
    router_labels: Labels = Field(default=(), description="Labels of the nodes that run the router.")
    conditioner_cpus: float = Field(default=0, ge=0, description="CPUs that each conditioner reserves in Ray.")
    conditioner_gpus: float = Field(
        default=0, ge=0, description="GPUs that each conditioner reserves in Ray, such as 0.25."
    )
    decoder_cpus: float = Field(default=0, ge=0, description="CPUs that each decoder reserves in Ray.")
    decoder_gpus: float = Field(default=0, ge=0, description="GPUs that each decoder reserves in Ray, such as 0.25.")
    data_dir: Path = Field(
        default=Path(DEFAULT_DATA), description="Folder for everything that must last, and for logs."
    )
    database: str = Field(default="", description="postgresql://...; empty: a SQLite file in the data folder.")
    artifact_store: str = Field(default="", description="s3://BUCKET/PREFIX; empty: a folder in the data folder.")
    snapshot_store: str = Field(
        default="", description="s3://BUCKET/PREFIX for snapshots of running jobs; empty: a folder in the data folder."
    )
    migrate: Literal["auto", "never"] = Field(
        default="auto",
        description="auto: whoever opens the database brings its tables up to date; never: only `zoetrope migrate`.",
    )

    grpc: str = Field(default="127.0.0.1:50051", description="gRPC address; port 0 takes a free one.")
    http: str = Field(default="127.0.0.1:8080", description="HTTP address; port 0 takes a free one.")
    management: str = Field(
        default="",
        description="Address of /livez, /readyz and /metrics in plain HTTP without keys, for Kubernetes and"
        " Prometheus; further gateways and the sweeper take the next ports; empty: none.",
    )
    gateways: int = Field(default=1, ge=1, le=16, description="Gateway processes; all but the first take free ports.")
    public_url: str = Field(
        default="", description="Base URL at which clients reach the HTTP side; empty: its own address."
    )
    allow_origins: Annotated[CommaList, AfterValidator(check_origins)] = Field(
        default=(),
        description="Origins whose web pages may call the HTTP APIs (CORS): https://app.example.com; *: all.",
    )
    tls_cert: Path | None = Field(default=None, description="Certificate chain, PEM.")
    tls_key: Path | None = Field(default=None, description="Private key of the certificate, PEM.")
    tls_client_ca: Path | None = Field(
        default=None, description="Certificate authority of the certificates that clients must show, PEM."
    )
    keys: Literal["auto", "required"] = Field(
        default="auto",
        description="auto: require API keys once one exists, or if others can connect; required: always.",
    )

    bootstrap_key: Path | None = Field(
        default=None,
        description="File with the secret of the first API key, which `zoetrope migrate` makes where there is none.",
    )
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="Seconds that a gateway that was told to stop goes on serving, while it says that it is not ready.",
    )
    stop_seconds: float = Field(
        default=3.0, ge=0, le=3_600, description="Seconds that calls get to end when a gateway stops."
    )
    max_connection_seconds: float = Field(
        default=1_800.0,
        ge=1,
        description="Age at which a gRPC connection is closed once its calls have ended, so that clients spread anew.",
    )

    lease_seconds: float = Field(
        default=10.0, gt=0, description="Seconds until a job can be claimed again after its router stopped renewing."
    )
    max_running: int = Field(
        default=8,
        ge=1,
        description="Jobs of each model that a router runs at a time, and the first of further tenants.",
    )
    resident_models: int = Field(
        default=2, ge=1, description="Models whose encoders a stage keeps loaded, of several that are served."
    )
    policy: Literal["fair", "fifo", "srpt", "edf", "round_robin"] = Field(
        default="fair",
        description="Who runs next. fair: by deadlines and short waits, with fair shares between tenants; fifo: who"
        " came first; srpt: who is done soonest; edf: who has the earliest deadline; round_robin: each tenant in turn.",
    )
    tenant_weights: Annotated[CommaList, AfterValidator(check_weights)] = Field(
        default=(), description="Shares of tenants under the policy fair, such as acme=2; of all others 1."
    )
    max_attempts: int = Field(default=5, ge=1, description="Claims in a row without progress after which a job fails.")
    max_queued: int = Field(
        default=2_000,
        ge=1,
        description="Queued jobs beyond which new ones are refused; a tenant gets half of what others leave free.",
    )
    max_queued_gpu_seconds: float = Field(
        default=1_000_000,
        gt=0,
        description="GPU-seconds of a model's jobs, by their prices, beyond which new ones are refused.",
    )
    gpu_hour_price: float = Field(
        default=0.0, ge=0, description="Price of a GPU-hour, from which costs are shown; 0: no costs are shown."
    )
    step_tokens: int = Field(default=100_000, ge=1, description="Tokens that an engine takes in one step, at most.")
    snapshot_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Seconds between snapshots, or longer where they would cost over 1 % of the time.",
    )
    snapshot_steps: int | None = Field(default=None, ge=1, description="Steps between snapshots, whatever they cost.")
    hang_seconds: float = Field(default=30.0, gt=0, description="Least seconds after which a step counts as hung.")
    silent_seconds: float = Field(
        default=30.0, ge=3, description="Seconds without a sign of life after which a process is replaced."
    )
    compile: bool = Field(
        default=False, description="Use torch.compile for the steps that it makes faster, as measured."
    )
    cuda_graphs: Literal["auto", "never"] = Field(
        default="never",
        description="CUDA graphs of steps that repeat, on engines of one GPU; auto: where they are proved and faster.",
    )
    warmup_shapes: Annotated[CommaList, AfterValidator(check_shapes)] = Field(
        default=(), description="Clips of which an engine takes a step before it is ready: 832x480x81,1280x720x121."
    )
    kernels: str = Field(
        default="", description="Kernels to use, such as attention=triton; see zoetrope.kernels.select.backends."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="json: an object a line, with the job, trace, epoch and rank that it is about."
    )
    threads: int = Field(
        default=0, ge=0, description="Threads of each process that computes on the CPU; 0: as many as suit the model."
    )
    adapter_slots: int = Field(
        default=4, ge=0, le=64, description="Different adapters, or pairs, that a step's jobs may have; 0: none."
    )
    adapter_rank: Literal["16", "32", "64", "128"] = Field(
        default="64", description="Rank of each adapter slot, which bounds that of a job's adapters together."
    )
    vae_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Numbers that the decoder computes with; auto: bfloat16 on GPUs, float32 on CPUs."
    )
    vae_tiles: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="Tiles of frames above 720p; auto: if a whole frame does not fit into the decoder's memory.",
    )
    vae_devices: int = Field(default=1, ge=1, description="GPUs that share the decoding.")
    conditioners: int = Field(
        default=1, ge=1, le=64, description="Processes that encode prompts and media, each with its own models."
    )
    decoders: int = Field(
        default=1, ge=1, le=64, description="Processes that decode and write videos, each with its own model."
    )
    condition_cache_bytes: int = Field(
        default=512 << 20,
        ge=0,
        description="Bytes of embeddings that a conditioner keeps for the next jobs, and again of encoded media.",
    )
    held_latents_bytes: int = Field(
        default=64 << 20,
        ge=0,
        description="Bytes of finished latents that wait for a decoder in memory; more go to the artifact store.",
    )
    spilled_latents_bytes: int = Field(
        default=20_000_000_000,
        ge=0,
        description="Bytes of waiting latents in the artifact store above which engines start no further jobs.",
    )
    preview_steps: int = Field(default=5, ge=0, description="Steps between previews of a running job; 0: no previews.")

    retention_seconds: float = Field(
        default=DAY, gt=0, description="Seconds that a job and its files are kept after its end."
    )
    max_retention_seconds: float = Field(
        default=7 * DAY, gt=0, description="Longest retention that a request may ask for, in seconds."
    )
    media_retention_seconds: float = Field(
        default=DAY, gt=0, description="Seconds that uploads are kept after their last use."
    )
    max_upload_bytes: int = Field(
        default=100_000_000, ge=1, le=100_000_000, description="Size of the largest upload, in bytes."
    )
    max_media_bytes: int = Field(default=20_000_000_000, ge=1, description="Bytes of all media that a tenant may keep.")
    max_result_bytes: int = Field(
        default=100_000_000_000,
        ge=1,
        description="Bytes of results that a tenant may keep; beyond that its new jobs are refused.",
    )
    unsafe_media: bool = Field(
        default=False, description="Decode media even if the processes that do it cannot be confined."
    )
    allow_networks: CommaList = Field(
        default=(),
        description="Private networks that media may be fetched from and webhooks sent to: 10.0.0.0/8,127.0.0.1.",
    )
    blocked_words: Path | None = Field(default=None, description="File of words, one a line, that refuse a prompt.")
    prompt_check_url: str = Field(default="", description="Hook that is asked about every prompt.")
    prompt_expansion_url: str = Field(default="", description="Hook that rewrites the prompts of jobs that ask for it.")
    output_check_url: str = Field(default="", description="Hook that is asked about every finished video.")

    @property
    def load(self) -> LoadOptions:
        """How the model is loaded. What nobody gave is left to a model card."""
        options = {name: getattr(self, name) for name in OPTIONS}
        given = tuple(name for name, value in options.items() if value and name in self.model_fields_set)
        return LoadOptions(**options, given=given)

    def as_json(self) -> str:
        """Return the settings for other processes, which must know what nobody gave."""
        return self.model_dump_json(exclude=OPTIONS.keys() - self.model_fields_set)

    @property
    def weights(self) -> dict[str, float]:
        """The ``tenant_weights`` by tenant."""
        return {tenant: float(weight) for tenant, _, weight in (one.rpartition("=") for one in self.tenant_weights)}

    @property
    def cards(self) -> Path:
        """Of the model cards that have names."""
        return (self.models_dir or self.directory / "models").expanduser()

    @property
    def directory(self) -> Path:
        return self.data_dir.expanduser().resolve()

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.database_file}"

    @property
    def database_file(self) -> Path:
        """Of a service that has no other database."""
        return self.directory / "jobs.db"

    @property
    def own_database(self) -> bool:
        """Nobody else works on it: it lies in the data directory, which one service has locked."""
        return not self.database

    @property
    def may_migrate(self) -> bool:
        """Whether to bring the database's tables up to date where they are old."""
        return self.migrate == "auto"

    @property
    def artifacts_url(self) -> str:
        return self.artifact_store or str(self.directory / "artifacts")

    @property
    def scratch(self) -> Path:
        """Files in the making; emptied when a service starts."""
        return self.directory / "scratch"

    @property
    def logs(self) -> Path:
        """Of what runs in Ray, bounded and without prompts."""
        return self.directory / "logs"

    @property
    def snapshots_url(self) -> str:
        """Of segments in the making; the store adds a folder of its own."""
        return self.snapshot_store or str(self.directory)
