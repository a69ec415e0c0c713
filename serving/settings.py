"""Settings of a service, from the command line or ZOETROPE_* variables; passed to every process as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One service on one data directory."""

    model_config = SettingsConfigDict(env_prefix="ZOETROPE_", extra="ignore")

    model: str = "nano"
    engines: int = Field(default=1, ge=1, description="gangs of GPUs, each with the whole model")
    ranks: int = Field(default=1, ge=1, description="GPUs of an engine")
    cfg_groups: int = Field(default=1, ge=1, le=2, description="2: half of an engine's GPUs for each guidance branch")
    noise_experts: Literal["together", "apart"] = Field(
        default="together", description="apart: engines of their own for the two networks of a Wan2.2 A14B"
    )
    grpc: str = "127.0.0.1:50051"
    http: str = "127.0.0.1:8080"
    data_dir: Path = Path("~/.local/share/zoetrope")

    lease_seconds: float = Field(default=10.0, gt=0)
    max_running: int = Field(default=8, ge=1, description="jobs that a router works on at a time")
    max_attempts: int = Field(default=5, ge=1, description="claims after which a job that never ends is failed")
    max_queued: int = Field(default=1_000, ge=1, description="queued jobs beyond which new ones are refused")
    step_tokens: int = Field(default=100_000, ge=1, description="tokens that an engine takes in one step")
    snapshot_seconds: float = Field(default=10.0, gt=0, description="between snapshots, where they are cheap")
    snapshot_steps: int | None = Field(default=None, ge=1, description="steps between snapshots, whatever they cost")
    hang_seconds: float = Field(default=30.0, gt=0, description="the least after which a step counts as hung")
    kernels: str = Field(default="", description="implementations to take, such as attention=triton (kernels.backends)")

    @property
    def directory(self) -> Path:
        return self.data_dir.expanduser().resolve()

    @property
    def database(self) -> Path:
        return self.directory / "jobs.db"

    @property
    def scratch(self) -> Path:
        """Files in the making; emptied when a service starts."""
        return self.directory / "scratch"

    @property
    def snapshots(self) -> Path:
        """Of segments in the making; the store adds a folder of its own."""
        return self.directory

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"
