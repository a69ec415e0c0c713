"""Settings of a service, from the command line or ZOETROPE_* variables; passed to every process as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DAY = 86_400.0


class Settings(BaseSettings):
    """One service on one data directory."""

    model_config = SettingsConfigDict(env_prefix="ZOETROPE_", extra="ignore")

    model: str = "nano"
    family: str = Field(default="", description="the preset that the model's folder holds, where its files do not say")
    engines: int = Field(default=1, ge=1, description="gangs of GPUs, each with the whole model")
    ranks: int = Field(default=1, ge=1, description="GPUs of an engine")
    cfg_groups: int = Field(default=1, ge=1, le=2, description="2: half of an engine's GPUs for each guidance branch")
    noise_experts: Literal["together", "apart"] = Field(
        default="together", description="apart: engines of their own for the two networks of a Wan2.2 A14B"
    )
    data_dir: Path = Path("~/.local/share/zoetrope")
    database: str = Field(default="", description="postgresql://...; empty: a SQLite file in the data directory")
    artifact_store: str = Field(default="", description="s3://BUCKET/PREFIX; empty: a folder of the data directory")

    grpc: str = "127.0.0.1:50051"
    http: str = "127.0.0.1:8080"
    gateways: int = Field(default=1, ge=1, le=16, description="gateway processes; all but the first take free ports")
    public_url: str = Field(default="", description="how clients reach the HTTP side, where that is not its address")
    tls_cert: Path | None = Field(default=None, description="certificate chain, PEM")
    tls_key: Path | None = Field(default=None, description="its private key, PEM")
    tls_client_ca: Path | None = Field(default=None, description="whose certificates clients have to show, PEM")
    keys: Literal["auto", "required"] = Field(
        default="auto", description="auto: API keys are asked for once there is one, or where others can connect"
    )

    lease_seconds: float = Field(default=10.0, gt=0)
    max_running: int = Field(default=8, ge=1, description="jobs that a router works on at a time")
    max_attempts: int = Field(default=5, ge=1, description="claims without progress in a row, then a job is failed")
    max_queued: int = Field(
        default=2_000,
        ge=1,
        description="queued jobs beyond which new ones are refused; a tenant has half of what others leave free",
    )
    step_tokens: int = Field(default=100_000, ge=1, description="tokens that an engine takes in one step")
    snapshot_seconds: float = Field(default=10.0, gt=0, description="between snapshots, where they are cheap")
    snapshot_steps: int | None = Field(default=None, ge=1, description="steps between snapshots, whatever they cost")
    hang_seconds: float = Field(default=30.0, gt=0, description="the least after which a step counts as hung")
    silent_seconds: float = Field(
        default=30.0, ge=3, description="after which a process that gives no sign of life is replaced"
    )
    compile: bool = Field(default=False, description="use torch.compile for steps that it makes faster, as measured")
    kernels: str = Field(default="", description="implementations to take, such as attention=triton (kernels.backends)")
    threads: int = Field(
        default=0, ge=0, description="of each process that computes on the CPU; 0: as many as suit the model"
    )
    preview_steps: int = Field(default=5, ge=0, description="steps between pictures of a clip in the making; 0: none")

    retention_seconds: float = Field(default=DAY, gt=0, description="that a job and its files are kept after its end")
    max_retention_seconds: float = Field(default=7 * DAY, gt=0, description="that a request may ask for")
    media_retention_seconds: float = Field(default=DAY, gt=0, description="that uploads are kept after their last use")
    max_upload_bytes: int = Field(default=100_000_000, ge=1, le=100_000_000)
    max_media_bytes: int = Field(default=20_000_000_000, ge=1, description="of all media that a tenant keeps")
    max_result_bytes: int = Field(
        default=100_000_000_000, ge=1, description="of results that a tenant keeps, beyond which new jobs are refused"
    )
    unsafe_media: bool = Field(
        default=False, description="decode media even where the processes that do it cannot be confined"
    )
    allow_networks: tuple[str, ...] = Field(
        default=(), description="private networks (CIDR) that media may be fetched from and webhooks sent to"
    )
    blocked_words: Path | None = Field(default=None, description="a file of words, one a line, that refuse a prompt")
    prompt_check_url: str = Field(default="", description="asked about every prompt")
    prompt_expansion_url: str = Field(default="", description="rewrites prompts of jobs that ask for it")
    output_check_url: str = Field(default="", description="asked about every finished video")

    @property
    def directory(self) -> Path:
        return self.data_dir.expanduser().resolve()

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.directory / 'jobs.db'}"

    @property
    def own_database(self) -> bool:
        """Nobody else works on it: it lies in the data directory, which one service has locked."""
        return not self.database

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
    def snapshots(self) -> Path:
        """Of segments in the making; the store adds a folder of its own."""
        return self.directory
